"""The routes under ``/lora-atelier/v1/``: plain JSON in and out, checked by our own dataclasses; FastAPI 0.94 or newer.

Everything that goes wrong on purpose is answered as ``{"error": {"what", "why", "todo"}}`` in the reader's language.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .. import __version__, engines, locales
from ..config import GOALS, QUALITIES
from ..jobs.forms import WHOSE
from ..models.detect import FAMILY_NAMES
from .answers import PREFIX, answer, guarded, language
from .compare_routes import add_checkpoints
from .environment_routes import add_environment
from .guard_routes import add_guard
from .lora_routes import add_loras
from .measure_routes import add_measuring
from .picture_routes import add_pictures
from .rights_routes import add_rights
from .run_routes import add_runs
from .services import Services
from .settings_routes import add_settings


def router(services: Services) -> APIRouter:
    """All routes on ``services``; every one of them asks ``services.access`` first."""
    api = APIRouter(prefix=PREFIX, route_class=guarded(services))
    _add_session(api, services)
    add_environment(api, services)
    add_pictures(api, services)
    add_settings(api, services)
    add_runs(api, services)
    add_measuring(api, services)
    add_checkpoints(api, services)
    add_loras(api, services)
    add_rights(api, services)
    add_guard(api, services)
    return api


def _add_session(api: APIRouter, services: Services) -> None:
    @api.get("/session")
    def session(request: Request) -> Response:
        return answer(
            {
                "token": services.access.token,
                "lang": language(request),
                "version": __version__,
                "remote": services.access.remote,
            }
        )

    @api.get("/locales/{lang}")
    def entries(lang: str) -> Response:
        """What a page needs to speak a language: English template -> translation; empty for English."""
        return answer({"entries": locales.catalogue(lang)})

    @api.get("/options")
    def options() -> Response:
        models = [
            {
                "path": str(m.path),
                "title": m.title,
                "family": m.family,
                "family_name": FAMILY_NAMES[m.family],
                "prediction": m.prediction_type,
                "side": m.resolution,
            }
            for m in services.base_models()
        ]
        return answer(
            {
                "goals": list(GOALS),
                "whose": list(WHOSE),
                "qualities": list(QUALITIES),
                "engines": list(engines.NAMES),
                "base_models": models,
                "paths": not (services.access.remote or services.access.hides_paths),
                "defaults": {
                    "name": "",
                    "trigger": "",
                    "goal": "character",
                    "whose": "",
                    "quality": "good",
                    "engine": "native",
                    "base_model": models[0]["path"] if models else "",
                },
            }
        )
