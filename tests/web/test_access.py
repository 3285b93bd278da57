import dataclasses
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.torchfree
pytest.importorskip("fastapi")

from tests.web.conftest import connect  # noqa: E402

from lora_atelier.web.access import Access, gradio_login  # noqa: E402

SESSION = "/lora-atelier/v1/session"
UPLOADS = "/lora-atelier/v1/uploads"


def with_access(services, **changes):
    return dataclasses.replace(services, access=dataclasses.replace(services.access, **changes))


def test_our_own_page_may_read_and_change(client):
    assert client.get(SESSION).json()["remote"] is False
    assert client.post(UPLOADS).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "testserver.evil.example:7860"},
        {"Host": "["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_a_foreign_page_may_not_even_read_the_token(client, headers):
    answer = client.get(SESSION, headers=headers)

    assert answer.status_code == 403
    assert "token" not in answer.json()
    assert "other site" in " ".join(answer.json()["error"].values()) or "another site" in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:1", "[::1]:80", "LOCALHOST"])
def test_this_machines_own_names_are_let_in(client, host):
    assert client.get(SESSION, headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("token", ["", "wrong", "ÿ".encode("latin-1")])
def test_nothing_changes_without_the_token_of_this_start(client, services, token, tmp_path):
    answer = client.post(UPLOADS, headers={"X-Atelier-Token": token})

    assert answer.status_code == 403
    assert answer.json()["error"]["todo"] == "Reload the page."
    assert not (tmp_path / "data" / "uploads").exists()


def test_whom_the_host_does_not_know_is_sent_away(services):
    client = connect(with_access(services, login=lambda request: request.cookies.get("who") == "me"))

    assert client.get(SESSION).status_code == 401
    assert client.get(SESSION, cookies={"who": "me"}).status_code == 200


def test_a_login_that_breaks_lets_nobody_in(services):
    client = connect(with_access(services, login=lambda request: 1 / 0))

    assert client.get(SESSION).status_code == 401


def test_from_outside_no_path_of_this_machine_can_be_named(services, tmp_path):
    client = connect(with_access(services, remote=True))
    form = {"folder": str(tmp_path), "name": "x"}

    assert client.get("/lora-atelier/v1/options").json()["paths"] is False
    assert client.post("/lora-atelier/v1/folder", json={"path": str(tmp_path)}).status_code == 403
    for route in ("plan", "runs"):
        assert client.post(f"/lora-atelier/v1/{route}", json={"form": form}).status_code == 403
        other = {"base_model": "/etc/passwd", "name": "x"}
        assert client.post(f"/lora-atelier/v1/{route}", json={"form": other}).status_code == 403


def test_from_outside_a_host_without_a_model_is_said_as_such(services):
    client = connect(dataclasses.replace(with_access(services, remote=True), base_models=list))

    plan = client.post("/lora-atelier/v1/plan", json={"form": {"base_model": "", "name": "x"}})

    assert plan.status_code == 200
    assert "There is no base model that can be trained." in [said["sentence"] for said in plan.json()["problems"]]


def all_routes(services):
    from lora_atelier.web.routes import router

    return [(route.path, method) for route in router(services).routes for method in route.methods]


def test_every_route_is_guarded_against_foreign_pages_strangers_and_calls_without_token(services):
    paths = all_routes(services)
    page, stranger = connect(services), connect(with_access(services, login=lambda request: False))

    assert len(paths) >= 40
    for path, method in paths:
        assert page.request(method, path, headers={"Host": "evil.example"}).status_code == 403, (method, path)
        assert page.request(method, path, headers={"Origin": "http://evil.example"}).status_code == 403, (method, path)
        assert stranger.request(method, path).status_code == 401, (method, path)
        if method not in ("GET", "HEAD"):
            without = page.request(method, path, headers={"X-Atelier-Token": "old"})
            assert without.status_code == 403, (method, path)


@pytest.mark.parametrize(
    "name", ["..", "../x", "..%2f..%2fx", "%2fetc%2fpasswd", "a%5c..%5cb", "%00", "CON", "con.png"]
)
def test_no_name_in_an_address_leads_out_of_its_folder(client, services, name, tmp_path):
    """Whatever stands for a name, nothing beside our folders is read or made."""
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    before = sorted(path for path in tmp_path.rglob("*") if "data" not in path.parts)

    for path, method in all_routes(services):
        if "{" in path:
            for hole in ("upload", "run_id", "name", "file", "lang", "verb", "name:path"):
                path = path.replace(f"{{{hole}}}", name)
            answer = client.request(method, path, json={} if method in ("POST", "PUT") else None)
            said = answer.text
            assert answer.status_code < 500, (method, path, said)
            assert "secret" not in said and "root:" not in said, (method, path)

    assert sorted(path for path in tmp_path.rglob("*") if "data" not in path.parts) == before


def asked(app, **cookies):
    return SimpleNamespace(app=app, cookies=cookies)


def test_gradios_login_is_understood_in_its_old_and_its_new_form():
    open_app = SimpleNamespace(auth=None)
    old = SimpleNamespace(auth={"me": "pw"}, tokens={"t1": "me"})
    new = SimpleNamespace(auth={"me": "pw"}, tokens={"t1": "me"}, cookie_id="abc")
    own = SimpleNamespace(auth_dependency=lambda request: request.cookies.get("user"))

    assert gradio_login(asked(open_app)) and gradio_login(asked(SimpleNamespace()))
    assert gradio_login(asked(old, **{"access-token": "t1"}))
    assert gradio_login(asked(new, **{"access-token-unsecure-abc": "t1"}))
    assert gradio_login(asked(own, user="me"))
    assert not gradio_login(asked(old))
    assert not gradio_login(asked(old, **{"access-token": "t2"}))
    assert not gradio_login(asked(new, **{"access-token-other": "t1"}))
    assert not gradio_login(asked(own))


def test_every_start_has_another_token_that_is_not_printed():
    one, two = Access(), Access()

    assert one.token != two.token
    assert one.token not in repr(one)
