"""What a LoRA file says of the rights of its pictures, for people and programs; and which run here made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import safetensors_header
from ..errors import AdapterFormatError, Message, RightsError, message
from ..safetensors_header import BrokenFileError
from . import gate, ledger, licences, merkle, scanning
from .folder_ledger import item_id
from .signature import RIGHTS
from .store import Store

# Newer files say more; what is known of it is read.
_MAX_CHARACTERS = 10_000_000


def read(path: Path) -> dict[str, Any] | None:
    """What a LoRA file says of rights; None where it says nothing. Raises AdapterFormatError, OSError."""
    try:
        metadata = safetensors_header.read_metadata(path)
    except BrokenFileError as error:
        raise AdapterFormatError(
            "{name} can't be read as a LoRA.",
            why="The file is broken or incomplete: {reason}.",
            todo="Download or copy it again.",
            name=path.name,
            reason=str(error),
        ) from error
    return of_metadata(metadata)


def origins(loras: Sequence[Path]) -> list[dict[str, Any] | None]:
    """What LoRAs say of rights from which another one goes on; None for each that says nothing or can't be read."""
    found: list[dict[str, Any] | None] = []
    for path in loras:
        try:
            found.append(read(path))
        except (AdapterFormatError, OSError):
            found.append(None)
    return found


def of_metadata(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """What metadata say of rights; None where they say nothing, or nothing that can be read."""
    text = metadata.get(RIGHTS, "")
    if not text or len(text) > _MAX_CHARACTERS:
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def sentences(said: Mapping[str, Any] | None) -> list[Message]:
    """What the file says, line by line. A file that says nothing is not blamed for it."""
    if said is None:
        return [message("The file says nothing of the rights of its pictures.")]
    found = [
        message(
            "{count} pictures, by the rules “{profile}”; {refused} were left out, {override} were used against a "
            "prohibition.",
            count=_number(said, "pictures"),
            profile=str(said.get("profile", said.get("whose", ""))),
            refused=_number(said, "refused"),
            override=_number(said, "override"),
        )
    ]
    for name, template in (
        ("basis", message("Basis: {counts}")),
        ("licences", message("Licences: {counts}")),
        ("data_mining", message("Said about training: {counts}")),
    ):
        counts = said.get(name)
        if isinstance(counts, Mapping) and counts:
            found.append(Message(template.template, {"counts": _counts(counts)}))
    permits = said.get("permits")
    if isinstance(permits, Mapping):
        answers = ", ".join(f"{name} {permits[name]}" for name in licences.PERMITS if name in permits)
        found.append(message("All pictures together permit: {answers}", answers=answers))
    made_from = said.get("made_from")
    if isinstance(made_from, list) and made_from:
        silent = sum(not each for each in made_from)
        found.append(
            message(
                "It goes on from {count} other LoRAs, whose permits and credits are counted in; {silent} of them say "
                "nothing of rights.",
                count=len(made_from),
                silent=silent,
            )
        )
    if said.get("sharing") is False:
        found.append(message("It, or one that it goes on from, was trained as an experiment and is not for sharing."))
    if isinstance(said.get("credits"), list) and said["credits"]:
        found.append(message("Credits: {names}", names=", ".join(map(str, said["credits"]))))
    memorised = said.get("memorisation")
    if isinstance(memorised, Mapping) and not _number(memorised, "tested"):
        found.append(message("Memorisation: no picture was drawn to see whether it comes back."))
    elif isinstance(memorised, Mapping):
        found.append(
            message(
                "Memorisation: {hits} of {tested} tested pictures came back, with these prompts and seeds.",
                hits=_number(memorised, "hits"),
                tested=_number(memorised, "tested"),
            )
        )
    found.append(message("What is stated was stated by who trained it; nobody else checked it."))
    return found


def _number(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name, 0)
    return value if isinstance(value, int) else 0


def _counts(counts: Mapping[Any, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items())


# ------------------------------------------------------------------------------------------------ its run


def run_of(said: Mapping[str, Any] | None, data_dir: Path) -> Path | None:
    """The directory of the run on this machine whose pictures have the root that the file names, or None."""
    root = (said or {}).get("root")
    if not root:
        return None
    for run_dir in sorted((data_dir / "runs").glob("*"), reverse=True):
        if (run_dir / gate.SECRET).is_file() and root == _root_of(run_dir):
            return run_dir
    return None


def _root_of(run_dir: Path) -> str:
    try:
        return merkle.root(gate.secret_of(run_dir), hashes_of(run_dir))
    except (RightsError, OSError):
        return ""


def hashes_of(run_dir: Path) -> list[str]:
    """The sha256 of every picture that a run admitted and used. Raises RightsError."""
    used = ledger.read(run_dir / gate.LEDGER)
    return [record.sha256 for record in used.values() if not record.left_out]


Answer = Literal["contained", "not contained", "cannot tell"]


@dataclass(frozen=True)
class Membership:
    """Whether a picture is among those of a LoRA; ``how`` it is known: "file" the same bytes, "pixels" the same pixels.

    ``sha256`` is the admitted file's.
    """

    answer: Answer
    how: str = ""
    sha256: str = ""


def contains(lora: Path, picture: Path, data_dir: Path) -> Membership:
    """Whether ``picture`` was among the pictures of a LoRA that was trained on this machine.

    Other people's LoRAs tell nothing: their roots are salted. Raises AdapterFormatError, RightsError, OSError.
    """
    run_dir = run_of(read(lora), data_dir)
    if run_dir is None:
        return Membership("cannot tell")
    data = picture.read_bytes()
    own, listed = hashlib.sha256(data).hexdigest(), set(hashes_of(run_dir))
    if own in listed:
        return Membership("contained", "file", own)
    pixels = scanning.pixel_id(data)
    for sha256 in sorted(listed) if pixels else ():
        if pixels in _pixels_of(sha256, run_dir, data_dir):
            return Membership("contained", "pixels", sha256)
    return Membership("not contained")


def _pixels_of(sha256: str, run_dir: Path, data_dir: Path) -> set[str]:
    """The pixel ids that are known of an admitted file: from the store, else from the file if it is still there."""
    store = Store(data_dir)
    known = store.pixels_of(item_id(sha256)) if store.path.is_file() else set()
    if known:
        return known
    for record in ledger.read(run_dir / gate.LEDGER).values():
        if record.sha256 == sha256 and Path(record.path).is_file():
            data = Path(record.path).read_bytes()
            return {scanning.pixel_id(data)} if hashlib.sha256(data).hexdigest() == sha256 else set()
    return set()


def prove(lora: Path, picture: Path, data_dir: Path) -> merkle.Proof:
    """A proof for others that ``picture`` is among those of ``lora``. Raises RightsError if it can't be given."""
    found = contains(lora, picture, data_dir)
    run_dir = run_of(read(lora), data_dir)
    if found.answer != "contained" or run_dir is None:
        raise RightsError(
            "There is no proof that “{picture}” is among the pictures of {lora}.",
            why="It is not, or the LoRA was not trained on this machine, or its run was deleted.",
            todo="Ask who trained it.",
            picture=picture.name,
            lora=lora.name,
        )
    return merkle.prove(gate.secret_of(run_dir), hashes_of(run_dir), found.sha256)


def proof_holds(lora: Path, proof: merkle.Proof, picture: Path | None = None) -> bool:
    """Whether a proof belongs to a LoRA, and to a picture where one is given. Raises AdapterFormatError, OSError."""
    said = read(lora) or {}
    fits = picture is None or hashlib.sha256(picture.read_bytes()).hexdigest() == proof.sha256
    return fits and proof.root == said.get("root") and proof.holds()
