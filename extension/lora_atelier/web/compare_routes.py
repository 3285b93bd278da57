"""Routes for a run's checkpoints: which there are, one kept as a LoRA, a grid that compares them."""

from __future__ import annotations

import math

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from ..errors import DataError, HostError, JobError
from ..jobs import checkpoints
from ..jobs.compare import FOLDER
from .answers import answer, body, language
from .run_routes import picture
from .services import Services


def add_checkpoints(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/checkpoints``."""
    jobs, comparison = services.jobs, services.comparison

    @api.get("/checkpoints/{run_id}")
    def list_checkpoints(run_id: str, request: Request) -> Response:
        run = jobs.get(run_id)
        found = checkpoints.checkpoints(jobs.view(run))
        grid = comparison.state(run, language(request)) if comparison is not None else None
        listed = [{"step": each.step, "kind": each.kind, "name": each.path.stem} for each in found]
        return answer({"checkpoints": listed, "can_compare": comparison is not None, "grid": grid})

    @api.post("/checkpoints/{run_id}/keep")
    async def keep(run_id: str, request: Request) -> Response:
        """Put the adapter of a step into the LoRA folder."""
        step = (await body(request)).get("step")
        view = await run_in_threadpool(jobs.view, jobs.get(run_id))
        path = await run_in_threadpool(checkpoints.keep, view, step if type(step) is int else -1)
        services.refresh_adapters()
        return answer(
            {"name": path.stem, "tag": f"<lora:{path.stem}:0.8>", "trigger": view.job.trigger if view.job else ""}
        )

    @api.post("/checkpoints/{run_id}/compare")
    async def compare(run_id: str, request: Request) -> Response:
        asked = await body(request)
        run = jobs.get(run_id)
        if comparison is None:
            raise HostError("Checkpoints can't be compared in this webui yet.", todo="Use its X/Y/Z plot.")
        running = await run_in_threadpool(jobs.running)
        if running is not None:
            raise JobError("The training needs the machine; compare when it has ended or is paused.")
        weights = asked.get("weights", [0.4, 0.8, 1.0])
        if not isinstance(weights, list) or not all(_is_weight(each) for each in weights):
            raise DataError("Weights are numbers from -2 to 2, parted by commas.")
        seed = asked.get("seed", 1)
        view = await run_in_threadpool(jobs.view, run)
        await run_in_threadpool(
            lambda: comparison.start(
                view,
                prompt=str(asked.get("prompt", ""))[:2000],
                weights=weights,
                seed=seed if type(seed) is int and 0 <= seed < 2**32 else 1,
            )
        )
        return answer({"grid": comparison.state(run, language(request))})

    @api.post("/checkpoints/{run_id}/cancel")
    def cancel(run_id: str) -> Response:
        jobs.get(run_id)
        if comparison is not None:
            comparison.cancel()
        return answer({})

    @api.get("/checkpoints/{run_id}/pictures/{file}")
    def get_picture(run_id: str, file: str) -> Response:
        return picture(jobs.get(run_id).path / FOLDER, file)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) <= 2
