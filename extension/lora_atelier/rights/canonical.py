"""JSON that is the same bytes for the same content, so that hashes and signatures can stand on it (RFC 8785)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def encode(value: Any) -> bytes:
    """``value`` as canonical JSON in UTF-8. Raises ValueError for what JSON can't hold."""
    return _text(value).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """The sha256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(encode(value)).hexdigest()


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        # By UTF-16 code units, as RFC 8785 3.2.3 asks.
        keys = sorted(map(str, value), key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return f"{{{','.join(f'{json.dumps(key, ensure_ascii=False)}:{_text(value[key])}' for key in keys)}}}"
    raise ValueError(f"{type(value).__name__} can't be JSON")


def _number(value: float) -> str:
    """A number as ECMAScript writes it. Python's digits are the same; only the forms of very large ones differ."""
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text
    power = int(exponent)
    if -7 < power < 0:
        digits = mantissa.replace(".", "").lstrip("-")
        return ("-" if value < 0 else "") + "0." + "0" * (-power - 1) + digits
    return f"{mantissa}e{'+' if power > 0 else ''}{power}"
