"""Contracts, mails and releases: copied into a sealed place of the data folder under their hash; only that is written
down anywhere else.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import stat
from pathlib import Path
from typing import Any

from .. import atomic
from ..errors import DataError, Message, RightsError, message
from .folder_ledger import now
from .said import EVIDENCE, problems

MAX_BYTES = 50_000_000


def seal(
    data: bytes,
    data_dir: Path,
    *,
    name: str,
    kind: str,
    valid_from: str = "",
    valid_until: str = "",
    territory: str = "",
    revocable: bool = True,
    captured_at: str = "",
) -> dict[str, Any]:
    """Keep a document and return what a ledger says of it. Raises RightsError for what is no evidence, DataError when
    it can't be written."""
    if not data or len(data) > MAX_BYTES:
        raise RightsError(
            "“{name}” can't be kept as evidence.",
            why="It is empty or larger than {limit} MB.",
            todo="Attach the part that counts.",
            name=name,
            limit=MAX_BYTES // 1_000_000,
        )
    said = {
        "kind": kind,
        "sha256": hashlib.sha256(data).hexdigest(),
        "captured_at": captured_at or now(),
        "valid_from": valid_from,
        "valid_until": valid_until,
        "territory": territory,
        "revocable": revocable,
    }
    wrong = next(problems(EVIDENCE, said), None)
    if wrong is not None:
        raise RightsError("“{name}” can't be kept as evidence: {wrong}.", todo="Correct it.", name=name, wrong=wrong)
    path = _path(data_dir, str(said["sha256"]), name)
    if not path.exists():
        try:
            atomic.write_bytes(path, data)
        except OSError as error:
            raise DataError(
                "“{name}” could not be kept.",
                why="{reason}.",
                todo="Make room on the disk, then try again.",
                name=name,
                reason=error.strerror or str(error),
            ) from error
        with contextlib.suppress(OSError):
            path.chmod(stat.S_IRUSR)
    return said


def broken(said: dict[str, Any], data_dir: Path) -> Message | None:
    """Why a document can't be shown as it was sealed, or None."""
    found = sorted(_folder(data_dir).glob(f"{said['sha256']}*"))
    if not found:
        return message("The evidence {sha256} is not on this machine.", sha256=said["sha256"][:12])
    try:
        data = found[0].read_bytes()
    except OSError as error:
        return message("The evidence {sha256} can't be read: {reason}.", sha256=said["sha256"][:12], reason=str(error))
    if hashlib.sha256(data).hexdigest() != said["sha256"]:
        return message("The evidence {sha256} was changed since it was sealed.", sha256=said["sha256"][:12])
    return None


def _folder(data_dir: Path) -> Path:
    return data_dir / "rights" / "evidence"


def _path(data_dir: Path, sha256: str, name: str) -> Path:
    suffix = Path(name).suffix.lower()
    return _folder(data_dir) / (sha256 + (suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""))
