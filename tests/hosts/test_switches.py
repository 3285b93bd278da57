"""What a webui's switches mean to the extension, against a fake of the callbacks that bring it in."""

import inspect
import types

import pytest

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("torch")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from lora_atelier.ui import webui as entry  # noqa: E402

SESSION = "/lora-atelier/v1/session"
# All but SD.Next share what is tested here.
KINDS = ("a1111", "sdnext")


@pytest.fixture(params=KINDS)
def webui(request, make_webui, monkeypatch):
    """A webui, its host, and what its callbacks were given; ``start`` brings the extension in once more."""
    fake, host = make_webui(request.param)
    fake.callbacks = {}
    names = ("on_before_ui", "on_ui_settings", "on_ui_tabs", "on_app_started", "on_model_loaded",
             "on_infotext_pasted", "on_before_image_saved", "on_image_saved", "on_script_unloaded")  # fmt: skip

    fake.frames = set()

    def register(name):
        def add(callback):
            fake.frames |= {frame.filename for frame in inspect.stack(0)}
            fake.callbacks.setdefault(name, []).append(callback)

        return add

    fake.add("modules.script_callbacks", **{name: register(name) for name in names})
    from tests.hosts.fakes import install

    install(fake, monkeypatch)
    monkeypatch.setattr(entry, "_state", {"host": host})
    entry.start()
    yield fake, host
    services = entry._state.get("services")
    if services is not None:
        services.queue.end()


def app_of(fake, demo=None, *, page=True):
    """The server that a webui makes, after it has told us of it."""
    app = fastapi.FastAPI()
    given = (demo or types.SimpleNamespace(blocked_paths=[])) if page else None
    for callback in fake.callbacks["on_app_started"]:
        callback(given, app)
    return app


def client(app):
    return TestClient(app, base_url="http://127.0.0.1")


def test_it_registers_where_the_stack_is_short_because_webuis_look_through_it_each_time(webui):
    fake, _ = webui

    assert not any("pytest" in name for name in fake.frames), "a caller of start() was seen"
    assert len(fake.callbacks) == 9


def test_without_a_page_there_are_no_routes_that_no_login_would_guard(webui):
    """``--nowebui --api``"""
    fake, _ = webui

    assert client(app_of(fake, page=False)).get(SESSION).status_code == 404


def test_behind_gradios_login_a_stranger_is_refused_and_who_logged_in_is_not(webui):
    """``--gradio-auth``, ``--auth``"""
    fake, _ = webui
    app = app_of(fake)
    app.auth, app.tokens = {"user": "word"}, {"token": "user"}

    assert client(app).get(SESSION).status_code == 401
    assert client(app).get(SESSION, cookies={"access-token": "token"}).status_code == 200
    assert client(app).get(SESSION, cookies={"access-token": "other"}).status_code == 401


def test_where_others_reach_it_any_name_is_its_own_and_no_folder_is_taken_by_its_path(webui):
    """``--listen``"""
    fake, _ = webui
    stranger = {"base_url": "http://192.168.1.7"}
    assert TestClient(app_of(fake), **stranger).get(SESSION).status_code == 403

    entry._state.pop("services").queue.end()
    fake.cmd_opts.listen = True
    there = TestClient(app_of(fake), **stranger)
    token = there.get(SESSION).json()["token"]

    refused = there.post("/lora-atelier/v1/folder", json={"folder": "/"}, headers={"X-Atelier-Token": token})
    assert refused.status_code == 403
    assert "can be reached from other machines" in refused.text


def test_below_another_path_the_routes_are_there(webui):
    """``--subpath``: most webuis leave it to a proxy, SD.Next serves its page there as well."""
    fake, _ = webui
    fake.cmd_opts.subpath = "below"
    app = app_of(fake)
    app.mount("/below", fastapi.FastAPI())

    assert client(app).get(SESSION).status_code == 200
    if fake.kind == "sdnext":
        assert client(app).get(f"/below{SESSION}").status_code == 200
    else:
        assert TestClient(app, base_url="http://127.0.0.1", root_path="/below").get(SESSION).status_code == 200


def test_a_setting_that_can_not_be_made_leaves_prompts_to_us(webui):
    """``--freeze-settings``, or a webui without a page, which asks nobody for settings."""
    fake, host = webui

    assert not hasattr(fake.opts, "atelier_loader")
    assert host.takes_prompts()


def test_reloading_the_page_any_number_of_times_leaves_one_router_and_new_routes(webui):
    fake, _ = webui
    for _ in range(3):
        for callback in fake.callbacks["on_script_unloaded"]:
            callback()
        fake.callbacks.clear()
        entry.start()

        assert client(app_of(fake)).get(SESSION).status_code == 200

    original = fake.extra_networks.parse_prompts._lora_atelier_original
    assert not hasattr(original, "_lora_atelier_original")


def test_the_folder_of_what_a_person_makes_is_not_handed_out_by_the_webui(webui):
    fake, host = webui
    demo = types.SimpleNamespace(blocked_paths=[])

    app_of(fake, demo)

    assert demo.blocked_paths == [str(host.data_dir)]
