"""CBOR (RFC 8949) as far as C2PA's assertions need it: read whole, bounded in depth and in what it makes."""

from __future__ import annotations

import struct
from typing import Any

_MAX_DEPTH = 32
_MAX_ITEMS = 100_000


class BrokenCborError(ValueError):
    """The bytes are no CBOR that we read; the text says why."""


def decode(data: bytes) -> Any:
    """The first value in ``data``. Raises BrokenCborError."""
    return _Reader(data).value(0)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.items = data, 0, 0

    def value(self, depth: int) -> Any:
        self.items += 1
        if depth > _MAX_DEPTH or self.items > _MAX_ITEMS:
            raise BrokenCborError("too large or nested too deeply")
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if major == 7:
            return self.simple(info)
        if info == 31:
            return self.indefinite(major, depth)
        size = self.number(info)
        if major == 0:
            return size
        if major == 1:
            return -1 - size
        if major == 2:
            return self.take(size)
        if major == 3:
            return self.text(self.take(size))
        if major == 4:
            return [self.value(depth + 1) for _ in range(self.count(size))]
        if major == 5:
            return dict(self.pair(depth) for _ in range(self.count(size)))
        return self.value(depth + 1)  # a tag: what it marks is enough

    def indefinite(self, major: int, depth: int) -> Any:
        found: list[Any] = []
        while self.data[self.at : self.at + 1] != b"\xff":
            found.append(self.pair(depth) if major == 5 else self.value(depth + 1))
        self.take(1)
        if major in (2, 3):
            if not all(isinstance(piece, bytes if major == 2 else str) for piece in found):
                raise BrokenCborError("pieces of another kind")
            return (b"" if major == 2 else "").join(found)
        if major == 5:
            return dict(found)
        if major == 4:
            return found
        raise BrokenCborError("an endless number")

    def pair(self, depth: int) -> tuple[Any, Any]:
        key = self.value(depth + 1)
        return (key if isinstance(key, str | int | bytes) else repr(key)), self.value(depth + 1)

    def simple(self, info: int) -> Any:
        if info in (25, 26, 27):
            size, form = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}[info]
            return struct.unpack(form, self.take(size))[0]
        if info == 24:
            self.take(1)
        if info > 24:
            raise BrokenCborError("a value of no known kind")
        return {20: False, 21: True}.get(info)

    def number(self, info: int) -> int:
        if info < 24:
            return info
        if info > 27:
            raise BrokenCborError("a length of no known kind")
        return int.from_bytes(self.take(1 << (info - 24)), "big")

    def count(self, size: int) -> int:
        # Each item takes a byte at least.
        if size > len(self.data) - self.at:
            raise BrokenCborError("it is cut off")
        return size

    def take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) != size:
            raise BrokenCborError("it is cut off")
        self.at += size
        return found

    @staticmethod
    def text(data: bytes) -> str:
        return data.decode("utf-8", errors="replace")
