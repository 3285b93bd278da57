"""Routes for measuring before a training: a dry run is begun, asked how it stands, taken back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from ..jobs.measuring import State
from .answers import answer, body, error_json, language
from .job_forms import read_form
from .services import Services


def add_measuring(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/measure``. What was measured is in the answers of ``/plan`` from then on."""
    measuring = services.measuring

    @api.post("/measure")
    async def begin(request: Request) -> Response:
        form = await run_in_threadpool(read_form, await body(request), services)
        await run_in_threadpool(measuring.start, form)
        return answer(state_json(await run_in_threadpool(measuring.state), language(request)))

    @api.get("/measure")
    def look(request: Request) -> Response:
        return answer(state_json(measuring.state(), language(request)))

    @api.delete("/measure")
    def cancel(request: Request) -> Response:
        measuring.cancel()
        return answer(state_json(measuring.state(), language(request)))


def state_json(state: State, lang: str) -> dict[str, Any]:
    """How a measurement stands."""
    return {
        "status": state.status,
        "stage": state.stage,
        "done": state.done,
        "total": state.total,
        "error": error_json(state.error, lang) if state.error is not None else None,
    }
