"""Against a real webui: ``LORA_ATELIER_WEBUI_DIR=… python -m pytest -m host tests/webui``; takes minutes on a CPU."""

import os
import shutil
import time

import pytest

pytestmark = pytest.mark.host

LORA = "<lora:one:0.8>"


def test_a_lora_changes_the_picture_and_leaves_nothing_behind(webui, plain):
    changed = webui.draw(f"a cat {LORA}")

    assert changed.difference(plain) > 5
    assert webui.draw("a cat <lora:one:0>").hash == plain.hash
    assert webui.draw("a cat").hash == plain.hash


def test_another_weight_is_another_picture_and_the_same_one_the_same(webui, plain):
    first = webui.draw(f"a cat {LORA}")

    assert webui.draw("a cat <lora:one:0.5>").hash not in (first.hash, plain.hash)
    assert webui.draw(f"a cat {LORA}").hash == first.hash


@pytest.mark.parametrize("tag", ["<lora:one:0.8>", "<lora:text:1>"])
def test_the_webuis_own_loader_draws_the_same_within_rounding(webui, plain, tag):
    ours = webui.draw(f"a cat {tag}")
    webui.set(atelier_loader="webui")
    theirs = webui.draw(f"a cat {tag}")
    clean = webui.draw("a cat")
    webui.draw(f"a cat {tag}")
    webui.set(atelier_loader="LoRA Atelier")

    assert ours.difference(theirs) <= 3
    assert theirs.difference(plain) > 5
    assert clean.hash == plain.hash
    assert webui.draw("a cat").hash == plain.hash


@pytest.mark.parametrize("name", ["peft", "dora"])
def test_files_that_not_every_webui_can_load_work(webui, plain, name):
    assert webui.draw(f"a cat <lora:{name}:1>").difference(plain) > 5


def test_two_loras_are_the_same_in_any_order(webui, plain):
    both = webui.draw("a cat <lora:one:0.8> <lora:text:0.4>")

    assert webui.draw("a cat <lora:text:0.4> <lora:one:0.8>").hash == both.hash


def test_the_hash_stands_in_the_pictures_text(webui, plain):
    text = webui.draw(f"a cat {LORA}").text

    assert text.startswith(f"a cat {LORA}")
    assert "ora hashes" in text


def test_a_lora_trained_again_under_its_name_is_seen(webui, plain):
    path = webui.lora_dir / "again.safetensors"
    shutil.copy(webui.lora_dir / "one.safetensors", path)
    first = webui.draw("a cat <lora:again:1>")

    shutil.copy(webui.lora_dir / "dora.safetensors", path)

    assert webui.draw("a cat <lora:again:1>").hash == webui.draw("a cat <lora:dora:1>").hash != first.hash


def test_what_can_not_be_applied_is_left_out_and_the_rest_is_applied(webui, plain):
    changed = webui.draw(f"a cat {LORA}")

    assert webui.draw(f"a cat {LORA} <lora:nobody:1> <lora:broken:1> <lora:one:x>").hash == changed.hash


def test_every_picture_of_a_batch_has_the_lora(webui, plain):
    changed = webui.draw(f"a cat {LORA}")

    batch = webui.draw(f"a cat {LORA}", batch_size=2)

    assert len(batch.pictures) >= 2
    assert batch.difference(changed) <= 3


def test_the_hires_pass_has_the_lora(webui, plain):
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.6,
             "hr_second_pass_steps": 2, "hr_additional_modules": ["Use same choices"]}  # fmt: skip

    assert webui.draw(f"a cat {LORA}", **hires).difference(webui.draw("a cat", **hires)) > 5
    assert webui.draw("a cat").hash == plain.hash


def test_checkpoints_are_changed_back_and_forth_clean(webui, plain):
    changed = webui.draw(f"a cat {LORA}")
    webui.set(sd_model_checkpoint="second.safetensors")
    other = webui.draw("a cat")
    webui.draw(f"a cat {LORA}")

    webui.set(sd_model_checkpoint="first.safetensors")
    assert webui.draw("a cat").hash == plain.hash
    assert webui.draw(f"a cat {LORA}").hash == changed.hash

    webui.set(sd_model_checkpoint="second.safetensors")
    assert webui.draw("a cat").hash == other.hash != plain.hash


def test_a_lora_is_trained_from_the_webui_and_lies_in_its_folder(webui):
    from tests.webui.install import ROOT

    form = {
        "folder": str(ROOT / "examples" / "figure"),
        "base_model": str(ROOT / "extension" / "lora_atelier" / "embedded" / "base_model"),
        "name": "from the webui",
        "trigger": "zuzu",
        "goal": "object",
        "whose": "mine",
        "quality": "draft",
        "changes": {"schedule.steps": 4, "sampling.sample_at_first": False},
    }

    answer = webui.ours("POST", "runs", form)
    assert "run" in answer, answer
    deadline = time.monotonic() + 600
    while (run := webui.ours("GET", f"runs/{answer['run']['id']}"))["status"] == "running":
        assert time.monotonic() < deadline
        time.sleep(2)

    assert run["status"] == "finished"
    assert list(webui.lora_dir.glob("from*webui*.safetensors"))
    if webui.kind != "sdnext":
        webui.call("POST", "/sdapi/v1/refresh-loras", {})
        assert any("webui" in each["name"] for each in webui.call("GET", "/sdapi/v1/loras"))


@pytest.mark.browser
def test_the_tab_is_there_also_after_three_reloads_of_the_page(webui, plain, tmp_path):
    api = pytest.importorskip("playwright.sync_api")
    changed = webui.draw(f"a cat {LORA}")
    browser_path = os.environ.get("LORA_ATELIER_CHROMIUM", "/usr/bin/chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for _ in range(3 if webui.kind != "sdnext" else 1):  # SD.Next restarts its whole process instead
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.goto(f"http://127.0.0.1:{webui.port}/", timeout=180_000)
            page.wait_for_selector("button:has-text('LoRA Atelier')", timeout=180_000)
            page.wait_for_timeout(2000)
            page.locator("button", has_text="LoRA Atelier").first.click()
            page.get_by_text("Drop pictures here").wait_for(timeout=60_000)
            if webui.kind != "sdnext":
                page.evaluate("gradioApp().querySelector('#settings_restart_gradio').click()")
                page.wait_for_timeout(3000)
                page.close()
                webui.wait()
                assert webui.draw("a cat").hash == plain.hash
                assert webui.draw(f"a cat {LORA}").hash == changed.hash
        browser.close()


def test_nothing_was_installed_into_the_webuis_environment(webui):
    assert webui.packages() == webui.packages_before
