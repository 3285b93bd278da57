"""A real Chromium against the embedded host in a process of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from lora_atelier.events import Appender, Saved, Started
from lora_atelier.jobs.run_dir import Job, RunDir

ROOT = Path(__file__).parents[2]
BASE_MODEL = ROOT / "extension" / "lora_atelier" / "embedded" / "base_model"
# On two busy cores everything takes its time.
PATIENCE_MS = 90_000
WEBUI_SERVER = Path(__file__).with_name("serve_gradio.py")


def missing_browser():
    if not chromium():
        return "Chromium is not installed"
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        return "playwright is not installed"
    return None


def chromium():
    return next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
    )


@pytest.fixture(scope="session")
def browser():
    reason = missing_browser()
    if reason:
        if "browser" in os.environ.get("LORA_ATELIER_REQUIRE", ""):
            pytest.fail(f"{reason}, and LORA_ATELIER_REQUIRE asks for a browser")
        pytest.skip(f"no browser test: {reason}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        yield launched
        launched.close()


class Server:
    """The embedded host as ``python -m lora_atelier demo`` serves it."""

    def __init__(self, data_dir, model=BASE_MODEL):
        self.data_dir, self.model = data_dir, model
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process = None

    def start(self):
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT / "extension"),
            "OMP_WAIT_POLICY": "PASSIVE",
            "LANG": "C.UTF-8",
        }
        self.log = (self.data_dir / "server.log").open("ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "lora_atelier", "demo", "--no-browser", "--port", str(self.port)),
                *("--data-dir", str(self.data_dir), "--model", str(self.model)),
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url + "lora-atelier/v1/session", timeout=5).close()
                return self
            except OSError:
                assert self.process.poll() is None, (self.data_dir / "server.log").read_text(encoding="utf-8")
                time.sleep(0.3)
        raise AssertionError("the embedded host did not answer within two minutes")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.log.close()
            self.process = None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Server(tmp_path_factory.mktemp("atelier data")).start()
    yield made
    made.kill()


@pytest.fixture
def page(browser, server):
    yield from open_page(browser, server)


def open_page(browser, server, **options):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **{"locale": "en-US", **options})
    context.set_default_timeout(PATIENCE_MS)
    errors = []
    opened = context.new_page()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.url)
    opened.wait_for_selector("#atelier_prompt textarea")
    yield opened
    context.close()
    assert errors == []


# ---------------------------------------------------------------------- a webui's page, trainings by the fake trainer


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
                [sys.executable, str(WEBUI_SERVER), str(self.port), str(self.data)],
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


@pytest.fixture(scope="session")
def webui(tmp_path_factory):
    made = Webui(tmp_path_factory.mktemp("webui"))
    yield made
    made.kill()


def open_tab(browser, webui, **options):
    """Our tab in a new browser."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **options})
    context.set_default_timeout(PATIENCE_MS)
    opened = context.new_page()
    opened.goto(webui.url)
    opened.locator("[role=tab]:has-text('LoRA Atelier')").first.click()
    opened.wait_for_selector("#atelier_page_new")
    yield opened
    context.close()


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
