"""Our extra network: what a webui calls before each batch with the prompt's ``<lora:…>`` tags."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .. import locales
from ..errors import HostError
from ..loader.catalogue import Catalogue
from ..prompt import NetworkCall, parse
from .base import Note
from .router import NETWORK, tag_items
from .webui import WebuiHost

# Digits of a hash beside a picture, as A1111 and its descendants write them, and SD.Next.
_DIGITS, _SDNEXTS_DIGITS = 12, 8
# The prompt's conditioning is kept in these lists of one pair each, shared by all generations.
_CONDITIONS = ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc")
_log = logging.getLogger(__name__)


def make(extra_networks: Any, host: WebuiHost) -> Any:
    """The object that the webui's registry takes; its signatures suit SD.Next, too."""

    class AtelierNetwork(extra_networks.ExtraNetwork):
        """Applies a prompt's LoRAs through our loader."""

        def __init__(self) -> None:
            super().__init__(NETWORK)
            self._text: tuple[Any, ...] = ()

        def activate(self, p: Any, params_list: Any, step: int = 0, include: Any = None, exclude: Any = None) -> None:
            """Make exactly these LoRAs the model's; called for every batch, also with none."""
            calls, notes = read_params(params_list or ())
            if any(str(each).startswith("text_encoder") for each in exclude or ()):
                calls = [dataclasses.replace(call, te=0.0) for call in calls]
            notes = [*notes, *_use(host, calls)]
            text = tuple((name, digits, call.te) for (name, digits), call in zip(host.applied, calls) if call.te)  # noqa: B905
            if text != self._text:
                self._text = text
                forget_conditions(p)
            host.drawer.hear(notes)
            for note in notes:
                say(p, locales.sentence(note, host.lang()))
            write_hashes(p, host)
            host.pictures.begin(p, host.on)

        def deactivate(self, p: Any, force: bool = False) -> None:
            """Nothing: webuis call this now and then only, so every activation is a full replacement."""

    return AtelierNetwork()


def read_params(params_list: Iterable[Any]) -> tuple[list[NetworkCall], list[Note]]:
    """The calls that a webui has parsed, read by our own grammar; what makes no sense is said."""
    calls: list[NetworkCall] = []
    notes: list[Note] = []
    for params in params_list:
        parsed = parse(f"<lora:{':'.join(tag_items(params))}>")
        calls += parsed.calls
        notes += parsed.problems
    return calls, notes


def _use(host: WebuiHost, calls: Sequence[NetworkCall]) -> list[Note]:
    try:
        return host.use(calls)
    except Exception as error:
        # The picture is made all the same; the model is what it was before.
        _log.exception("LoRAs could not be applied")
        return [HostError("LoRAs were not applied.", why="{kind}: {reason}.", kind=type(error).__name__,
                          reason=str(error))]  # fmt: skip


def forget_conditions(p: Any) -> None:
    """Let the webui encode the prompts again: it knows nothing of the text encoder's weights."""
    for name in _CONDITIONS:
        kept = getattr(p, name, None)
        if isinstance(kept, list):
            kept[:] = [None] * len(kept)


def say(p: Any, text: str) -> None:
    """Write a sentence below the picture."""
    comment = getattr(p, "comment", None)
    if callable(comment):
        comment(text)
    elif isinstance(getattr(p, "comments", None), dict):
        p.comments[text] = 1


def write_hashes(p: Any, host: WebuiHost) -> None:
    """Write the applied LoRAs' hashes into the picture's text, as the webui's own loader does."""
    params = getattr(p, "extra_generation_params", None)
    if not host.applied or not isinstance(params, dict):
        return
    wanted = bool(host.option("lora_add_hashes_to_infotext", True))
    if host.id == "sdnext":
        params["LoRA networks"] = ", ".join(name for name, _ in host.applied)
        if wanted:
            params["LoRA hashes"] = ", ".join(digits[:_SDNEXTS_DIGITS] for _, digits in host.applied)
    elif wanted:
        pairs = ((name.replace(":", "").replace(",", ""), digits[:_DIGITS]) for name, digits in host.applied)
        params["Lora hashes"] = ", ".join(f"{name}: {digits}" for name, digits in pairs)


def find_pasted(params: dict[str, Any], catalogue: Catalogue) -> None:
    """Give the tags of a pasted picture's prompt the names that the same files have here, found by their hashes."""
    hashes = _pasted_hashes(params)
    if not hashes or not isinstance(params.get("Prompt"), str):
        return

    def renamed(match: re.Match[str]) -> str:
        entry = catalogue.find_hash(hashes.get(match[1].strip(), ""))
        return match[0] if entry is None else f"<lora:{entry.name}{match[2]}"

    params["Prompt"] = re.sub(r"<lora:([^:>]+)([:>])", renamed, params["Prompt"])


def _pasted_hashes(params: Mapping[str, Any]) -> dict[str, str]:
    """Names in the pasted prompt -> hashes; SD.Next writes both in the same order."""
    pairs = (each.rpartition(":") for each in str(params.get("Lora hashes") or "").split(","))
    found = {name.strip(): digits.strip() for name, _, digits in pairs if name.strip()}
    names = [each.strip() for each in str(params.get("LoRA networks") or "").split(",") if each.strip()]
    digits = [each.strip() for each in str(params.get("LoRA hashes") or "").split(",") if each.strip()]
    return found or (dict(zip(names, digits)) if len(names) == len(digits) else {})  # noqa: B905 - same lengths
