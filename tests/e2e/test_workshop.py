"""The pages of the tab together: all settings, the queue, two browsers, a host that is started again."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from lora_atelier.config_files import parse_toml

pytestmark = pytest.mark.browser


def load(name):
    spec = importlib.util.spec_from_file_location(f"e2e_workshop_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


helpers = load("conftest")
TRAINING_MS = 300_000


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for at, color in enumerate(("red", "green", "blue", "orange")):
        noise = Image.effect_noise((128, 128), 40).convert("RGB")
        Image.blend(noise, Image.new("RGB", noise.size, color), 0.6).save(folder / f"{at}.png")
    return sorted(folder.iterdir())


def open_page(page, name):
    page.get_by_role("tab", name="LoRA Atelier").click()
    page.click(f"#atelier_page_{name}")


def prepare(page, pictures, name, steps=3):
    """Drop the pictures, give a name, and set all settings that make it short."""
    open_page(page, "new")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 4")
    page.fill("#atelier_name", name)
    open_page(page, "expert")
    page.wait_for_selector("#atelier_set_schedule_steps")
    page.fill("#atelier_set_schedule_steps", str(steps))
    page.fill("#atelier_set_sampling_prompts", "")
    page.fill("#atelier_set_dataset_batch_size", "1")
    said = "document.querySelector('#atelier_plan_expert').textContent"
    page.wait_for_function(f"{said}.includes('{steps} steps')")


def config_of(server, name):
    (run,) = [path for path in (server.data_dir / "runs").iterdir() if path.name.endswith(f"-{name}")]
    return parse_toml((run / "config.toml").read_text(encoding="utf-8"), "config")


def test_a_setting_is_found_changed_marked_undone_and_in_the_job(page, server, pictures):
    open_page(page, "new")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 4")
    open_page(page, "expert")
    page.wait_for_selector("#atelier_set_network_rank")
    shown = "[...document.querySelectorAll('.atelier-setting')].filter(e => e.offsetParent).length"
    everything = page.evaluate(shown)

    page.fill("#atelier_search", "min_snr")
    page.wait_for_function(f"{shown} === 1")
    page.fill("#atelier_search", "")
    page.fill("#atelier_set_network_rank", "many")
    row = page.locator('.atelier-setting[data-place="network.rank"]')
    row.locator(".is-problem").wait_for()
    page.fill("#atelier_set_network_rank", "5")
    row.locator(".is-problem").wait_for(state="detached")

    page.check("#atelier_only_changed")
    page.wait_for_function(f"{shown} === 1")
    assert "↺ 8" in row.inner_text()
    row.locator(".atelier-undo").click()
    page.wait_for_function(f"{shown} === 0")
    page.uncheck("#atelier_only_changed")
    assert everything > 50 and page.input_value("#atelier_set_network_rank") == "8"


def test_settings_that_do_not_apply_appear_when_they_do(page, pictures):
    open_page(page, "expert")
    page.wait_for_selector("#atelier_set_network_train_te")
    rate = page.locator('.atelier-setting[data-place="optimizer.te_learning_rate"]')
    rate.wait_for(state="hidden")

    page.check("#atelier_set_network_train_te")

    rate.wait_for(state="visible")


def test_settings_go_out_as_text_and_come_back_changed(page, pictures):
    open_page(page, "expert")
    page.wait_for_selector("#atelier_set_network_rank")
    page.click("#atelier_as_text")
    text = page.input_value("#atelier_text")
    assert "network_dim = 8" in text

    page.fill("#atelier_text", text.replace("network_dim = 8", "network_dim = 7"))
    page.click("#atelier_take_text")

    page.wait_for_function("document.querySelector('#atelier_set_network_rank').value === '7'")
    assert "1 setting differs" in page.inner_text("#atelier_import_said")


def test_a_preset_is_kept_and_chosen_again(page, server):
    open_page(page, "expert")
    page.wait_for_selector("#atelier_set_network_rank")
    page.fill("#atelier_set_network_rank", "9")
    page.wait_for_selector('.atelier-setting[data-place="network.rank"].is-changed')
    page.click("#atelier_keep_preset")
    page.fill("#atelier_preset_name", "細い <b>")
    page.keyboard.press("Enter")
    page.wait_for_selector("#atelier_preset option >> nth=1", state="attached")
    page.locator('.atelier-setting[data-place="network.rank"] .atelier-undo').click()
    page.wait_for_function("document.querySelector('#atelier_set_network_rank').value === '8'")

    page.select_option("#atelier_preset", index=1)

    page.wait_for_function("document.querySelector('#atelier_set_network_rank').value === '9'")
    (kept,) = (server.data_dir / "presets").iterdir()
    assert kept.name.startswith("細い") and "<" not in kept.name


def test_everything_can_be_reached_and_done_with_the_keyboard(page, pictures):
    open_page(page, "new")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelectorAll('.atelier-tile').length === 4")
    seen = []
    page.focus("#atelier_page_new")
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if seen[-1] == "atelier_train":
            break
    assert "atelier_train" in seen and "atelier_name" in seen and "atelier-tile-open" in seen

    page.focus(".atelier-tile-open")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    # What is not a word has a name for those who hear the page.
    unnamed = """() => [...document.querySelectorAll('#atelier_root button, #atelier_root input, #atelier_root select')]
        .filter(e => e.offsetParent && !e.textContent.trim())
        .filter(e => !e.getAttribute('aria-label') && !e.labels?.length)
        .map(e => e.outerHTML)"""
    assert page.evaluate(unnamed) == []


@pytest.fixture
def own_server(tmp_path):
    made = helpers.Server(tmp_path).start()
    yield made
    made.kill()


def test_three_trainings_run_one_after_the_other_seen_by_two_browsers_and_through_a_restart(
    browser, own_server, pictures
):
    for page in helpers.open_page(browser, own_server):
        for name in ("one", "two", "three"):
            prepare(page, pictures, name, steps=40 if name == "one" else 3)
            page.click("#atelier_train_expert")
            page.wait_for_selector(f"#atelier_run h2:has-text('{name}')")
        assert config_of(own_server, "three")["schedule"]["max_train_steps"] == 3

        other_context = browser.new_context(locale="ja-JP")
        other_context.set_default_timeout(90_000)
        other = other_context.new_page()
        other.goto(own_server.url)
        other.wait_for_selector("#atelier_prompt textarea")
        open_page(other, "queue")
        other.wait_for_function("document.querySelectorAll('#atelier_waiting li').length >= 2")
        names = "[...document.querySelectorAll('#atelier_waiting [data-run]')].map(e => e.textContent)"
        before = other.evaluate(names)
        other.click("#atelier_waiting li >> nth=1 >> [id^=atelier_up]")
        other.wait_for_function(f"JSON.stringify({names}) === JSON.stringify({before[::-1]!r})".replace("'", '"'))

        open_page(page, "queue")
        page.wait_for_function(f"JSON.stringify({names}) === JSON.stringify({before[::-1]!r})".replace("'", '"'))
        own_server.kill()
        page.wait_for_selector("text=The program does not answer.")
        own_server.start()

        finished = "document.querySelectorAll('#atelier_runs .is-finished').length === 3"
        page.wait_for_function(finished, timeout=TRAINING_MS)
        other.wait_for_function(finished, timeout=TRAINING_MS)
        other_context.close()
