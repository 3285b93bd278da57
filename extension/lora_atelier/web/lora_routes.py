"""Routes for the LoRAs that the host has: their list, previews and cards."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from .. import locales
from ..adapters import card
from ..errors import DataError, JobError
from ..loader.catalogue import Entry
from .access import RefusedError
from .answers import HEADERS, PREFIX, answer, body, language
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

    @api.get("/loras/{name:path}/card")
    def get_card(name: str) -> Response:
        return answer(card_json(services.catalogue.find(name)))

    @api.put("/loras/{name:path}/card")
    async def edit_card(name: str, request: Request) -> Response:
        asked = await body(request)
        entry = services.catalogue.find(name)
        weight = asked.get("weight")
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not -10 <= weight <= 10:
            raise DataError("The preferred weight must be a number from -10 to 10; 0.8 is usual.")
        try:
            card.edit_card(
                entry.path,
                trigger=_text(asked.get("trigger"), 400),
                weight=round(float(weight), 3),
                notes=_text(asked.get("notes"), 4000),
            )
        except OSError as error:
            raise DataError(
                "The card could not be written.",
                why="{reason}.",
                todo="Make room on the disk or allow writing there, then try again.",
                reason=error.strerror or str(error),
            ) from error
        services.catalogue.list()
        services.refresh_adapters()
        return answer(card_json(services.catalogue.find(name)))

    @api.get("/loras/{name:path}/loads")
    def loads(name: str, request: Request) -> Response:
        """How much of the file the host's model takes; nothing is said while a training needs the machine."""
        entry = services.catalogue.find(name)
        if services.loads is None or services.jobs.running() is not None:
            return answer({"sentence": "", "all": False})
        said, whole = services.loads(entry.path)
        return answer({"sentence": locales.sentence(said, language(request)), "all": whole})


def _text(given: Any, longest: int) -> str:
    return str(given or "").replace("\0", "").strip()[:longest]


def card_json(entry: Entry) -> dict[str, Any]:
    """A LoRA's card as the page edits it."""
    said = card.read_card(entry.path)
    weight = entry.preferred_weight or 0.8
    return {
        "trigger": entry.trigger_words,
        "weight": weight,
        "notes": str(said.get("notes") or ""),
        "tag": f"<lora:{entry.name}:{weight:g}>",
    }


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
