"""Against a real webui: ``LORA_ATELIER_WEBUI_DIR=… python -m pytest -m host tests/webui``; takes minutes on a CPU."""

import os
import shutil
import urllib.error
from pathlib import Path

import pytest
from tests.webui import kinds

# The formats' names without torch, which only makes them.
FORMATS = ("locon", "loha", "lokr", "glora", "full", "ia3", "oft", "diag-oft", "boft", "dora",
           "peft", "processors", "comfyui", "ldm-names", "lycoris")  # fmt: skip
HERE = kinds.of(Path(os.environ.get("LORA_ATELIER_WEBUI_DIR") or "."))
LORA = "<lora:one:0.8>"

pytestmark = pytest.mark.host


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
def test_the_webuis_own_loader_draws_the_same_within_rounding_and_says_the_same(webui, plain, tag):
    ours = webui.draw(f"a cat {tag}")
    webui.set(atelier_loader="webui")
    theirs = webui.draw(f"a cat {tag}")
    clean = webui.draw("a cat")
    webui.draw(f"a cat {tag}")
    webui.set(atelier_loader="LoRA Atelier")

    assert ours.difference(theirs) <= webui.kind.rounding
    assert theirs.difference(plain) > 5
    assert clean.hash == plain.hash
    assert webui.draw("a cat").hash == plain.hash
    assert ours.said("LoRA hashes") == theirs.said("LoRA hashes") != ""


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_dialect_draws_what_the_webuis_own_loader_draws_of_its_plain_change(webui, plain, name):
    ours = webui.draw(f"a cat <lora:{name}:1>")

    assert ours.difference(plain) > 5
    assert ours.difference(webui.theirs(f"a cat <lora:{name}-plain:1>")) <= webui.kind.rounding


def test_two_loras_are_the_same_in_any_order(webui, plain):
    both = webui.draw("a cat <lora:one:0.8> <lora:text:0.4>")

    assert both.hash not in (plain.hash, webui.draw(f"a cat {LORA}").hash)
    assert webui.draw("a cat <lora:text:0.4> <lora:one:0.8>").hash == both.hash


def test_a_pasted_text_finds_the_lora_under_its_name_here(webui, plain):
    if webui.kind.restarts:
        pytest.skip("SD.Next's API reads no pasted text")
    text = webui.draw(f"a cat {LORA}").text
    elsewhere = text.replace("<lora:one:", "<lora:theirs:").replace('hashes: "one:', 'hashes: "theirs:')
    assert elsewhere.count("theirs") == 2

    read = webui.call("POST", "/sdapi/v1/png-info", {"image": _picture_that_says(elsewhere)})

    assert read["parameters"]["Prompt"] == f"a cat {LORA}"


def test_a_lora_trained_again_under_its_name_is_seen(webui, plain):
    path = webui.lora_dir / "again.safetensors"
    shutil.copy(webui.lora_dir / "one.safetensors", path)
    first = webui.draw("a cat <lora:again:1>")

    shutil.copy(webui.lora_dir / "other.safetensors", path)

    assert webui.draw("a cat <lora:again:1>").hash == webui.draw("a cat <lora:other:1>").hash != first.hash


def test_what_can_not_be_applied_is_left_out_and_the_rest_is_applied(webui, plain):
    changed = webui.draw(f"a cat {LORA}")

    assert webui.draw(f"a cat {LORA} <lora:nobody:1> <lora:broken:1> <lora:one:x>").hash == changed.hash


def test_every_picture_of_a_batch_has_the_lora(webui, plain):
    changed = webui.draw(f"a cat {LORA}")

    batch = webui.draw(f"a cat {LORA}", batch_size=2)

    assert len(batch.pictures) >= 2
    # The second one has a seed of its own; a webui may put a grid of both before them.
    assert min(changed.difference(batch, at) for at in range(len(batch.pictures))) <= 3


def test_the_hires_pass_has_the_lora(webui, plain):
    hires = webui.kind.hires

    assert webui.draw(f"a cat {LORA}", **hires).difference(webui.draw("a cat", **hires)) > 5
    assert webui.draw("a cat").hash == plain.hash


def test_a_refiner_that_takes_over_in_the_middle_has_the_lora(webui, plain):
    if webui.kind.restarts:
        pytest.skip("SD.Next's refiner is a second pass")
    refined = {"steps": 4, "refiner_checkpoint": webui.kind.checkpoint("second"), "refiner_switch_at": 0.5}
    without = webui.draw("a cat", **refined)
    assert without.difference(webui.draw("a cat", steps=4)) > 5

    changed = webui.draw(f"a cat {LORA}", **refined)

    assert changed.difference(without) > 5
    assert changed.difference(webui.theirs(f"a cat {LORA}", **refined)) <= webui.kind.rounding
    assert webui.draw("a cat", **refined).hash == without.hash
    assert webui.draw("a cat").hash == plain.hash


def test_a_word_inside_of_a_lora_file_is_as_one_in_the_folder_of_embeddings(webui, plain):
    """The same vectors are called by either name; without its LoRA the one inside of it is a word like others."""
    filed = webui.draw(f"a filedword {LORA}")
    plain_word = webui.draw(f"a keptword {LORA}")

    assert filed.difference(plain_word) > 5
    assert webui.draw("a keptword <lora:bundle:0.8>").hash == filed.hash
    assert webui.draw(f"a keptword {LORA}").hash == plain_word.hash
    assert webui.draw("a cat").hash == plain.hash


def test_checkpoints_are_changed_back_and_forth_clean(webui, plain):
    changed = webui.draw(f"a cat {LORA}")
    webui.choose("second")
    other = webui.draw("a cat")
    assert webui.draw(f"a cat {LORA}").difference(other) > 5

    webui.choose("first")
    assert webui.draw("a cat").hash == plain.hash
    assert webui.draw(f"a cat {LORA}").hash == changed.hash

    webui.choose("second")
    assert webui.draw("a cat").hash == other.hash != plain.hash


def test_saved_pictures_credit_are_compared_and_logged(webui, plain):
    from benchmarks import drawings
    from PIL import Image

    from lora_atelier.adapters import file
    from lora_atelier.rights import calibration, references

    path = webui.lora_dir / "credited.safetensors"
    one = file.read(webui.lora_dir / "one.safetensors")
    said = {"ss_output_name": "credited", "modelspec.author": "Hana"}
    model_hash = file.write(path, one.tensors, {**one.metadata, **said})
    drawn = webui.draw("a cat <lora:credited:0.8>")
    pictures = [drawn.pictures[0], drawings.draw("street", 0, 128)]
    prepared = [calibration.prepare(f"{n}.png", str(n), each) for n, each in enumerate(pictures)]
    calibration.build(model_hash, prepared).write(references.beside(path))
    before = set(webui.data.rglob("*.png"))

    again = webui.draw("a cat <lora:credited:0.8>", save_images=True)
    webui.draw("a cat", save_images=True)

    assert again.said("Credits") == "credited by Hana"
    files = set(webui.data.rglob("*.png")) - before
    credited = [each for each in files if "Hana" in str(Image.open(each).info.get("XML:com.adobe.xmp"))]
    assert len(credited) == 1
    entry = webui.ours("GET", "guard?most=1")["pictures"][0]
    assert entry["picture"] == credited[0].relative_to(webui.data).as_posix()
    if webui.kind.widths:  # the embedded base model's pictures are too plain to be compared
        assert (entry["verdict"], entry["near"]["picture"]) == ("copy-like", "0.png")
    assert [(each["name"], each["unet"]) for each in entry["loras"]] == [("credited", 0.8)]


def test_a_lora_is_trained_from_the_webui_and_lies_in_its_folder(webui, plain):
    from tests.webui import trainings

    run = trainings.train(webui, "from the webui", steps=4)

    assert trainings.ended(webui, run)["status"] == "finished"
    assert list(webui.lora_dir.glob("from*webui*.safetensors"))
    if not webui.kind.restarts:
        webui.call("POST", "/sdapi/v1/refresh-loras", {})
        assert any("webui" in each["name"] for each in webui.call("GET", "/sdapi/v1/loras"))
    assert webui.draw("a cat").hash == plain.hash


@pytest.mark.browser
def test_sentences_stand_below_the_picture(webui, plain, browser):
    from tests.webui import pages

    page = pages.open_page(browser, webui)
    said = pages.generate(page, webui, f"a cat {LORA} <lora:nobody:1> <lora:broken:1>")
    pages.keep(page, webui, "picture")

    assert "no LoRA called “nobody”" in said
    assert "broken" in said


@pytest.mark.browser
def test_the_tab_is_there_also_after_three_reloads_of_the_page(webui, plain, browser):
    from tests.webui import pages

    changed = webui.draw(f"a cat {LORA}")
    for _ in range(1 if webui.kind.restarts else 3):
        page = pages.open_page(browser, webui)
        pages.open_tab(page)
        pages.keep(page, webui, "tab")
        if webui.kind.restarts:
            page.close()
        else:
            pages.reload(page, webui)
        assert webui.draw("a cat").hash == plain.hash
        assert webui.draw(f"a cat {LORA}").hash == changed.hash


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_is_reloaded_ten_times_while_a_training_runs(webui, plain, browser):
    if webui.kind.restarts:
        pytest.skip("SD.Next restarts its whole process")
    from tests.webui import pages, trainings

    run = trainings.train(webui, "while reloading", steps=4000)
    for _ in range(10):
        pages.reload(pages.open_page(browser, webui), webui)
        assert webui.ours("GET", f"runs/{run}")["status"] == "running"
    trainings.stop(webui, run)
    assert webui.draw("a cat").hash == plain.hash


@pytest.mark.parametrize("name", sorted(HERE.can_not_load))
def test_the_webuis_own_loader_fails_at_files_that_ours_loads(webui, plain, name):
    """It leaves them out, makes something else of them or fails. If not it has learned them: change the table."""
    ours = webui.draw(f"a cat <lora:{name}:1>")
    try:
        assert ours.difference(webui.theirs(f"a cat <lora:{name}:1>")) > webui.kind.rounding
    except urllib.error.HTTPError as error:
        assert error.code == 500
    webui.theirs("a cat <lora:full:1>")  # heals what a failed merge has left behind
    webui.theirs("a cat")


def test_nothing_was_installed_into_the_webuis_environment(webui):
    assert webui.packages() == webui.packages_before


def _picture_that_says(text):
    import base64
    import io

    from PIL import Image, PngImagePlugin

    info, made = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(made, "PNG", pnginfo=info)
    return base64.b64encode(made.getvalue()).decode()
