"""What can go wrong around a training, as the page says it: what happened, why, what to do, and the button for it."""

import time

import pytest
from PIL import Image
from tests.e2e.conftest import open_tab

from lora_atelier.errors import DiskFullError, NotEnoughMemoryError
from lora_atelier.events import Appender, Failed, Stepped
from lora_atelier.jobs.run_dir import RunDir

pytestmark = pytest.mark.browser

MEMORY = NotEnoughMemoryError(
    "There is not enough memory for this training.",
    why="{reason}.",
    todo="Choose a smaller batch or resolution, turn gradient checkpointing on, or close other programs.",
    reason="CUDA out of memory. Tried to allocate 2.00 GiB",
)
DISK = DiskFullError("The disk is full.", todo="Make room, then press Resume: it goes on from the last state.")


@pytest.fixture
def page(browser, webui):
    yield from open_tab(browser, webui)


@pytest.fixture
def pictures(tmp_path):
    for at, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (96, 96), color).save(tmp_path / f"{at}.png")
    return sorted(tmp_path.glob("*.png"))


def show(page, name):
    page.click("#atelier_page_queue")
    page.get_by_role("button", name=name).first.click()
    page.wait_for_selector(f"#atelier_run h2:has-text('{name}')")


def error_of(page):
    page.wait_for_selector("#atelier_run .atelier-error")
    return page.inner_text("#atelier_run .atelier-error")


def test_a_killed_trainer_is_told_with_the_step_it_goes_on_from_and_a_button(page, recorded):
    recorded("killed", Stepped(
        step=60, steps=100, loss=0.1, learning_rate=1e-4, seconds_per_step=0.1, seconds_left=4.0
    ))  # fmt: skip

    show(page, "killed")

    said = error_of(page)
    assert "ended without a last word" in said and "ended from outside" in said and "from step 40" in said
    assert page.inner_text("#atelier_resume") == "Resume"


def test_memory_that_ran_out_has_a_button_that_resumes_with_less(page, webui, recorded, pictures):
    page.click("#atelier_page_new")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")
    page.fill("#atelier_name", "large")
    page.click("#atelier_train")
    page.wait_for_selector("#atelier_result")
    run = RunDir(next((webui.data / "runs").glob("*-large")))
    assert "gradient_checkpointing = true" not in run.config_path.read_text(encoding="utf-8")
    Appender(run.events_path).add(Failed(error=MEMORY.to_json()))
    page.reload()
    page.locator("[role=tab]:has-text('LoRA Atelier')").first.click()
    show(page, "large")

    said = error_of(page)
    assert "not enough memory" in said and "2.00 GiB" in said and "gradient checkpointing" in said
    page.click("#atelier_less_memory")

    page.wait_for_selector("#atelier_result")
    assert "gradient_checkpointing = true" in run.config_path.read_text(encoding="utf-8")


def test_a_full_disk_says_to_make_room_and_then_to_resume(page, recorded):
    recorded("full", Failed(error=DISK.to_json()))

    show(page, "full")

    said = error_of(page)
    assert "The disk is full." in said and "Make room" in said
    assert page.is_visible("#atelier_resume") and not page.is_visible("#atelier_less_memory")


def test_a_missing_environment_says_what_to_type_and_the_pictures_stay(page, webui, pictures):
    (webui.data / "no environment").touch()
    page.click("#atelier_page_new")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")

    page.click("#atelier_train")

    page.wait_for_selector(".atelier-plan-card .atelier-error")
    said = page.inner_text(".atelier-plan-card .atelier-error")
    assert "environment is missing" in said and "never touched" in said and "python install.py trainer" in said
    (webui.data / "no environment").unlink()
    page.click("#atelier_train")
    page.wait_for_selector("#atelier_result")


def test_a_host_without_a_model_says_where_to_put_one_and_looks_again(page, webui):
    (webui.data / "no model").touch()
    page.reload()
    page.locator("[role=tab]:has-text('LoRA Atelier')").first.click()

    page.wait_for_selector("#atelier_no_model")
    said = page.inner_text("#atelier_no_model")
    assert "no base model" in said and ".safetensors" in said
    page.click("#atelier_train")
    page.wait_for_selector(".atelier-said:has-text('no pictures')")
    (webui.data / "no model").unlink()
    page.click("#atelier_look_again")
    page.wait_for_selector("#atelier_base_model option", state="attached")
    assert page.locator("#atelier_no_model").count() == 0


def test_a_browser_that_was_offline_goes_on_by_itself(page, recorded):
    run = recorded("watched", Stepped(
        step=60, steps=100, loss=0.1, learning_rate=1e-4, seconds_per_step=0.1, seconds_left=4.0
    ))  # fmt: skip
    run.started_path.write_text(f"{time.time()} {run.events_path.stat().st_size}\n", encoding="ascii")  # on its way
    show(page, "watched")
    page.wait_for_selector("#atelier_stop")

    page.context.set_offline(True)
    page.wait_for_selector("#atelier_run .atelier-error")
    assert "no connection" in error_of(page) and "A training goes on" in error_of(page)
    Appender(run.events_path).add(Failed(error=DISK.to_json()))
    page.context.set_offline(False)

    page.wait_for_selector("#atelier_run .atelier-error:has-text('The disk is full.')")
    assert "no connection" not in page.inner_text("#atelier_run")


def test_a_form_that_was_filled_in_offline_gets_its_plan_when_the_program_answers(page, pictures):
    page.click("#atelier_page_new")
    page.set_input_files("#atelier_files", pictures)
    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")

    page.context.set_offline(True)
    page.fill("#atelier_name", "later")
    page.wait_for_selector(".atelier-plan-card .atelier-error:has-text('no connection')")
    page.context.set_offline(False)

    page.wait_for_selector(".atelier-plan-card .atelier-error", state="detached")
    page.wait_for_selector(".atelier-facts:has-text('later')")
    assert page.input_value("#atelier_name") == "later"
