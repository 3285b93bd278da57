"""Routes for what the guard found of pictures: the newest, one picture's, both pictures of a pair, what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from .. import locales
from ..errors import DataError, HostError
from ..rights import guard_words
from ..rights.guard import Finding
from ..rights.guard_log import DECISIONS, PAIRS, GuardLog
from .access import RefusedError
from .answers import answer, body, language, number
from .run_routes import picture
from .services import Services

_MOST = 500


def add_guard(api: APIRouter, services: Services) -> None:
    """Add the routes below ``/guard``."""
    log = GuardLog(services.jobs.data_dir / "rights")

    @api.get("/guard")
    def newest(request: Request) -> Response:
        """The newest pictures that were compared, the newest first; ``picture`` in the address asks for one, ``lora``
        for those that were made with one LoRA."""
        lang, asked = language(request), request.query_params.get("picture", "")
        if asked:
            entry = log.find(asked)
            return answer({"pictures": [] if entry is None else [_shown(entry, lang)]})
        most = min(number(request, "most", 50), _MOST)
        lora = request.query_params.get("lora", "")
        found: list[dict[str, Any]] = []
        decided: dict[str, Any] = {}
        for entry in log.entries():
            if "decision" in entry:
                decided[str(entry.get("picture"))] = entry["decision"]
            elif "finding" in entry and (not lora or _is_of(entry, lora)):
                found.append(entry)
        entries = [{**each, "decision": decided.get(str(each.get("picture")))} for each in found[-most:] if most]
        return answer({"pictures": [_shown(entry, lang) for entry in reversed(entries)]})

    @api.get("/guard/pairs/{file}")
    def pair(file: str) -> Response:
        return picture(log.folder / PAIRS, file)

    @api.post("/guard/decision")
    async def decide(request: Request) -> Response:
        """Note what the person decided on a picture that was found near a training picture."""
        said = await body(request)
        name, decision = said.get("picture"), said.get("decision")
        if not isinstance(name, str) or decision not in DECISIONS:
            raise DataError("The page sent something that can't be read.", todo="Reload the page.")
        if log.find(name) is None:
            raise RefusedError(404, HostError("There is no such picture."))
        log.decide(name, str(decision))
        return answer({})


def _is_of(entry: Mapping[str, Any], lora: str) -> bool:
    """Whether a picture was made with the LoRA of this name."""
    loras = entry.get("loras")
    listed = loras if isinstance(loras, list) else []
    return any(isinstance(each, dict) and each.get("name") == lora for each in listed)


def _shown(entry: Mapping[str, Any], lang: str) -> dict[str, Any]:
    """A line of the log as the page shows it, with its sentence; what is damaged in it is left out."""
    raw = entry.get("finding")
    loras = [each for each in entry.get("loras") or () if isinstance(each, dict)]
    sentence = None
    try:
        finding = Finding.from_json(raw) if isinstance(raw, dict) else None
        names = [str(each.get("name", "")) for each in loras]
        sentence = guard_words.sentence([finding], names) if finding is not None else None
    except (KeyError, TypeError, ValueError):
        finding = None
    # The guard keeps the nearest training picture of every output; it came near only where the verdict says so.
    near = finding.near if finding is not None and finding.verdict != "nothing found" else None
    return {
        "picture": str(entry.get("picture", "")),
        "time": str(entry.get("time", "")),
        "verdict": finding.verdict if finding is not None else "",
        "sentence": locales.sentence(sentence, lang) if sentence is not None else "",
        "near": {
            "lora": near.lora,
            "picture": near.picture,
            "look": near.look,
            "value": near.value,
            "limit": near.limit,
        }
        if near is not None
        else None,
        "pair": str(entry.get("pair") or ""),
        "loras": loras,
        "decision": entry.get("decision"),
    }
