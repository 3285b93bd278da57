"""Routes for the trainer's environment: whether it is there, making it, what is wrong with it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from .. import locales
from ..errors import HostError
from ..jobs.trainer_setup import SetupView, TrainerSetup, sentence
from .access import RefusedError
from .answers import answer, error_json, language
from .services import Services


def add_environment(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/environment``."""
    made = services.environment

    def allowed() -> TrainerSetup:
        """Programs are started and paths shown for whoever sits at this machine only."""
        if services.access.remote:
            raise RefusedError(
                403,
                HostError(
                    "The trainer's environment can't be made from here.",
                    why="This webui can be reached from other machines.",
                    todo="Start it without that once, or type  python install.py trainer  in the extension's folder.",
                ),
            )
        if made is None:
            raise RefusedError(404, HostError("There is nothing to set up here."))
        return made

    def shown(request: Request) -> dict[str, Any]:
        if made is None:
            return {"state": "ready"}
        return environment_json(made.view(), language(request), may=not services.access.remote)

    @api.get("/environment")
    def get_environment(request: Request) -> Response:
        return answer(shown(request))

    @api.post("/environment/make")
    async def make(request: Request) -> Response:
        """Begin, or go on where it ended."""
        await run_in_threadpool(allowed().start)
        return answer(await run_in_threadpool(shown, request))

    @api.post("/environment/stop")
    def stop(request: Request) -> Response:
        allowed().stop()
        return answer(shown(request))

    @api.post("/environment/examine")
    async def examine(request: Request) -> Response:
        """What ``install.py doctor`` says; programs are asked for it, so reading alone does not do it."""
        found, lang = await run_in_threadpool(allowed().examine), language(request)
        told = [
            {
                "level": each.level,
                "said": locales.sentence(each.said, lang),
                "mend": locales.sentence(each.mend, lang) if each.mend else "",
            }
            for each in found
        ]
        return answer({"findings": told})


def environment_json(view: SetupView, lang: str, *, may: bool) -> dict[str, Any]:
    """How the environment stands, as the page shows it; ``may``: whether this page may change that."""
    said, progress = sentence(view), view.progress
    return {
        "state": view.state,
        "said": locales.sentence(said, lang) if said else "",
        "error": error_json(view.error, lang) if view.error is not None else None,
        "log": view.log if may else "",
        "stage": progress.stage,
        "item": progress.item,
        "done": progress.done,
        "total": progress.total,
        "unpacking": progress.unpacking,
        "may": may,
    }
