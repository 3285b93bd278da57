import io

import pytest
from PIL import Image
from tests.jobs.fakes import FAKE_TRAINER, write_model_headers

from lora_atelier.jobs.service import Jobs
from lora_atelier.loader.catalogue import Catalogue
from lora_atelier.models.detect import inspect
from lora_atelier.web.access import Access
from lora_atelier.web.services import Services
from lora_atelier.web.uploads import Uploads


def png(color="red", size=(80, 64), **save):
    """The bytes of a small picture."""
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "PNG", **save)
    return data.getvalue()


@pytest.fixture
def services(tmp_path):
    base_model = write_model_headers(tmp_path / "base")
    return Services(
        jobs=Jobs(tmp_path / "data", command=FAKE_TRAINER),
        uploads=Uploads(tmp_path / "data" / "uploads"),
        catalogue=Catalogue([tmp_path / "data" / "loras"]),
        base_models=lambda: [inspect(base_model)],
        access=Access(names=frozenset({"testserver"})),
    )


@pytest.fixture
def client(services):
    return connect(services)


def connect(services, **headers):
    """A page's connection: it has read the token from the session."""
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from lora_atelier.web.routes import router

    app = fastapi.FastAPI()
    app.include_router(router(services))
    return TestClient(app, headers={"X-Atelier-Token": services.access.token, **headers}, raise_server_exceptions=False)
