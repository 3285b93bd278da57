"""A salted Merkle tree over the pictures of a LoRA: its root goes into the file and tells nothing, and one picture can
be shown to be in it without showing any other.

As RFC 9162 2.1 (leaves and nodes hashed apart), with a salt of its own for each leaf; leaves in the order of their
hashes, so that their places tell nothing either. A leaf's salt is an HMAC of the run's secret, which never leaves the
machine.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RightsError

SCHEMA = 1


def salt_of(secret: bytes, sha256: str) -> bytes:
    """The salt of one picture's leaf."""
    return hmac.new(secret, bytes.fromhex(sha256), hashlib.sha256).digest()


def leaf(salt: bytes, sha256: str) -> bytes:
    return hashlib.sha256(b"\0" + salt + bytes.fromhex(sha256)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = _split(len(leaves))
    return _node(_root(leaves[:split]), _root(leaves[split:]))


def _split(count: int) -> int:
    """The largest power of two below ``count`` (from 2)."""
    return 1 << ((count - 1).bit_length() - 1)


def root(secret: bytes, pictures: Iterable[str]) -> str:
    """The root over pictures by their sha256, 64 hex digits; each counts once."""
    return _root(_leaves(secret, pictures)).hex()


def _leaves(secret: bytes, pictures: Iterable[str]) -> list[bytes]:
    return sorted(leaf(salt_of(secret, sha256), sha256) for sha256 in set(pictures))


@dataclass(frozen=True)
class Proof:
    """That one picture is a leaf under ``root``: its hash, its salt, and the way up as ("left" or "right", hash)."""

    root: str
    sha256: str
    salt: str
    path: tuple[tuple[str, str], ...]

    def holds(self) -> bool:
        """Whether the way up ends in the root."""
        try:
            at = leaf(bytes.fromhex(self.salt), self.sha256)
            for side, other in self.path:
                at = _node(bytes.fromhex(other), at) if side == "left" else _node(at, bytes.fromhex(other))
        except ValueError:
            return False
        return len(self.path) <= 64 and hmac.compare_digest(at.hex(), self.root)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "root": self.root,
            "picture_sha256": self.sha256,
            "salt": self.salt,
            "path": [list(step) for step in self.path],
        }

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Proof:
        """Raises RightsError for what is no proof."""
        try:
            if said["schema"] > SCHEMA:
                raise ValueError(f"schema {said['schema']}")
            path = tuple((str(side), str(other)) for side, other in said["path"])
            return cls(str(said["root"]), str(said["picture_sha256"]), str(said["salt"]), path)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RightsError(
                "This is no proof that can be read.",
                why="{reason}.",
                todo="Ask for the file again.",
                reason=str(error),
            ) from error


def prove(secret: bytes, pictures: Iterable[str], sha256: str) -> Proof:
    """The proof that a picture is among ``pictures``. Raises KeyError if it is not."""
    listed = set(pictures)
    if sha256 not in listed:
        raise KeyError(sha256)
    leaves = _leaves(secret, listed)
    salt = salt_of(secret, sha256)
    path = _path(leaves, leaves.index(leaf(salt, sha256)))
    return Proof(_root(leaves).hex(), sha256, salt.hex(), tuple(path))


def _path(leaves: Sequence[bytes], index: int) -> list[tuple[str, str]]:
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*_path(leaves[:split], index), ("right", _root(leaves[split:]).hex())]
    return [*_path(leaves[split:], index - split), ("left", _root(leaves[:split]).hex())]
