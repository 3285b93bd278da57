"""What all routes share: the language, bodies that are JSON, answers and errors in the reader's words."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from .. import locales
from ..errors import (
    AdapterNotFoundError,
    AlreadyRunningError,
    ConfigError,
    DataError,
    ExtensionError,
    HostError,
    Problem,
)
from .access import RefusedError
from .services import Services

PREFIX = "/lora-atelier/v1"
LANGUAGE_HEADER = "X-Atelier-Lang"
# Sent with every answer: nothing here may be kept by a shared cache, or be read as another type than it says.
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
KEPT = {"Cache-Control": "private, max-age=3600", "X-Content-Type-Options": "nosniff"}
_LARGEST_BODY = 4_000_000
_log = logging.getLogger(__name__)


def language(request: Request) -> str:
    """The reader's language: what the page says, else what the browser prefers."""
    return locales.choose(request.headers.get("accept-language", ""), request.headers.get(LANGUAGE_HEADER, ""))


def guarded(services: Services) -> type[APIRoute]:
    """The class of routes behind the access check, whose errors become sentences without help of the host."""

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Any]:
            handler = super().get_route_handler()

            async def answered(request: Request) -> Response:
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

            return answered

    return GuardedRoute


def _status(error: ExtensionError) -> int:
    if isinstance(error, AlreadyRunningError):
        return 409
    if isinstance(error, AdapterNotFoundError):
        return 404
    return 422 if isinstance(error, ConfigError) else 400


def _error(error: ExtensionError, lang: str, status: int) -> JSONResponse:
    return JSONResponse({"error": error_json(error, lang)}, status_code=status, headers=HEADERS)


def error_json(error: ExtensionError, lang: str) -> dict[str, Any]:
    """What, why and what to do in ``lang``; a form's problems also field by field."""
    said: dict[str, Any] = {name: locales.sentence(getattr(error, name), lang) for name in ("what", "why", "todo")}
    if isinstance(error, ConfigError) and error.problems:
        said["problems"] = [problem_json(each, lang) for each in error.problems]
        said["why"] = join([entry["sentence"] for entry in said["problems"]], lang)
    return said


def problem_json(said: Problem, lang: str) -> dict[str, str]:
    """One problem: its field and its sentence."""
    return {"field": said.field, "sentence": locales.sentence(said, lang)}


def join(sentences: list[str], lang: str) -> str:
    """Sentences one after the other."""
    return ("" if lang == "ja" else " ").join(sentence for sentence in sentences if sentence)


def answer(data: dict[str, Any]) -> JSONResponse:
    """Plain JSON."""
    return JSONResponse(data, headers=HEADERS)


async def body(request: Request) -> dict[str, Any]:
    """The JSON object that a page sent. Raises DataError if it is none or too long."""
    data: Any = None
    text = await request.body()
    if len(text) <= _LARGEST_BODY:
        try:
            data = json.loads(text or b"{}")
        except (ValueError, RecursionError):
            data = None
    if not isinstance(data, dict):
        raise DataError("The page sent something that can't be read.", todo="Reload the page.")
    return data


def number(request: Request, name: str, default: int) -> int:
    """A whole number in the address; the default for anything else."""
    text = request.query_params.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else default
