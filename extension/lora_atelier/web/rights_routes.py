"""Routes for rights: a folder's record, what a LoRA says, the report for counsel, and the page for creators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool

from .. import locales
from ..datasets.captions import read_caption
from ..errors import DataError, HostError, RightsError
from ..rights import credentials, evidence, guide, report, report_html, scanning, signature, stripping
from ..rights.folder_ledger import FolderLedger
from ..rights.ledger import BASES
from ..rights.overview import Overview, Row, overview
from ..rights.store import Store
from .access import RefusedError
from .answers import HEADERS, answer, body, language
from .services import Services

# A page of ours that runs nothing and loads nothing.
_PAGE = {**HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_MOST_ROWS = 500
# How long one answer may look through a folder; the page asks again for the rest.
_LOOK_S = 2.0


def add_rights(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/rights``."""
    _add_folders(api, services)
    _add_files(api, services)

    @api.get("/rights/guide")
    def creators(request: Request) -> Response:
        wanted = request.query_params.get("lang", "")
        return HTMLResponse(
            guide.page(locales.choose(request.headers.get("accept-language", ""), wanted)), headers=_PAGE
        )


# ------------------------------------------------------------------------------------------------ folders


def _add_folders(api: APIRouter, services: Services) -> None:
    desk = _Desk(services)

    @api.get("/rights/folders/{upload}")
    def look(upload: str, request: Request) -> Response:
        return answer(desk.shown(upload, request))

    def changing(name: str, change: Callable[[FolderLedger, dict[str, Any]], None]) -> None:
        @api.post(f"/rights/folders/{{upload}}/{name}", name=f"rights_{name}")
        async def route(upload: str, request: Request) -> Response:
            asked = await body(request)
            await run_in_threadpool(desk.change, upload, lambda ledger: change(ledger, asked))
            return answer(await run_in_threadpool(desk.shown, upload, request))

    changing("statement", lambda ledger, asked: ledger.state(_object(asked, "said"), by=_by(asked)))
    changing(
        "pictures", lambda ledger, asked: ledger.except_(_items(ledger, asked), _object(asked, "said"), by=_by(asked))
    )
    changing("override", _override)
    changing("withdraw", lambda ledger, asked: ledger.withdraw(_items(ledger, asked), by=_by(asked)))
    changing(
        "approve",
        lambda ledger, asked: ledger.approve(
            {name: item.removeprefix("sha256:") for name, item in ledger.names.items()}, by=_by(asked)
        ),
    )

    @api.get("/rights/folders/{upload}/history")
    def history(upload: str) -> Response:
        ledger = desk.ledger(upload)
        return answer({"events": [{name: e[name] for name in ("at", "by", "what", "hash")} for e in ledger.events]})

    @api.post("/rights/folders/{upload}/evidence")
    async def attach(upload: str, request: Request) -> Response:
        """The document is the body; what it is stands in the query."""
        said, data = dict(request.query_params), await _document(request)
        await run_in_threadpool(desk.attach, upload, said, data)
        return answer(await run_in_threadpool(desk.shown, upload, request))

    @api.post("/rights/folders/{upload}/strip")
    def strip(upload: str) -> Response:
        return answer(desk.strip(upload))

    @api.post("/rights/folders/{upload}/strip/undo")
    def undo(upload: str) -> Response:
        return answer({"upload": desk.undo(upload)})


class _Desk:
    """Folders' ledgers as routes need them: looked through, changed, kept."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.data_dir = services.jobs.data_dir
        self.store = Store(self.data_dir)

    def ledger(self, upload: str, seconds: float = _LOOK_S) -> FolderLedger:
        """The ledger of a folder after a fresh look of so many seconds."""
        folder = self.services.uploads.get(upload)
        return scanning.scan(
            folder.source,
            folder.names(),
            store=self.store,
            captions=lambda path: read_caption(path, ".txt") or "",
            seconds=seconds,
        )

    def complete(self, upload: str) -> FolderLedger:
        """The ledger of a folder that was looked through to its end. Raises RightsError."""
        ledger = self.ledger(upload)
        if ledger.unread:
            raise RightsError(
                "The folder is still being looked through.",
                why="{count} pictures are left.",
                todo="Try again in a moment.",
                count=ledger.unread,
            )
        return ledger

    def change(self, upload: str, change: Callable[[FolderLedger], None]) -> None:
        ledger = self.complete(upload)
        change(ledger)
        scanning.keep(ledger, self.services.uploads.get(upload).source, self.store)

    def shown(self, upload: str, request: Request) -> dict[str, Any]:
        """The overview as the page shows it, ``from`` and ``count`` of its rows, in the reader's language."""
        whose = request.query_params.get("whose", "mine")
        ledger = self.ledger(upload)
        # Kept, so that a picture that loses its metadata later is still known; the record beside the pictures only
        # where somebody stated something.
        if not ledger.unread:
            self.store.put(ledger, self.services.uploads.get(upload).source)
        found = overview(ledger, whose=whose if whose in BASES else "mine")
        start, count = _number(request, "from", 0), min(_number(request, "count", 60), _MOST_ROWS)
        return _overview_json(found, ledger, start, count, language(request))

    def attach(self, upload: str, said: dict[str, str], data: bytes) -> None:
        taken = ("kind", "valid_from", "valid_until", "territory")
        sealed = evidence.seal(
            data,
            self.data_dir,
            name=said.get("name", "document"),
            **{"kind": "other", **{name: said[name] for name in taken if name in said}},  # type: ignore[arg-type]
        )
        by = said.get("by", "")
        names = [said["picture"]] if said.get("picture") else []

        def change(ledger: FolderLedger) -> None:
            if names:
                ledger.except_(_items(ledger, {"names": names}), {"evidence": [sealed]}, by=_by({"by": by}))
            else:
                ledger.state({"evidence": [sealed]}, by=_by({"by": by}))

        self.change(upload, change)

    def strip(self, upload: str) -> dict[str, Any]:
        """Copies without personal data, as a folder of pictures of its own."""
        folder = self.services.uploads.get(upload)
        ledger = self.complete(upload)
        self.store.put(ledger, folder.source)
        made = stripping.strip_folder(folder.source, self._copies(upload), ledger.names)
        return {
            "upload": self.services.uploads.open_folder(str(made.folder)),
            "undo": upload,
            "pictures": made.pictures,
            "changed": made.changed,
        }

    def undo(self, upload: str) -> str:
        """Delete the copies that were made of ``upload``, and go back to it."""
        stripping.undo(self._copies(upload))
        return upload

    def _copies(self, upload: str) -> Path:
        self.services.uploads.get(upload)  # says if there is none of this name
        return self.data_dir / "rights" / "stripped" / upload


def _override(ledger: FolderLedger, asked: dict[str, Any]) -> None:
    if asked.get("lift"):
        ledger.lift_override(_items(ledger, asked), by=_by(asked))
    else:
        ledger.override(_items(ledger, asked), by=str(asked.get("by", "")), reason=str(asked.get("reason", "")))


def _items(ledger: FolderLedger, asked: dict[str, Any]) -> list[str]:
    names = asked.get("names")
    if not isinstance(names, list) or not names or not all(name in ledger.names for name in names):
        raise RightsError("There is no such picture in this folder's record.", todo="Reload the page.")
    return [ledger.names[name] for name in names]


def _object(asked: dict[str, Any], name: str) -> dict[str, Any]:
    value = asked.get(name)
    if not isinstance(value, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")
    return value


def _by(asked: dict[str, Any]) -> str:
    return str(asked.get("by") or "").strip()[:200] or scanning.NOBODY


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else default


async def _document(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > evidence.MAX_BYTES:
            break  # ``seal`` says that it is too large
    return bytes(data)


def _overview_json(found: Overview, ledger: FolderLedger, start: int, count: int, lang: str) -> dict[str, Any]:
    def row(one: Row) -> dict[str, Any]:
        why = one.decision.why
        return {**one.to_json(), "why": locales.sentence(why, lang) if why else ""}

    return {
        "statement": ledger.statement,
        "approved": ledger.approved is not None,
        "events": len(ledger.events),
        "unread": ledger.unread,
        "counts": found.counts(),
        "permits": found.permits(),
        "sentences": [locales.sentence(said, lang) for said in found.sentences()],
        "total": len(found.rows),
        "from": start,
        "pictures": [row(one) for one in found.rows[start : start + count]],
    }


# ------------------------------------------------------------------------------------------------ LoRAs, reports


def _add_files(api: APIRouter, services: Services) -> None:
    @api.get("/rights/loras/{name:path}")
    def lora_rights(name: str, request: Request) -> Response:
        path = services.catalogue.find(name).path
        said, verdict, lang = credentials.read(path), signature.verify(path), language(request)
        sentences = [locales.sentence(one, lang) for one in (*credentials.sentences(said), verdict.said)]
        return answer({"rights": said, "signature": verdict.state, "key": verdict.key, "sentences": sentences})

    @api.get("/rights/reports/{kind}/{target:path}")
    def counsel(kind: str, target: str, request: Request) -> Response:
        """``kind`` is html or json; ``target`` a training's id or a LoRA's name."""
        data_dir = services.jobs.data_dir
        ids = {view.run.id for view in services.jobs.list()}
        wanted = target if target in ids else str(services.catalogue.find(target).path)
        said = report.gather(*report.find(wanted, data_dir), data_dir)
        if kind == "json":
            text = json.dumps(said, ensure_ascii=False, indent=2)
            named = {"Content-Disposition": 'attachment; filename="rights-report.json"'}
            return Response(text, media_type="application/json", headers={**HEADERS, **named})
        if kind != "html":
            raise RefusedError(404, HostError("There is no such report."))
        lang = request.query_params.get("lang", "") or language(request)
        return HTMLResponse(report_html.render(said, locales.choose("", lang)), headers=_PAGE)
