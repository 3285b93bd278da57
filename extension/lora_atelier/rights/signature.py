"""The signature of a LoRA file: Ed25519 over its tensors and over what it says of rights, made where it was trained.

It shows that neither was changed since, and by which key it was signed; not that what is said is true. Other metadata
may change freely. The key is the person's own, made at the first signature, and stays in the data folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import atomic, safetensors_header
from ..errors import AdapterFormatError, Message, RightsError, message
from ..safetensors_header import BrokenFileError
from . import canonical, ed25519

# In the metadata of the file.
RIGHTS, KEY, SIGNATURE = "atelier_rights", "atelier_rights_key", "atelier_rights_sig"
_PREFIX = "atelier_rights"
_CONTEXT = "lora-atelier rights v1"
_PIECE_BYTES = 1 << 20

# A tensor that is to be written: name, dtype and shape as the file will say them, and its bytes.
Stored = tuple[str, str, Sequence[int], memoryview]
State = Literal["signed", "unsigned", "broken"]


@dataclass(frozen=True)
class Verdict:
    """Whether the signature holds; ``key`` is the public key that the file names, in hexadecimal."""

    state: State
    key: str = ""

    @property
    def said(self) -> Message:
        """The verdict in a sentence that promises no more than it knows."""
        if self.state == "signed":
            return message(
                "Tensors and rights are as they were signed, by the key {key}. Whether what is said is true, no "
                "signature tells.",
                key=self.key[:16],
            )
        if self.state == "broken":
            return message("The signature does not hold: tensors or rights were changed since, or the key was.")
        return message("The file is not signed.")


# ------------------------------------------------------------------------------------------------ the key


def key_path(data_dir: Path) -> Path:
    """Where the person's signing key lies."""
    return data_dir / "rights" / "keys" / "ed25519.pem"


def can_sign() -> bool:
    """Whether the package that signs is there."""
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except Exception:  # an installation that is broken in whatever way signs nothing
        return False
    return True


def _private_key(data_dir: Path) -> Any:
    """The person's key, made at the first call. Raises RightsError if it can't be read or written."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = key_path(data_dir)
    try:
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except FileNotFoundError:
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )

            def write(temporary: Path) -> None:
                temporary.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
                temporary.write_bytes(pem)

            atomic.write_with(path, write)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("it is a key of another kind")
    except (OSError, ValueError, TypeError) as error:
        raise RightsError(
            "The signing key can't be used.",
            why="{file}: {reason}.",
            todo="Put a copy of it back; without it a new one is made once the file is gone.",
            file=str(path),
            reason=str(error).rstrip("."),
        ) from error
    return key


# ------------------------------------------------------------------------------------------------ signing


def sign(path: Path, data_dir: Path, changes: Mapping[str, Any] | None = None) -> Verdict:
    """Sign a LoRA file with the person's key, after putting ``changes`` into what it says of rights.

    The tensors' bytes stay as they are, and with them the hash that the file is known by. Without the package
    ``cryptography`` the changes are written and the file is unsigned. Raises AdapterFormatError, RightsError, OSError.
    """
    entries, metadata = _header(path)
    if changes:
        said = json.loads(metadata.get(RIGHTS, "{}"))
        metadata[RIGHTS] = json.dumps({**said, **changes}, ensure_ascii=False, sort_keys=True)
    metadata = _with_signature(metadata, tensors_digest(path), data_dir)
    _rewrite(path, entries, metadata)
    return Verdict("signed" if SIGNATURE in metadata else "unsigned", metadata.get(KEY, ""))


def signed(
    metadata: Mapping[str, str], tensors: Iterable[Stored], data_dir: Path
) -> tuple[dict[str, str], Message | None]:
    """The metadata of a file that is to be written, signed over it and ``tensors``; None, or why it stays unsigned.

    A file that is signed as it is written is not written twice, and is at no moment there without. Never raises for
    what can't be signed.
    """
    if not can_sign():
        return dict(metadata), message(
            "The LoRA is not signed: the package “cryptography” is missing in the trainer's environment. "
            "Type  python install.py trainer  to add it."
        )
    try:
        return _with_signature(metadata, digest_of(tensors), data_dir), None
    except RightsError as error:
        return dict(metadata), message("The LoRA is not signed: {reason}", reason=str(error))


def _with_signature(metadata: Mapping[str, str], tensors: str, data_dir: Path) -> dict[str, str]:
    """``metadata`` with key and signature; without either where the package is missing. Raises RightsError."""
    said = {name: text for name, text in metadata.items() if name not in (KEY, SIGNATURE)}
    if can_sign():
        from cryptography.hazmat.primitives import serialization

        key = _private_key(data_dir)
        public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        said[KEY] = public.hex()
        said[SIGNATURE] = key.sign(_payload(said, tensors)).hex()
    return said


def verify(path: Path) -> Verdict:
    """Whether tensors and rights are as they were signed. Raises AdapterFormatError, OSError."""
    _, metadata = _header(path)
    key, signature = metadata.get(KEY, ""), metadata.get(SIGNATURE, "")
    if not key and not signature:
        return Verdict("unsigned")
    try:
        holds = ed25519.verify(bytes.fromhex(key), _payload(metadata, tensors_digest(path)), bytes.fromhex(signature))
    except ValueError:
        holds = False
    return Verdict("signed" if holds else "broken", key)


def _payload(metadata: Mapping[str, str], tensors: str) -> bytes:
    """What is signed: every key of ours that speaks of rights, and the digest of the tensors."""
    rights = {name: text for name, text in metadata.items() if name.startswith(_PREFIX) and name != SIGNATURE}
    return canonical.encode({"context": _CONTEXT, "rights": rights, "tensors": tensors})


def tensors_digest(path: Path) -> str:
    """The sha256 over all tensors in the order of their names: name, dtype, shape and bytes of each.

    Unlike the hash of the bytes behind the header it changes when two tensors change their names, and not when somebody
    writes the same tensors in another order. Raises AdapterFormatError, OSError.
    """
    try:
        header = safetensors_header.read(path)
    except BrokenFileError as error:
        raise _broken(path, error) from error
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for name, info in sorted(header.tensors.items()):
            inner = hashlib.sha256()
            file.seek(info.offset)
            left = info.size_bytes
            while left:
                piece = file.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise _broken(path, BrokenFileError("the file became shorter while it was read"))
                inner.update(piece)
                left -= len(piece)
            digest.update(_line(name, info.dtype, info.shape, inner.hexdigest()))
    return digest.hexdigest()


def digest_of(tensors: Iterable[Stored]) -> str:
    """As ``tensors_digest`` of the file that will hold these tensors."""
    digest = hashlib.sha256()
    for name, dtype, shape, data in sorted(tensors, key=lambda each: each[0]):
        digest.update(_line(name, dtype, shape, hashlib.sha256(data).hexdigest()))
    return digest.hexdigest()


def _line(name: str, dtype: str, shape: Sequence[int], sha256: str) -> bytes:
    return canonical.encode([name, dtype, list(shape), sha256])


def _header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors' entries as they stand in the file, and its metadata. Raises AdapterFormatError, OSError."""
    try:
        safetensors_header.read(path)  # says what is wrong with it
    except BrokenFileError as error:
        raise _broken(path, error) from error
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entries: dict[str, Any] = json.loads(file.read(size).decode("utf-8"))
    metadata = entries.pop("__metadata__", None) or {}
    return entries, {str(name): str(text) for name, text in metadata.items()}


def _rewrite(path: Path, entries: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Put another header before the same tensors; whole or not at all. Raises OSError."""
    with path.open("rb") as source:
        (size,) = struct.unpack("<Q", source.read(8))
        header = {"__metadata__": dict(sorted(metadata.items())), **entries}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        text += b" " * (-len(text) % 8)

        def fill(temporary: Path) -> None:
            source.seek(8 + size)
            with temporary.open("wb") as target:
                target.write(struct.pack("<Q", len(text)) + text)
                while piece := source.read(_PIECE_BYTES):
                    target.write(piece)
            with contextlib.suppress(OSError):
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))

        # Windows replaces no file that is open.
        atomic.write_with(path.with_name(f"{path.name}.signed"), fill)
    atomic.replace(path.with_name(f"{path.name}.signed"), path)


def _broken(path: Path, error: BrokenFileError) -> AdapterFormatError:
    return AdapterFormatError(
        "{name} can't be read as a LoRA.",
        why="The file is broken or incomplete: {reason}.",
        todo="Download or copy it again.",
        name=path.name,
        reason=str(error),
    )
