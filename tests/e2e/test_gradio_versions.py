"""The same tab on the Gradios of the webuis, old and new, in a real browser: served, driven, and closed to strangers.

The old ones have environments of their own (``install.py test`` makes them); the newest is this one.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from tests.e2e.conftest import free_port

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.41.2", "3.43.2", "4.40.0", "newest")
SERVER = Path(__file__).with_name("serve_gradio.py")


def python_of(version):
    if version == "newest":
        return Path(sys.executable)
    folder = ROOT / f".venv-gradio-{version}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        if "gradio" in os.environ.get("LORA_ATELIER_REQUIRE", ""):
            pytest.fail(f"there is no environment with Gradio {version}, and LORA_ATELIER_REQUIRE asks for it")
        pytest.skip(f"no environment with Gradio {version}: install.py test makes it")
    return python


@pytest.fixture(scope="module", params=VERSIONS)
def webui(request, tmp_path_factory):
    """The address of a page of this Gradio behind a login, and its data folder."""
    port, data = free_port(), tmp_path_factory.mktemp(f"gradio {request.param}")
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "LANG": "C.UTF-8"}
    environment.pop("PYTHONPATH", None)
    with (data / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [str(python_of(request.param)), str(SERVER), str(port), str(data), "me", "secret"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    url = f"http://127.0.0.1:{port}/"
    deadline = time.monotonic() + 120
    while "gradio" not in (said := (data / "server.log").read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.3)
    yield url, data
    process.kill()
    process.wait()


@pytest.fixture
def page(browser, webui):
    url, _ = webui
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    context.set_default_timeout(60_000)
    errors = []
    opened = context.new_page()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(url)
    opened.get_by_label("username").fill("me")
    opened.get_by_label("password").fill("secret")
    opened.get_by_role("button", name="Login").click()
    opened.wait_for_selector("#txt2img_prompt")
    tab = "has-text('LoRA Atelier')"
    # Old Gradios give their tabs no role, the newest has each twice.
    opened.locator(f"[role=tab]:{tab}, .tab-nav button:{tab}").first.click()
    opened.wait_for_selector("#atelier_train")
    yield opened
    context.close()
    assert [error for error in errors if "atelier" in error.lower()] == []


def test_without_the_hosts_login_nothing_is_told_or_done(webui):
    url, _ = webui

    for path, method in (("session", "GET"), ("runs", "GET"), ("options", "GET"), ("uploads", "POST")):
        request = urllib.request.Request(f"{url}lora-atelier/v1/{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code == 401


def test_pictures_become_a_training_and_its_result_in_three_clicks(page, webui, tmp_path):
    for at, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (96, 96), color).save(tmp_path / f"{at}.png")

    page.set_input_files("#atelier_files", sorted(tmp_path.glob("*.png")))
    page.wait_for_function("document.querySelector('#atelier_plan').textContent.includes('3 pictures')")
    page.click("#atelier_train")

    page.wait_for_selector("#atelier_result")
    assert "<lora:" in page.inner_text("#atelier_result")
    assert len(list((webui[1] / "loras").glob("*.safetensors"))) >= 1
    page.click("#atelier_page_queue")
    page.wait_for_selector("#atelier_runs .is-finished")


def test_all_settings_and_the_dark_theme_look_as_everywhere(page):
    page.click("#atelier_page_expert")
    page.wait_for_selector("#atelier_set_network_rank")
    page.fill("#atelier_set_network_rank", "0")
    page.wait_for_selector('.atelier-setting[data-place="network.rank"] .is-problem')

    # What a host says of bare elements must not move ours.
    looks = page.evaluate(
        """() => { const b = document.querySelector('#atelier_train_expert'), s = getComputedStyle(b);
        const i = getComputedStyle(document.querySelector('#atelier_set_network_rank'));
        return [s.backgroundColor, s.margin, s.borderRadius, i.borderRadius, i.margin] }"""
    )
    assert looks == ["rgb(200, 71, 43)", "0px", "10px", "10px", "0px"]
    page.evaluate("document.body.classList.add('dark')")
    dark = page.evaluate("getComputedStyle(document.querySelector('.atelier-card')).backgroundColor")
    assert dark == "rgb(33, 31, 29)"


def test_a_dark_theme_that_has_no_class_for_it_is_dark_all_the_same(page):
    """SD.Next's themes are style sheets of their own that only paint the page, and bound every button's width."""
    style = "body, .gradio-container { background: #111 !important } button { max-width: 40px }"
    page.add_style_tag(content=style)
    page.wait_for_selector("#atelier_root.is-dark")

    # Newer Gradios let colours fade.
    page.wait_for_function(
        """() => { const colour = (wanted, what) => getComputedStyle(document.querySelector(wanted))[what];
        return colour('#atelier_page_new', 'color') === 'rgb(241, 236, 231)'
            && colour('.atelier-card', 'backgroundColor') === 'rgb(33, 31, 29)' }"""
    )
    assert page.evaluate("document.querySelector('#atelier_train').getBoundingClientRect().width") > 200
