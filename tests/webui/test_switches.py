"""What a webui can be started with, each in a process of its own: what works, and what is refused for what reason."""

import http.server
import os
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]
SESSION = "/lora-atelier/v1/session"
# Where other extensions lie, each in the folder of its name.
NEIGHBOURS = Path(os.environ.get("LORA_ATELIER_NEIGHBOURS") or os.devnull)
# Those that drive the webui's own loader: a tag in the way of each that changes nothing, and one that changes a part.
THEIR_TAGS = {
    "sd-webui-lora-block-weight": ("<lora:one:0.8:lbw=NONE>", "<lora:one:0.8:lbw=OUTALL>"),
    "sd-webui-loractl": ("<lora:one:0@0,0@1>", "<lora:one:0@0,0.8@1>"),
}


@pytest.fixture
def started(webui_folder, tmp_path):
    """A function that starts the webui with some switches of the table; it is stopped afterwards."""
    from tests.webui import formats, models
    from tests.webui.install import Webui

    made = []

    def start(*switches, answers=SESSION, install=True, neighbour=""):
        """``neighbour``: another extension's folder; a script that does nothing stands for it where it isn't here."""
        webui = Webui(webui_folder, tmp_path)
        missing = [name for name in switches if name not in webui.kind.switches]
        if missing:
            pytest.skip(f"{webui.kind.id} has no {missing[0]}")
        webui.arguments = [each for name in switches for each in webui.kind.switches[name]]
        if install:
            webui.install()
        if neighbour and (NEIGHBOURS / neighbour).is_dir():
            shutil.copytree(NEIGHBOURS / neighbour, tmp_path / "extensions" / neighbour)
        elif neighbour:
            script = tmp_path / "extensions" / neighbour / "scripts" / "nothing.py"
            script.parent.mkdir(parents=True)
            script.write_text("# stands for another extension", encoding="utf-8")
        base = models.write(webui.kind, webui.models, webui_folder, name="first", seed=0)
        webui.lora_dir.mkdir(parents=True, exist_ok=True)
        formats.write_lora(webui.lora_dir / "one.safetensors", list(models.places(base)), seed=1)
        made.append(webui)
        webui.start(answers=answers)
        return webui

    yield start
    for webui in made:
        webui.stop()


def draws(webui):
    """Whether a LoRA changes its picture and the next one is the first again."""
    plain = webui.draw("a cat")
    changed = webui.draw("a cat <lora:one:0.8>")
    return changed.difference(plain) > 5 and webui.draw("a cat").hash == plain.hash


def test_behind_a_login_our_routes_are_behind_it_and_strangers_name_no_folders(started):
    webui = started("listen", "login")
    assert status(webui, SESSION) == 401

    cookie = log_in(webui)
    assert status(webui, SESSION, Cookie=cookie) == 200
    assert status(webui, SESSION, Cookie=cookie.replace("=", "=x")) == 401
    webui.headers["Cookie"] = cookie
    webui.wait()
    refused = webui.ours("POST", "folder", {"folder": "/"})
    assert "A folder can't be chosen by its path" in str(refused)

    if webui.kind.restarts:  # its API asks for the same people in another way
        webui.headers["Authorization"] = "Basic dXNlcjp3b3Jk"
    assert draws(webui)


@pytest.mark.browser
def test_below_another_path_the_tab_finds_its_routes(started, browser):
    from tests.webui import pages

    webui = started("subpath")
    with Proxy(webui.port, "" if webui.kind.restarts else "/below") as proxy:
        page = pages.open_page(browser, webui, "/below/", port=webui.port if webui.kind.restarts else proxy.port)
        pages.open_tab(page)

    if webui.kind.restarts:  # it sends everybody there, where its own API is from its next start on
        assert status(webui, f"/below{SESSION}") == 200
    else:
        assert draws(webui)


@pytest.mark.browser
def test_without_gradios_queue_and_with_frozen_settings_it_works(started, browser):
    from tests.webui import pages

    webui = started("no queue", "frozen")
    page = pages.open_page(browser, webui)
    pages.open_tab(page)

    assert "no LoRA called" in pages.generate(page, webui, "a cat <lora:nobody:1>")
    assert draws(webui)


@pytest.mark.parametrize("switch", ["medvram", "lowvram"])
def test_where_parts_of_the_model_come_and_go_a_lora_is_applied_and_taken_off(started, switch):
    """On a processor they come and go in name only: by the same hooks, to the same device."""
    assert draws(started(switch))


def test_without_a_page_prompts_are_ours_and_there_are_no_routes(started):
    webui = started("no page", answers="/sdapi/v1/options")

    assert draws(webui)
    assert status(webui, SESSION) == 404


@pytest.mark.parametrize("neighbour", sorted(THEIR_TAGS))
def test_beside_an_extension_that_drives_the_webuis_loader_that_one_has_the_prompts(started, neighbour):
    """It is by the names of their folders that they are known; LORA_ATELIER_NEIGHBOURS may name the real ones."""
    webui = started(neighbour=neighbour)

    assert draws(webui)
    if (NEIGHBOURS / neighbour).is_dir():
        nothing, part = THEIR_TAGS[neighbour]
        plain = webui.draw("a cat")
        assert webui.draw(f"a cat {nothing}").hash == plain.hash
        assert webui.draw(f"a cat {part}").hash not in (plain.hash, webui.draw("a cat <lora:one:0.8>").hash)
        assert webui.draw("a cat").hash == plain.hash
    assert webui.ours("GET", "guard")["pictures"] == []  # pictures that ours applied a LoRA to are in there


@pytest.mark.browser
def test_installed_from_a_url_the_tab_is_there_after_a_restart(started, browser, tmp_path):
    """The repository's own clone stands for the address."""
    from tests.webui import pages
    from tests.webui.install import ROOT

    webui = started(install=False, answers="/sdapi/v1/options")
    if webui.kind.restarts:
        pytest.skip("SD.Next's page for it was not looked at")
    before = webui.packages()
    page = pages.open_page(browser, webui, wait_for="#tab_extensions")
    page.locator("#tabs > div > button", has_text="Extensions").first.evaluate("button => button.click()")
    page.locator("#tab_extensions button", has_text="Install from URL").first.evaluate("button => button.click()")
    page.get_by_label("URL for extension's git repository").fill(ROOT.as_uri())
    page.get_by_label("Local directory name").fill("sd-webui-lora-atelier")
    page.get_by_role("button", name="Install", exact=True).last.evaluate("button => button.click()")
    page.get_by_text("Installed into").wait_for(timeout=300_000)
    page.close()
    webui.stop()
    webui.start()

    pages.open_tab(pages.open_page(browser, webui))
    assert draws(webui)
    assert webui.packages() == before


def status(webui, path, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{webui.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def log_in(webui):
    """What a page sends back once somebody has logged in."""
    form = urllib.parse.urlencode({"username": "user", "password": "word"}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{webui.port}/login", form, timeout=60) as answer:
        return "; ".join(each.split(";")[0] for each in answer.headers.get_all("Set-Cookie"))


class Proxy:
    """A server in front of a webui, which has everything below ``prefix``."""

    def __init__(self, port, prefix):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                size = int(self.headers.get("Content-Length") or 0)
                address = f"http://127.0.0.1:{port}{self.path.removeprefix(prefix)}"
                kept = {name: value for name, value in self.headers.items() if name != "Accept-Encoding"}
                request = urllib.request.Request(address, self.rfile.read(size) or None, kept, method=self.command)
                try:
                    answer = urllib.request.urlopen(request, timeout=120)
                except urllib.error.HTTPError as error:
                    answer = error
                content = answer.read()
                self.send_response(answer.status)
                for name in ("Content-Type", "Set-Cookie"):
                    for value in answer.headers.get_all(name) or ():
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815 - the name that the base class calls

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
