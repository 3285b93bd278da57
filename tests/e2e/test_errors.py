"""What can go wrong around a training, as the page says it: what happened, why, what to do, and the button for it."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from tests.e2e.conftest import free_port

from lora_atelier.errors import DiskFullError, NotEnoughMemoryError
from lora_atelier.events import Appender, Failed, Saved, Started, Stepped
from lora_atelier.jobs.run_dir import Job, RunDir

pytestmark = pytest.mark.browser

SERVER = Path(__file__).with_name("serve_gradio.py")
MEMORY = NotEnoughMemoryError(
    "There is not enough memory for this training.",
    why="{reason}.",
    todo="Choose a smaller batch or resolution, turn gradient checkpointing on, or close other programs.",
    reason="CUDA out of memory. Tried to allocate 2.00 GiB",
)
DISK = DiskFullError("The disk is full.", todo="Make room, then press Resume: it goes on from the last state.")


class Webui:
    """A page of the newest Gradio with our tab, its data folder, and its process."""

    def __init__(self, data):
        self.data, self.port = data, free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self):
        environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8"}
        with (self.data / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER), str(self.port), str(self.data)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{self.url}lora-atelier/v1/session", timeout=5).close()
                return
            except OSError:
                said = (self.data / "server.log").read_text(encoding="utf-8")
                assert self.process.poll() is None and time.monotonic() < deadline, said
                time.sleep(0.2)

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    made = Webui(tmp_path_factory.mktemp("webui"))
    yield made
    made.kill()


@pytest.fixture
def page(browser, webui):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.goto(webui.url)
    opened.locator("[role=tab]:has-text('LoRA Atelier')").first.click()
    opened.wait_for_selector("#atelier_page_new")
    yield opened
    context.close()


@pytest.fixture
def pictures(tmp_path):
    for at, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (96, 96), color).save(tmp_path / f"{at}.png")
    return sorted(tmp_path.glob("*.png"))


def record(webui, name, *said, **words):
    """The directory of a run that said this and ended."""
    run = RunDir(webui.data / "runs" / f"20260101-000000-abcd-{name}")
    run.path.mkdir(parents=True)
    job = {"goal": "object", "trigger": "x", "whose": "mine", "base_model": "", "pictures": ""}
    lora_dir = str(webui.data / "loras")
    Job(id=run.id, name=name, created=time.time(), lora_dir=lora_dir, **{**job, **words}).write(run.job_path)
    run.mark_started()
    log = Appender(run.events_path)
    for event in (Started(steps=100), Saved(step=40, file="", state="step-000040"), *said):
        log.add(event)
    return run


@pytest.fixture
def recorded(webui):
    made = []

    def make(*args, **words):
        made.append(record(webui, *args, **words))
        return made[-1]

    yield make
    for run in made:
        shutil.rmtree(run.path, ignore_errors=True)


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
