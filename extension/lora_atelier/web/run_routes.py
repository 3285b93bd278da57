"""Routes for trainings: the plan, the queue, one run as it goes on, and what can be done with it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool

from .. import events, locales
from ..errors import ExtensionError, HostError, Message, NotEnoughMemoryError
from ..jobs import devices
from ..jobs.estimate import Plan
from ..jobs.remedies import take_less_memory
from ..jobs.run_dir import RunDir
from ..jobs.view import RunView
from ..rights import memorisation
from .access import RefusedError
from .answers import KEPT, PREFIX, answer, body, error_json, language, number
from .job_forms import plan_json, plan_sentence, read_form
from .services import Services

# A chart is some hundred pixels wide: more points than this are joined before they are sent.
_MOST_POINTS = 600
_LOG_LINES = 200


def add_runs(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/plan`` and ``/runs``."""
    jobs, queue = services.jobs, services.queue

    def shown(view: RunView, request: Request) -> dict[str, Any]:
        return run_json(view, services, language(request))

    @api.post("/plan")
    async def plan(request: Request) -> Response:
        data = await body(request)
        form = await run_in_threadpool(read_form, data, services)
        return answer(await run_in_threadpool(plan_json, form, data, services, language(request)))

    @api.post("/runs")
    async def create_run(request: Request) -> Response:
        form = await run_in_threadpool(read_form, await body(request), services)
        run = await run_in_threadpool(queue.submit, form)
        view = await run_in_threadpool(jobs.view, run)
        return answer({"run": shown(view, request)})

    @api.get("/runs")
    def list_runs(request: Request) -> Response:
        """All runs, the newest first, and the order of those that wait."""
        order = [run.id for run in queue.waiting()]
        views = jobs.list()
        held = any(view.paused for view in views)
        said = {"runs": [shown(view, request) for view in views], "queue": order, "held": held}
        return answer({**said, "waits_for_picture": queue.waits_for_picture})

    @api.get("/runs/{run_id}")
    def get_run(run_id: str, request: Request) -> Response:
        return answer(shown(jobs.view(jobs.get(run_id)), request))

    @api.get("/runs/{run_id}/live")
    def get_live(run_id: str, request: Request) -> Response:
        """The run and what it has reported since ``since``: all that a page that follows it needs."""
        run, lang = jobs.get(run_id), language(request)
        found, offset = events.read(run.events_path, number(request, "since", 0))
        told = [event_json(timed, lang) for timed in thinned(found)]
        gpu = services.lease.state() if services.lease is not None else None
        return answer({"run": shown(jobs.view(run), request), "events": told, "next": offset, "gpu": gpu})

    @api.post("/gpu")
    async def share_gpu(request: Request) -> Response:
        """Let the host's pictures be drawn beside the training that goes on, or wait for it again."""
        if services.lease is None:
            raise RefusedError(404, HostError("There is no such action."))
        services.lease.share((await body(request)).get("share") is True)
        return answer({"gpu": services.lease.state()})

    @api.get("/runs/{run_id}/events")
    def get_events(run_id: str, request: Request) -> Response:
        run, lang = jobs.get(run_id), language(request)
        found, offset = events.read(run.events_path, number(request, "since", 0))
        return answer({"events": [event_json(timed, lang) for timed in found], "next": offset})

    @api.get("/runs/{run_id}/log")
    def get_log(run_id: str) -> Response:
        return answer({"text": jobs.get(run_id).log_tail(_LOG_LINES)})

    @api.get("/runs/{run_id}/memorisation")
    def get_memorisation(run_id: str, request: Request) -> Response:
        """Which training pictures came back when it was tested; nothing where it was not."""
        return answer(_memorisation_json(jobs.get(run_id), language(request)))

    @api.get("/runs/{run_id}/memorisation/{file}")
    def get_pair(run_id: str, file: str) -> Response:
        return picture(jobs.get(run_id).path / memorisation.FOLDER, file)

    @api.get("/runs/{run_id}/samples/{file}")
    def get_sample(run_id: str, file: str) -> Response:
        return picture(jobs.get(run_id).samples_dir, file)

    @api.post("/runs/{run_id}/move")
    async def move(run_id: str, request: Request) -> Response:
        to = (await body(request)).get("to", 0)
        await run_in_threadpool(queue.move, jobs.get(run_id), to if type(to) is int else 0)
        return answer({"queue": [run.id for run in queue.waiting()]})

    def less_memory(run: RunDir) -> None:
        jobs.require_resumable(run)
        take_less_memory(run)
        queue.resume(run)

    @api.post("/runs/{run_id}/{verb}")
    def act(run_id: str, verb: str, request: Request) -> Response:
        run = jobs.get(run_id)
        acts = {
            "stop": queue.stop, "pause": queue.pause, "resume": queue.resume, "sample": jobs.ask_sample,
            "save": jobs.ask_save, "less-memory": less_memory,
        }  # fmt: skip
        if verb not in acts:
            raise RefusedError(404, HostError("There is no such action."))
        acts[verb](run)
        return answer({"run": shown(jobs.view(run), request)})

    @api.delete("/runs/{run_id}")
    def remove(run_id: str) -> Response:
        run = jobs.get(run_id)
        queue.remove(run)
        jobs.delete(run)
        return answer({})


def picture(folder: Path, file: str) -> Response:
    """A picture of a run's folder. Raises RefusedError unless ``file`` is the plain name of one in it."""
    path = folder / file
    plain = Path(file).name == file and "\\" not in file and "\0" not in file
    if not plain or path.suffix.lower() not in (".png", ".jpg", ".webp") or path.is_symlink() or not path.is_file():
        raise RefusedError(404, HostError("There is no such picture."))
    return FileResponse(path, headers=KEPT)


def _memorisation_json(run: RunDir, lang: str) -> dict[str, Any]:
    """The memorisation test of a run, if there was one."""
    try:
        found = json.loads((run.path / memorisation.FILE).read_text(encoding="utf-8"))
        said = Message.from_json(found["said"])
        rows = [
            {name: str(each.get(name) or "") for name in ("name", "verdict", "pair")}
            | {"safe_weight": each.get("safe_weight")}
            for each in found["tested"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"sentence": "", "pictures": []}
    return {"sentence": locales.sentence(said, lang), "pictures": rows, "safe_weight": found.get("safe_weight")}


def run_json(view: RunView, services: Services, lang: str) -> dict[str, Any]:
    """A run as the page shows it."""
    job = view.job
    plan = Plan.from_table(job.plan) if job else None
    return {
        "id": view.run.id,
        "name": job.name if job else view.run.id,
        "trigger": job.trigger if job else "",
        "goal": job.goal if job else "",
        "engine": job.engine if job else "",
        "family": job.family if job else "",
        "status": _status(view),
        "stage": view.stage,
        "stage_done": view.stage_done,
        "stage_total": view.stage_total,
        "step": view.step,
        "steps": view.steps,
        "epoch": -(-view.step // view.steps_per_epoch) if view.steps_per_epoch else 0,
        "epochs": -(-view.steps // view.steps_per_epoch) if view.steps_per_epoch else 0,
        "seconds_left": view.seconds_left,
        "seconds_per_step": view.seconds_per_step,
        "memory_bytes": view.peak_memory_bytes,
        "device": view.device,
        "card": devices.number(view.card),
        "loss": view.loss,
        "created": job.created if job else 0,
        "plan": plan_sentence(plan, lang) if plan else "",
        "planned_seconds": plan.seconds if plan else None,
        "planned_memory_bytes": plan.memory_bytes if plan else None,
        "result": _result_json(view, services),
        "best": _best_json(view),
        "error": error_json(view.error, lang) if view.error else None,
        "remedy": "less-memory" if isinstance(view.error, NotEnoughMemoryError) else "",
        "can_resume": job is not None and not view.queued and view.status in ("stopped", "failed", "died", "waiting"),
        "paused": view.paused,
    }


def _status(view: RunView) -> str:
    """The run's status; one that waits for its turn is "queued", one that was stopped to go on later "paused"."""
    if view.queued and view.status != "running":
        return "queued"
    return "paused" if view.paused and view.status in ("stopped", "died") else view.status


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
        "preview_url": f"{PREFIX}/loras/{quote(name, safe='')}/preview",
        "exists": view.result.is_file(),
    }


def thinned(found: Sequence[events.Timed]) -> list[events.Timed]:
    """The events, with neighbouring ``stepped`` ones joined where there are more than a chart can show.

    The loss of joined ones is their mean; the last of them gives the rest. The very last one is always itself.
    """
    stepped = [timed for timed in found if isinstance(timed.event, events.Stepped)]
    every = -(-len(stepped) // _MOST_POINTS)
    if every <= 1:
        return list(found)
    kept: list[events.Timed] = []
    group: list[events.Timed] = []
    for timed in found:
        if not isinstance(timed.event, events.Stepped):
            kept.append(timed)
            continue
        group.append(timed)
        if len(group) == every or timed is stepped[-1]:
            losses = [each.event.loss for each in group if isinstance(each.event, events.Stepped)]
            kept.append(replace(timed, event=replace(timed.event, loss=sum(losses) / len(losses))))
            group = []
    return kept


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
