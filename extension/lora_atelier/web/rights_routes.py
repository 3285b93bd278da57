"""Routes for rights: a folder's record, what a LoRA says, the report for counsel, and the page for creators."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from starlette.concurrency import run_in_threadpool

from .. import locales
from ..errors import HostError, RightsError
from ..rights import credentials, evidence, guide, report, report_html, signature
from ..rights.folder_ledger import FolderLedger
from ..rights.licences import normalise
from .access import RefusedError
from .answers import HEADERS, answer, body, language, number
from .picture_routes import listing_json
from .rights_desk import items, said_by, stated
from .rights_json import licence_json, overview_json, row_json
from .services import Services

# A page of ours that runs nothing and loads nothing.
_PAGE = {**HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
_MOST_ROWS = 500


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

    @api.get("/rights/licence")
    def licence(request: Request) -> Response:
        """What a licence that somebody wrote (``text``) is taken for."""
        return answer(licence_json(request.query_params.get("text", ""), language(request)))


# ------------------------------------------------------------------------------------------------ folders


def _add_folders(api: APIRouter, services: Services) -> None:
    desk = services.desk

    def shown(upload: str, request: Request) -> dict[str, Any]:
        """The overview as the page shows it, ``from`` and ``count`` of its rows."""
        found, ledger = desk.overview(upload, request.query_params.get("whose", "mine"))
        start, count = number(request, "from", 0), min(number(request, "count", 60), _MOST_ROWS)
        said = overview_json(found, ledger, language(request), start=start, count=count)
        return {**said, "original": services.uploads.original_of(upload)}

    @api.get("/rights/folders/{upload}")
    def look(upload: str, request: Request) -> Response:
        return answer(shown(upload, request))

    @api.get("/rights/folders/{upload}/rules/{rule}")
    def pictures_of_rule(upload: str, rule: str, request: Request) -> Response:
        """The pictures that a rule leaves out, as ``/uploads`` lists pictures."""
        found, _ = desk.overview(upload, request.query_params.get("whose", "mine"))
        names = {row.name for row in found.rows if row.decision.rule == rule and not row.decision.included}
        listing = desk.folder(upload).listing(
            number(request, "from", 0), number(request, "count", 60), side=number(request, "side", 0), among=names
        )
        return answer(listing_json(upload, listing, services, language(request)))

    @api.get("/rights/folders/{upload}/pictures/{name}")
    def picture(upload: str, name: str, request: Request) -> Response:
        """One picture: what was found of it, what is said of it, what would be done with it."""
        found, ledger = desk.overview(upload, request.query_params.get("whose", "mine"))
        row = next((row for row in found.rows if row.name == name), None)
        if row is None:
            raise RightsError("There is no such picture in this folder's record.", todo="Reload the page.")
        return answer({"picture": row_json(row, language(request)), "statement": ledger.statement})

    def changing(name: str, change: Callable[[FolderLedger, dict[str, Any]], None]) -> None:
        @api.post(f"/rights/folders/{{upload}}/{name}", name=f"rights_{name}")
        async def route(upload: str, request: Request) -> Response:
            asked = await body(request)
            await run_in_threadpool(desk.change, upload, lambda ledger: change(ledger, asked))
            return answer(await run_in_threadpool(shown, upload, request))

    changing("statement", lambda ledger, asked: ledger.state(_said(asked), by=said_by(asked)))
    changing("pictures", lambda ledger, asked: ledger.except_(items(ledger, asked), _said(asked), by=said_by(asked)))
    changing("override", _override)
    changing("withdraw", lambda ledger, asked: ledger.withdraw(items(ledger, asked), by=said_by(asked)))
    changing(
        "approve",
        lambda ledger, asked: ledger.approve(
            {name: item.removeprefix("sha256:") for name, item in ledger.names.items()}, by=said_by(asked)
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
        return answer(await run_in_threadpool(shown, upload, request))

    @api.post("/rights/folders/{upload}/strip")
    def strip(upload: str) -> Response:
        return answer(desk.strip(upload))

    @api.post("/rights/folders/{upload}/strip/undo")
    def undo(upload: str) -> Response:
        return answer({"upload": desk.undo(upload)})


def _said(asked: dict[str, Any]) -> dict[str, Any]:
    """What a page states, the licence as SPDX writes it where it is one that we know."""
    said = stated(asked)
    if isinstance(said.get("licence"), str):
        said["licence"] = normalise(said["licence"]) or said["licence"].strip()
    return said


def _override(ledger: FolderLedger, asked: dict[str, Any]) -> None:
    if asked.get("rule"):  # all that this program found the same prohibition in
        asked = {**asked, "names": [name for name, item in ledger.names.items() if _is_forbidden(ledger, item)]}
    if asked.get("lift"):
        ledger.lift_override(items(ledger, asked), by=said_by(asked))
    else:
        ledger.override(items(ledger, asked), by=str(asked.get("by", "")), reason=str(asked.get("reason", "")))


def _is_forbidden(ledger: FolderLedger, item: str) -> bool:
    entry = ledger.entries[item]
    return entry.signals().prohibited and entry.withdrawn is None


async def _document(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > evidence.MAX_BYTES:
            break  # ``seal`` says that it is too large
    return bytes(data)


# ------------------------------------------------------------------------------------------------ LoRAs, reports


def _add_files(api: APIRouter, services: Services) -> None:
    @api.get("/rights/loras/{name:path}")
    def lora_rights(name: str, request: Request) -> Response:
        path = services.catalogue.find(name).path
        said, verdict, lang = credentials.read(path), signature.verify(path), language(request)
        sentences = [locales.sentence(one, lang) for one in (*credentials.sentences(said), verdict.said)]
        signed = {"signature": verdict.state, "key": verdict.key, "signed": locales.sentence(verdict.said, lang)}
        return answer({"rights": said, "sentences": sentences, **signed})

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
