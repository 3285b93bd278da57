"""Routes for the LoRAs that the host has: their list, previews and cards."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from .. import locales
from ..errors import JobError
from ..loader.catalogue import Entry
from .access import RefusedError
from .answers import HEADERS, PREFIX, answer, language
from .services import Services


def add_loras(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/loras``."""

    @api.get("/loras")
    def list_loras(request: Request) -> Response:
        lang = language(request)
        return answer({"loras": [lora_json(entry, lang) for entry in services.catalogue.list()]})

    @api.get("/loras/{name:path}/preview")
    def preview(name: str) -> Response:
        entry = services.catalogue.find(name)
        if entry.preview is None or not entry.preview.is_file():
            # ``find`` knows what was listed last; a card may have come since.
            services.catalogue.list()
            entry = services.catalogue.find(name)
        if entry.preview is None:
            raise RefusedError(404, JobError("“{name}” has no preview picture.", name=name))
        return FileResponse(entry.preview, headers=HEADERS)


def lora_json(entry: Entry, lang: str) -> dict[str, Any]:
    """One LoRA as the page shows it."""
    weight = entry.preferred_weight or 0.8
    version = entry.preview.stat().st_mtime_ns if entry.preview and entry.preview.exists() else 0
    return {
        "name": entry.name,
        "tag": f"<lora:{entry.name}:{weight:g}>",
        "trigger": entry.trigger_words,
        "description": entry.description,
        "preview_url": f"{PREFIX}/loras/{quote(entry.name)}/preview?v={version}" if entry.preview else None,
        "problem": locales.sentence(entry.problem, lang) if entry.problem else "",
    }
