"""The host's own login, asked on a real Gradio server."""

import dataclasses

import pytest

gradio = pytest.importorskip("gradio")
httpx = pytest.importorskip("httpx")

SESSION = "/lora-atelier/v1/session"


@pytest.fixture
def server(services):
    """A Gradio page behind a login, with our routes on its app, as a webui has them."""
    from lora_atelier.web.routes import router

    services = dataclasses.replace(services, access=dataclasses.replace(services.access, names=frozenset()))
    with gradio.Blocks() as page:
        gradio.Markdown("A webui")
    app, url, _ = page.launch(
        auth=[("me", "secret")], prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", share=False
    )
    # Gradio's own catch-all stands last; ours must be asked before it.
    app.include_router(router(services))
    app.router.routes.insert(0, app.router.routes.pop())
    yield url.rstrip("/")
    page.close()


def test_our_routes_are_closed_until_gradio_has_let_someone_in(server):
    with httpx.Client() as stranger:
        assert stranger.get(server + SESSION).status_code == 401
        assert stranger.post(f"{server}/login", data={"username": "me", "password": "wrong"}).status_code == 400
        assert stranger.get(server + SESSION).status_code == 401

    with httpx.Client() as person:
        assert person.post(f"{server}/login", data={"username": "me", "password": "secret"}).status_code == 200
        answer = person.get(server + SESSION)
        assert answer.status_code == 200
        assert answer.json()["token"]
