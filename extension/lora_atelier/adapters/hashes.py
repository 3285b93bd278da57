"""The hash that stands for an adapter's weights, whatever its metadata: one definition for all that look at files.

It is kohya's ``sshs_model_hash`` (sd-scripts train_util.addnet_hash_safetensors), the SHA-256 of everything behind the
header: as the metadata say it, else as ``TensorFile.content_hash`` (for a file that is read anyway) and
``loader.hashing`` (in the background, resting in between) compute it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


def said(metadata: Mapping[str, str]) -> str:
    """Return the hash that a file's metadata give, 64 hex digits, or "" where there is none that looks like one."""
    text = metadata.get("sshs_model_hash", "")
    return text if re.fullmatch(r"[0-9a-f]{64}", text) else ""
