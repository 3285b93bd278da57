"""What whoever wants to draw a picture is told while a training has the graphics card."""

from __future__ import annotations

from ..errors import Message, message
from ..jobs.view import RunView


def why_it_waits(view: RunView | None) -> Message | None:
    """How far the training is that has the card, and how to draw all the same; None where none has it."""
    if view is None:
        return None
    if view.seconds_left is None or not view.step:
        return message(
            "LoRA training holds the graphics card: step {step} of {steps}. Pause it or share the card in the LoRA "
            "Atelier tab.",
            step=view.step,
            steps=view.steps,
        )
    return message(
        "LoRA training holds the graphics card: step {step} of {steps}, about {minutes} minutes left. Pause it or "
        "share the card in the LoRA Atelier tab.",
        step=view.step,
        steps=view.steps,
        minutes=max(1, round(view.seconds_left / 60)),
    )
