"""Routes for the expert's form: every setting with its label and help, files that come in and go out, presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from .. import engines, locales, safetensors_header
from ..config import TrainConfig
from ..config.setting import key_of
from ..errors import ConfigError, DataError
from ..jobs import interchange, overlay
from ..jobs.presets import Presets
from .answers import HEADERS, answer, body, language, problem_json
from .job_forms import read_form
from .services import Services

_LARGEST_TEXT = 2_000_000


def add_settings(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/settings`` and ``/presets``."""
    presets = Presets(services.jobs.data_dir / "presets")

    def base(data: Mapping[str, Any]) -> TrainConfig:
        """The recipe that changes are laid over. Raises ConfigError where the form has none."""
        proposal = services.jobs.propose(read_form(data, services))
        if proposal.recipe is None:
            raise ConfigError.from_problems(proposal.blocking())
        return proposal.recipe

    @api.get("/settings")
    def describe(request: Request) -> Response:
        """What each setting is; its value comes with the plan."""
        lang = language(request)
        return answer(
            {
                "settings": [field_json(place, f, lang) for place, f in overlay.all_fields()
                             if place not in overlay.OF_THE_JOB and f.metadata],
                "engines": list(engines.NAMES),
            }
        )  # fmt: skip

    @api.post("/settings/text")
    async def as_text(request: Request) -> Response:
        """The whole job as kohya's TOML."""
        form = read_form(await body(request), services)
        proposal = await run_in_threadpool(services.jobs.propose, form)
        if proposal.config is None:
            raise ConfigError.from_problems(proposal.blocking())
        return answer({"text": interchange.to_text(proposal.config)})

    @api.post("/settings/read")
    async def read(request: Request) -> Response:
        """What a text, a LoRA's header (``header``) or a LoRA of this host (``lora``) says, as changes."""
        data, lang = await body(request), language(request)
        recipe = await run_in_threadpool(base, data)
        if isinstance(data.get("header"), dict):
            found = interchange.read_lora(*_header(data["header"]), recipe)
        elif data.get("lora"):
            entry = services.catalogue.find(str(data["lora"]))
            header = await run_in_threadpool(safetensors_header.read, entry.path)
            dtypes = {key: tensor.dtype for key, tensor in header.tensors.items()}
            found = interchange.read_lora(header.metadata, dtypes, recipe)
        else:
            text = str(data.get("text", ""))
            if len(text) > _LARGEST_TEXT:
                raise DataError("This file is too large to be settings.")
            found = interchange.read_text(text, recipe)
        return answer(_read_json(found, lang))

    @api.get("/presets")
    def list_presets() -> Response:
        return answer({"presets": presets.names()})

    @api.get("/presets/{name}")
    def get_preset(name: str) -> Response:
        """The preset's own file, to be given away."""
        return Response(presets.text(name), media_type="application/toml", headers=HEADERS)

    @api.post("/presets/{name}/read")
    async def read_preset(name: str, request: Request) -> Response:
        data = await body(request)
        recipe = await run_in_threadpool(base, data)
        return answer(_read_json(interchange.read_text(presets.text(name), recipe), language(request)))

    @api.put("/presets/{name}")
    async def keep_preset(name: str, request: Request) -> Response:
        data = await body(request)
        form = read_form(data, services)
        proposal = await run_in_threadpool(services.jobs.propose, form)
        if proposal.config is None or proposal.recipe is None or proposal.info is None:
            raise ConfigError.from_problems(proposal.blocking())
        changes = overlay.difference(proposal.config, proposal.recipe)
        text = interchange.preset_text(name, changes, goal=form.goal, family=proposal.info.family)
        return answer({"name": presets.keep(name, text), "presets": presets.names()})

    @api.delete("/presets/{name}")
    def remove_preset(name: str) -> Response:
        presets.remove(name)
        return answer({"presets": presets.names()})


def field_json(place: str, f: dataclasses.Field[Any], lang: str) -> dict[str, Any]:
    """One setting: where it is, how it is called, what it may be."""
    metadata = f.metadata
    return {
        "place": place,
        "label": locales.text(metadata["label"], lang),
        "help": locales.text(metadata["help"], lang),
        "english": metadata["label"],
        "key": key_of(f),
        "kind": str(f.type),
        "choices": list(metadata["choices"]),
        "least": metadata["least"],
        "most": metadata["most"],
    }


def _read_json(found: interchange.Read, lang: str) -> dict[str, Any]:
    return {
        "kind": found.kind,
        "changes": dict(found.changes),
        "notes": [problem_json(each, lang) for each in found.notes],
        "problems": [problem_json(each, lang) for each in found.problems],
        "trigger": found.trigger,
        "base_model": found.base_model,
    }


def _header(given: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Metadata and number formats of a safetensors header that the page read from a file."""
    metadata = given.get("__metadata__", {})
    said = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    tensors = {k: v for k, v in given.items() if k != "__metadata__" and isinstance(v, dict)}
    return said, {str(key): str(tensor.get("dtype", "")) for key, tensor in tensors.items()}
