"""The trainer's environment made from the page, by an installer that only says what a real one says."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.e2e.conftest import free_port

pytestmark = pytest.mark.browser

SERVER = Path(__file__).with_name("serve_gradio.py")


@pytest.fixture
def served(tmp_path):
    """The address of a webui's page without an environment, and its data folder."""
    port, data = free_port(), tmp_path / "data"
    data.mkdir()
    (data / "no environment").touch()
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8"}
    with (tmp_path / "server.log").open("wb") as log:
        command = [sys.executable, str(SERVER), str(port), str(data)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    deadline = time.monotonic() + 120
    while "gradio" not in (said := (tmp_path / "server.log").read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}/", data
    process.kill()
    process.wait()


def test_it_is_made_by_a_button_seen_on_its_way_stopped_and_gone_on_with(browser, served):
    url, data = served
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="ja-JP")
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(url)
    page.locator("[role=tab]:has-text('LoRA Atelier')").first.click()
    card = page.locator("#atelier_environment")

    page.wait_for_selector("#atelier_make_environment")
    assert "1〜5 GB" in card.inner_text()
    page.click("#atelier_make_environment")
    page.wait_for_function("document.querySelector('#atelier_environment').textContent.includes('25 %')")
    assert "torch 2.13.0" in card.inner_text()

    page.reload()  # it goes on without anybody who looks
    page.locator("[role=tab]:has-text('LoRA Atelier')").first.click()
    page.click("#atelier_stop_environment")
    page.wait_for_selector("#atelier_make_environment")
    assert "停止しました" in card.inner_text()

    (data / "go on").touch()
    page.click("#atelier_make_environment")
    page.wait_for_function("document.querySelector('#atelier_environment').textContent.includes('学習を始められます')")

    page.click("#atelier_page_queue")
    page.click("#atelier_machine summary")
    page.wait_for_selector("#atelier_findings li")
    assert page.locator("#atelier_findings li").count() == 2
    context.close()
