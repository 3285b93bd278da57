import pytest

pytestmark = pytest.mark.torchfree

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402

from lora_atelier.web import lazy  # noqa: E402


@pytest.fixture
def server():
    """A server as webuis have it, and how often the routes were made."""
    app, made = fastapi.FastAPI(), []

    @app.get("/")
    def page():
        return "page"

    def load():
        made.append(1)
        router = fastapi.APIRouter(prefix="/x/v1")

        @router.post("/double/{number}")
        async def double(number: int, request: fastapi.Request):
            return {"double": 2 * number, "body": (await request.body()).decode(), "app": request.app is app}

        return router

    lazy.add(app, "/x/v1", load)
    return TestClient(app), made


def test_routes_are_made_when_they_are_first_asked_for_and_answer_that_very_call(server):
    client, made = server
    assert client.get("/").json() == "page"
    assert made == []

    answer = client.post("/x/v1/double/4", content="hello")

    assert answer.json() == {"double": 8, "body": "hello", "app": True}
    assert client.post("/x/v1/double/5").json()["double"] == 10
    assert made == [1]


def test_what_is_not_there_is_not_found(server):
    client, made = server

    assert client.get("/x/v2/none").status_code == 404
    assert made == []
    assert client.get("/x/v1/none").status_code == 404
    assert client.get("/x/v1/double/4").status_code == 405
    assert made == [1]


def test_a_server_below_a_path_has_them_too(server):
    client, _ = server

    assert TestClient(client.app, root_path="/sub").post("/x/v1/double/4").json()["double"] == 8


def test_what_is_mounted_below_a_path_does_not_hide_the_routes_there(server):
    """SD.Next mounts its page there, after extensions have added what is theirs."""
    client, made = server
    lazy.add_below(client.app, "/sub", "/x/v1")
    client.app.mount("/sub", fastapi.FastAPI())

    for number in (4, 5):
        assert client.post(f"/sub/x/v1/double/{number}", content="hello").json()["double"] == 2 * number
    assert client.get("/sub/x/v1/none").status_code == 404
    assert client.get("/sub/y/v1/none").status_code == 404
    assert made == [1]
