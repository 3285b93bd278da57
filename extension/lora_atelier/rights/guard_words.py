"""What the guard says to the person who pressed Generate: one sentence, which never judges what they may do."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Message, message
from .guard import Finding


def sentence(findings: Sequence[Finding], loras: Sequence[str]) -> Message | None:
    """One sentence on all pictures of a generation with these LoRAs; None where there was nothing to compare."""
    near = [(number, each) for number, each in enumerate(findings, 1) if each.near and each.verdict != "nothing found"]
    if near:
        return _about_near(*max(near, key=lambda one: one[1].verdict == "copy-like"), others=len(near) - 1)
    if not findings or not loras:
        return None
    compared, silent, unknown = findings[0].compared, findings[0].silent, findings[0].unknown
    if len(unknown) == len(loras):
        return message(
            "Not compared with the training pictures of {loras}: none are kept on this machine.",
            loras=", ".join(unknown),
        )
    known = ", ".join(name for name in loras if name not in unknown)
    if not compared:
        return message(
            "The training pictures of {loras} are too plain or too much alike to say whether a picture copies one.",
            loras=known,
        )
    if silent or unknown:
        return message(
            "No copy of {compared} training pictures of {loras} was found; {silent} say too little to compare. Style "
            "and likeness can't be seen this way.",
            compared=compared,
            loras=known,
            silent=silent,
        )
    return message(
        "No copy of the {compared} training pictures of {loras} was found. Style and likeness can't be seen this way.",
        compared=compared,
        loras=known,
    )


def _about_near(number: int, finding: Finding, *, others: int) -> Message:
    assert finding.near is not None
    values: dict[str, str | int] = {
        "number": number,
        "picture": finding.near.picture,
        "lora": finding.near.lora,
        "others": others,
    }
    if finding.verdict == "copy-like":
        if others:
            return message(
                "Picture {number} is copy-like: it is very near the training picture “{picture}” of {lora}, and "
                "{others} more are near one. Look at both before you use it; a lower weight or another seed may help.",
                **values,
            )
        return message(
            "Picture {number} is copy-like: it is very near the training picture “{picture}” of {lora}. Look at both "
            "before you use it; a lower weight or another seed may help.",
            **values,
        )
    return message(
        "Picture {number} is close to the training picture “{picture}” of {lora}; please look at both.", **values
    )
