"""One report for counsel about a run or a LoRA: what it was trained on, on what basis, what was found and done.

Everything is read from what lies on this machine; nothing is judged. ``report_html`` makes a page of it.
"""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from .. import __version__
from ..config_files import load_toml
from ..errors import ConfigError, ExtensionError, Message, RightsError
from . import credentials, evidence, gate, guard_log, ledger, memorisation, signature
from .folder_ledger import FolderLedger, now
from .said import PROFILES
from .scanning import open_ledger
from .showings import Showings
from .signals_base import count
from .store import Store

# 2: with how often pictures were shown, the memorisation test picture by picture, and pairs of pictures.
SCHEMA = 2
_MOST_LOG_LINES = 5000
# Pairs of pictures that the report holds itself, of the test and of the guard's log each.
_MOST_PAIRS = 4
_PAIR_SIDE, _PAIR_QUALITY = 720, 80


def find(target: str, data_dir: Path) -> tuple[Path | None, Path | None]:
    """The run's directory and the LoRA file that ``target`` means: a file, a directory, a run's id or its beginning.

    Raises RightsError if it is nothing of that.
    """
    path = Path(target)
    if path.is_file():
        return credentials.run_of(credentials.read(path), data_dir), path
    if (path / gate.LEDGER).is_file():
        return path, _lora_of(path)
    runs = sorted((data_dir / "runs").glob("*"), reverse=True)
    found = next((run for run in runs if run.name == target), None) or next(
        (run for run in runs if target and run.name.startswith(target)), None
    )
    if found is None:
        raise RightsError(
            "There is nothing to report about “{target}”.",
            why="It is neither a LoRA file nor a training of this data folder.",
            todo="Name a .safetensors file, or a training as `lora-atelier jobs` lists it.",
            target=target,
        )
    return found, _lora_of(found)


def _lora_of(run_dir: Path) -> Path | None:
    """The LoRA that a run finished with, if it is still there."""
    for event in reversed(_lines(run_dir / "events.jsonl")):
        if event.get("kind") == "finished" and Path(str(event.get("file", ""))).is_file():
            return Path(event["file"])
    return None


def gather(run_dir: Path | None, lora: Path | None, data_dir: Path) -> dict[str, Any]:
    """The report as JSON; parts that are not on this machine are None. Raises AdapterFormatError, RightsError."""
    said = credentials.read(lora) if lora is not None else None
    return {
        "schema": SCHEMA,
        "made": now(),
        "made_by": f"LoRA Atelier {__version__}",
        "lora": _lora(lora, said) if lora is not None else None,
        "rights": said,
        "run": _run(run_dir) if run_dir is not None else None,
        "pictures": _pictures(run_dir) if run_dir is not None else None,
        "left_out": _left_out(run_dir) if run_dir is not None else None,
        "folders": _folders(run_dir, data_dir) if run_dir is not None else [],
        "memorisation": (said or {}).get("memorisation"),
        "memorisation_test": _memorisation(run_dir) if run_dir is not None else None,
        "guard": _guard(lora, data_dir),
        "profiles": list(PROFILES),
    }


def _lora(path: Path, said: Mapping[str, Any] | None) -> dict[str, Any]:
    verdict = signature.verify(path)
    return {
        "name": path.name,
        "tensors_sha256": signature.tensors_digest(path),
        "signature": verdict.state,
        "key": verdict.key,
        "said": [one.to_json() for one in (verdict.said, *credentials.sentences(said))],
    }


def _run(run_dir: Path) -> dict[str, Any]:
    try:
        job = load_toml(run_dir / "job.toml")
    except (ConfigError, OSError):
        job = {}
    config = run_dir / "config.toml"
    taken = ("name", "trigger", "goal", "whose", "engine", "base_model", "created", "quality")
    found: dict[str, Any] = {name: job[name] for name in taken if name in job}
    if isinstance(found.get("created"), int | float):
        found["created"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found["created"]))
    if "base_model" in found:
        found["base_model"] = Path(str(found["base_model"])).name
    return {**found, "id": run_dir.name, "settings": config.read_text(encoding="utf-8") if config.is_file() else ""}


def _pictures(run_dir: Path) -> list[dict[str, Any]]:
    records = ledger.read(run_dir / gate.LEDGER).values()
    showings = Showings.read(run_dir)
    found: list[dict[str, Any]] = []
    for record in records:
        said = asdict(record)
        # Folders' names are nobody's business.
        group = Path(said.pop("group")).name
        shown = showings.counts.get(record.sha256) if showings is not None else None
        found.append({"name": Path(said.pop("path")).name, **said, "nearly_same_as": group, "shown": shown})
    return found


def _left_out(run_dir: Path) -> list[dict[str, Any]]:
    try:
        said = json.loads((run_dir / gate.REFUSED).read_text(encoding="utf-8"))
        return [{"name": Path(row["path"]).name, "rule": row["rule"], "why": row["why"]} for row in said["refused"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _folders(run_dir: Path, data_dir: Path) -> list[dict[str, Any]]:
    """What is stated for the folders that the pictures came from, with its history and the state of its documents."""
    store = Store(data_dir)
    places = dict.fromkeys(Path(record.path).parent for record in ledger.read(run_dir / gate.LEDGER).values())
    found = []
    for place in places:
        try:
            known = open_ledger(place, store if store.path.is_file() else None)
        except (ExtensionError, OSError) as error:
            found.append({"folder": place.name, "problem": str(error)})
            continue
        if known is not None:
            found.append(_folder(place, known, data_dir))
    return found


def _folder(place: Path, known: FolderLedger, data_dir: Path) -> dict[str, Any]:
    documents = list(known.statement.get("evidence", ()))
    for entry in known.entries.values():
        documents += [one for one in entry.said.get("evidence", ()) if one not in documents]
    broken: list[Message | None] = [evidence.broken(one, data_dir) for one in documents]
    return {
        "folder": place.name,
        "statement": known.statement,
        "exceptions": [
            {"name": one.name, "said": one.said, "override": one.override, "withdrawn": one.withdrawn}
            for one in known.entries.values()
            if one.said or one.override or one.withdrawn
        ],
        "evidence": [
            {**one, "problem": said.to_json() if said else None} for one, said in zip(documents, broken, strict=True)
        ],
        "history": [{name: event[name] for name in ("at", "by", "what", "hash")} for event in known.events],
    }


def _memorisation(run_dir: Path) -> dict[str, Any] | None:
    """The test picture by picture, the worst pairs with it; None where there was none or it can't be read."""
    try:
        said = json.loads((run_dir / memorisation.FILE).read_text(encoding="utf-8"))
        tested = [dict(each) for each in said["tested"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    pairs = [run_dir / memorisation.FOLDER / Path(str(each["pair"])).name for each in tested if each.get("pair")]
    return {**said, "tested": tested, "pairs": _pairs(pairs)}


def _guard(lora: Path | None, data_dir: Path) -> dict[str, Any]:
    """What the guard noted of pictures that were made with this LoRA: the measure against copies, as it was taken.

    Decisions on a picture stand with it; the newest pairs are there to be seen.
    """
    log = guard_log.of(data_dir)
    name = lora.stem if lora is not None else ""
    own: list[dict[str, Any]] = []
    for entry in log.entries():
        if "decision" in entry:
            newest = next((each for each in reversed(own) if each.get("picture") == entry.get("picture")), None)
            if newest is not None:
                newest["decision"] = entry["decision"]
        elif name and any(each.get("name") == name for each in entry.get("loras") or ()):
            own.append({"decision": None, **entry})
    verdicts = [str((each.get("finding") or {}).get("verdict", "")) for each in own]
    pairs = [log.folder / guard_log.PAIRS / Path(str(each["pair"])).name for each in reversed(own) if each.get("pair")]
    return {
        "checked": sum(bool(each) for each in verdicts),
        "verdicts": count(each for each in verdicts if each),
        "entries": own[-_MOST_LOG_LINES:],
        "pairs": _pairs(pairs),
    }


def _pairs(paths: list[Path]) -> list[dict[str, str]]:
    """The first pictures that can be read, made small, as data URLs: the report needs no file beside it."""
    found = []
    for path in paths[:_MOST_PAIRS]:
        try:
            with Image.open(path) as picture:
                small = picture.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        small.thumbnail((_PAIR_SIDE, _PAIR_SIDE))
        data = io.BytesIO()
        small.save(data, "JPEG", quality=_PAIR_QUALITY)
        found.append({"file": path.name, "url": "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()})
    return found


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(said, dict):
            found.append(said)
    return found
