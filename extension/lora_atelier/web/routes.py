"""The routes themselves: plain JSON in and out, checked by our own dataclasses; FastAPI 0.94 or newer.

Everything that goes wrong on purpose is answered as ``{"error": {"what", "why", "todo"}}`` in the reader's language.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from .. import __version__, events, locales
from ..config import GOALS, QUALITIES
from ..errors import (
    AdapterNotFoundError,
    AlreadyRunningError,
    ConfigError,
    DataError,
    ExtensionError,
    HostError,
    JobError,
    Message,
)
from ..jobs.estimate import Plan
from ..jobs.names import safe_name
from ..jobs.service import WHOSE, JobForm
from ..jobs.view import RunView
from ..loader.catalogue import Entry
from .access import RefusedError
from .services import Services
from .uploads import Listing, Picture, Received

PREFIX = "/lora-atelier/v1"
LANGUAGE_HEADER = "X-Atelier-Lang"
# Sent with every answer: nothing here may be kept by a shared cache, or be read as another type than it says.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_KEPT = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
_log = logging.getLogger(__name__)


def router(services: Services) -> APIRouter:
    """All routes on ``services``; every one of them asks ``services.access`` first."""
    api = APIRouter(prefix=PREFIX, route_class=_guarded(services))
    _add_session(api, services)
    _add_uploads(api, services)
    _add_runs(api, services)
    _add_loras(api, services)
    return api


def language(request: Request) -> str:
    """The reader's language: what the page says, else what the browser prefers."""
    return locales.choose(request.headers.get("accept-language", ""), request.headers.get(LANGUAGE_HEADER, ""))


def _guarded(services: Services) -> type[APIRoute]:
    class GuardedRoute(APIRoute):
        """A route behind the access check, whose errors become sentences; needs no handler in the host's app."""

        def get_route_handler(self) -> Callable[[Request], Any]:
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    await run_in_threadpool(services.access.check, request)
                    return await handler(request)
                except RefusedError as refused:
                    return _error(refused.error, language(request), refused.status)
                except ExtensionError as error:
                    return _error(error, language(request), _status(error))
                except Exception as error:
                    if getattr(error, "status_code", None):  # FastAPI's own: a method or a body that makes no sense
                        raise
                    _log.exception("%s %s", request.method, request.url.path)
                    said = HostError(
                        "Something went wrong that nobody foresaw.",
                        why="{kind}: {reason}.",
                        todo="The console of the webui holds the details; please report them.",
                        kind=type(error).__name__,
                        reason=str(error),
                    )
                    return _error(said, language(request), 500)

            return guarded

    return GuardedRoute


def _status(error: ExtensionError) -> int:
    if isinstance(error, AlreadyRunningError):
        return 409
    if isinstance(error, AdapterNotFoundError):
        return 404
    return 422 if isinstance(error, ConfigError) else 400


def _error(error: ExtensionError, lang: str, status: int) -> JSONResponse:
    return JSONResponse({"error": error_json(error, lang)}, status_code=status, headers=_HEADERS)


def error_json(error: ExtensionError, lang: str) -> dict[str, Any]:
    """What, why and what to do in ``lang``; a form's problems also field by field."""
    said: dict[str, Any] = {name: locales.sentence(getattr(error, name), lang) for name in ("what", "why", "todo")}
    if isinstance(error, ConfigError) and error.problems:
        said["problems"] = [{"field": p.field, "sentence": locales.sentence(p, lang)} for p in error.problems]
        said["why"] = _join([entry["sentence"] for entry in said["problems"]], lang)
    return said


def _join(sentences: list[str], lang: str) -> str:
    return ("" if lang == "ja" else " ").join(sentence for sentence in sentences if sentence)


def _answer(data: dict[str, Any]) -> JSONResponse:
    return JSONResponse(data, headers=_HEADERS)


async def _body(request: Request) -> dict[str, Any]:
    try:
        data = json.loads(await request.body() or b"{}")
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")
    return data


# ----------------------------------------------------------------------------------------------- session, options


def _add_session(api: APIRouter, services: Services) -> None:
    @api.get("/session")
    def session(request: Request) -> Response:
        return _answer(
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
        return _answer({"entries": locales.catalogue(lang)})

    @api.get("/options")
    def options() -> Response:
        models = [{"path": str(m.path), "title": m.title, "family": m.family} for m in services.base_models()]
        return _answer(
            {
                "goals": list(GOALS),
                "whose": list(WHOSE),
                "qualities": list(QUALITIES),
                "base_models": models,
                "paths": not services.access.remote,
                "defaults": {
                    "name": "",
                    "trigger": "",
                    "goal": "character",
                    "whose": "",
                    "quality": "good",
                    "base_model": models[0]["path"] if models else "",
                },
            }
        )


# ----------------------------------------------------------------------------------------------- pictures


def _add_uploads(api: APIRouter, services: Services) -> None:
    uploads = services.uploads

    @api.post("/uploads")
    def create_upload() -> Response:
        return _answer({"upload": uploads.create()})

    @api.post("/folder")
    async def open_folder(request: Request) -> Response:
        services.access.check_paths()
        path = str((await _body(request)).get("path", ""))
        upload = await run_in_threadpool(uploads.open_folder, path)
        listing = await run_in_threadpool(uploads.get(upload).listing)
        return _answer(_listing_json(upload, listing, services, language(request)))

    @api.get("/uploads/{upload}")
    def list_pictures(upload: str, request: Request) -> Response:
        start, count = _number(request, "from", 0), _number(request, "count", 60)
        return _answer(_listing_json(upload, uploads.get(upload).listing(start, count), services, language(request)))

    @api.post("/uploads/{upload}/pictures")
    async def add_pictures(upload: str, request: Request) -> Response:
        lang = language(request)
        received: list[Received] = []
        form = await request.form()
        try:
            for _, file in form.multi_items():
                if not isinstance(file, str):  # a plain text field is no picture
                    received.append(
                        await run_in_threadpool(uploads.receive, upload, file.filename or "picture", file.file)
                    )
        finally:
            await form.close()
        pictures = [_picture_json(upload, picture, lang) for part in received for picture in part.pictures]
        problems = [locales.sentence(said, lang) for part in received for said in part.problems]
        total = len(await run_in_threadpool(uploads.get(upload).names))
        return _answer({"upload": upload, "pictures": pictures, "problems": problems, "total": total})

    @api.delete("/uploads/{upload}/pictures/{name}")
    def remove_picture(upload: str, name: str) -> Response:
        uploads.remove(upload, name)
        return _answer({"total": len(uploads.get(upload).names())})

    @api.get("/uploads/{upload}/thumbnails/{name}")
    def thumbnail(upload: str, name: str) -> Response:
        return FileResponse(uploads.get(upload).thumbnail(name), media_type="image/jpeg", headers=_KEPT)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else default


def _listing_json(upload: str, listing: Listing, services: Services, lang: str) -> dict[str, Any]:
    own = services.uploads.is_own(upload)
    return {
        "upload": upload,
        "folder": "" if own else str(services.uploads.get(upload).source),
        "total": listing.total,
        "from": listing.start,
        "pictures": [_picture_json(upload, picture, lang) for picture in listing.pictures],
    }


def _picture_json(upload: str, picture: Picture, lang: str) -> dict[str, Any]:
    url = f"{PREFIX}/uploads/{upload}/thumbnails/{quote(picture.name)}" if picture.width else None
    return {
        "name": picture.name,
        "width": picture.width,
        "height": picture.height,
        "caption": picture.caption,
        "problems": [locales.sentence(said, lang) for said in picture.problems],
        "refused": picture.refused,
        "thumbnail_url": url,
    }


# ----------------------------------------------------------------------------------------------- runs


def _add_runs(api: APIRouter, services: Services) -> None:
    jobs = services.jobs

    @api.post("/plan")
    async def plan(request: Request) -> Response:
        form = read_form(await _body(request), services)
        return _answer(await run_in_threadpool(_plan_json, form, services, language(request)))

    @api.post("/runs")
    async def create_run(request: Request) -> Response:
        form = read_form(await _body(request), services)
        run = await run_in_threadpool(jobs.submit, form)
        view = await run_in_threadpool(jobs.view, run)
        return _answer({"run": run_json(view, services, language(request))})

    @api.get("/runs")
    def list_runs(request: Request) -> Response:
        return _answer({"runs": [run_json(view, services, language(request)) for view in jobs.list()]})

    @api.get("/runs/{run_id}")
    def get_run(run_id: str, request: Request) -> Response:
        return _answer(run_json(jobs.view(jobs.get(run_id)), services, language(request)))

    @api.get("/runs/{run_id}/events")
    def get_events(run_id: str, request: Request) -> Response:
        run, lang = jobs.get(run_id), language(request)
        found, offset = events.read(run.events_path, _number(request, "since", 0))
        return _answer({"events": [event_json(timed, lang) for timed in found], "next": offset})

    @api.get("/runs/{run_id}/samples/{file}")
    def get_sample(run_id: str, file: str) -> Response:
        path = jobs.get(run_id).samples_dir / file
        if Path(file).name != file or path.suffix.lower() not in (".png", ".jpg", ".webp") or not path.is_file():
            raise RefusedError(404, HostError("There is no such picture."))
        return FileResponse(path, headers=_KEPT)

    @api.post("/runs/{run_id}/stop")
    def stop_run(run_id: str, request: Request) -> Response:
        run = jobs.get(run_id)
        jobs.stop(run)
        return _answer({"run": run_json(jobs.view(run), services, language(request))})

    @api.post("/runs/{run_id}/resume")
    def resume_run(run_id: str, request: Request) -> Response:
        run = jobs.get(run_id)
        jobs.resume(run)
        return _answer({"run": run_json(jobs.view(run), services, language(request))})


def read_form(data: dict[str, Any], services: Services) -> JobForm:
    """The form as the page sent it. Raises RefusedError for a path where paths are not allowed, DataError for an
    upload or a base model that is not offered."""
    given = data.get("form", data)
    if not isinstance(given, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")

    def word(name: str, default: str = "") -> str:
        return str(given.get(name) or default)

    pictures, own = None, False
    if word("upload"):
        pictures, own = services.uploads.get(word("upload")).source, services.uploads.is_own(word("upload"))
    elif word("folder"):
        services.access.check_paths()
        pictures = services.uploads.get(services.uploads.open_folder(word("folder"))).source
    models = {str(info.path): info for info in services.base_models()}
    base_model = word("base_model", next(iter(models), ""))
    if base_model not in models:
        services.access.check_paths()
    info = models.get(base_model)
    return JobForm(
        name=word("name"),
        trigger=word("trigger"),
        goal=word("goal", "character"),
        whose=word("whose"),
        pictures=pictures,
        base_model=Path(base_model),
        quality=word("quality", "good"),
        keep_pictures=own,
        regularisation=services.regularisation(info) if info is not None else None,
    )


def _plan_json(form: JobForm, services: Services, lang: str) -> dict[str, Any]:
    proposal = services.jobs.propose(form)
    plan = proposal.plan
    problems = [
        {
            "field": notice.problem.field,
            "sentence": locales.sentence(notice.problem, lang),
            "blocking": notice.blocking,
            "suggestion": notice.suggestion,
        }
        for notice in proposal.notices
    ]
    return {
        "name": proposal.name,
        "safe_name": safe_name(form.name),
        "sentence": _plan_sentence(plan, lang) if plan and proposal.pictures else "",
        "seconds": plan.seconds if plan else None,
        "steps": plan.steps if plan else None,
        "pictures": proposal.pictures,
        "file_bytes": plan.file_bytes if plan else None,
        "memory_bytes": plan.memory_bytes if plan else None,
        "problems": problems,
    }


def _plan_sentence(plan: Plan, lang: str) -> str:
    return _join([locales.sentence(part, lang) for part in plan.sentence()], lang)


def run_json(view: RunView, services: Services, lang: str) -> dict[str, Any]:
    """A run as the page shows it."""
    job = view.job
    plan = Plan.from_table(job.plan) if job else None
    return {
        "id": view.run.id,
        "name": job.name if job else view.run.id,
        "trigger": job.trigger if job else "",
        "goal": job.goal if job else "",
        "status": view.status,
        "stage": view.stage,
        "stage_done": view.stage_done,
        "stage_total": view.stage_total,
        "step": view.step,
        "steps": view.steps,
        "seconds_left": view.seconds_left,
        "loss": view.loss,
        "created": job.created if job else 0,
        "plan": _plan_sentence(plan, lang) if plan else "",
        "result": _result_json(view, services),
        "best": _best_json(view),
        "error": error_json(view.error, lang) if view.error else None,
        "can_resume": job is not None and view.status in ("stopped", "failed", "died", "waiting"),
    }


def _best_json(view: RunView) -> dict[str, Any] | None:
    if view.best is None:
        return None
    return {"step": view.best_step, "loss": view.best_loss, "file": view.best.name, "is_last": view.is_best_last}


def _result_json(view: RunView, services: Services) -> dict[str, Any] | None:
    if view.result is None or view.job is None:
        return None
    name = view.result.stem
    return {
        "name": name,
        "tag": f"<lora:{name}:0.8>",
        "trigger": view.job.trigger,
        "preview_url": f"{PREFIX}/loras/{quote(name)}/preview",
        "exists": view.result.is_file(),
    }


def event_json(timed: events.Timed, lang: str) -> dict[str, Any]:
    """One event with its time; sentences in it are in ``lang``."""
    event = timed.event
    data = {"kind": event.kind, "at": timed.at, **asdict(event)}
    # A message from a newer or damaged trainer may lack what we need; the page then has the event without words.
    with contextlib.suppress(KeyError, TypeError, IndexError):
        if isinstance(event, events.Warned):
            data["message"] = locales.sentence(Message.from_json(event.message), lang)
        elif isinstance(event, events.Failed):
            data["error"] = error_json(ExtensionError.from_json(event.error), lang)
    return data


# ----------------------------------------------------------------------------------------------- LoRAs


def _add_loras(api: APIRouter, services: Services) -> None:
    @api.get("/loras")
    def list_loras(request: Request) -> Response:
        lang = language(request)
        return _answer({"loras": [_lora_json(entry, lang) for entry in services.catalogue.list()]})

    @api.get("/loras/{name:path}/preview")
    def preview(name: str) -> Response:
        entry = services.catalogue.find(name)
        if entry.preview is None or not entry.preview.is_file():
            # ``find`` knows what was listed last; a card may have come since.
            services.catalogue.list()
            entry = services.catalogue.find(name)
        if entry.preview is None:
            raise RefusedError(404, JobError("“{name}” has no preview picture.", name=name))
        return FileResponse(entry.preview, headers=_HEADERS)


def _lora_json(entry: Entry, lang: str) -> dict[str, Any]:
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
