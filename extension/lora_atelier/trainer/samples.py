"""Pictures made during training, from the lines of a sample prompt file as sd-scripts reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageStat

from ..models import sample as sampling
from ..models.load import Model

_OPTION = re.compile(r"\s--(n|w|h|d|s|l|ss)\s+")
SAMPLERS = {
    "ddim": "DDIM",
    "euler": "Euler",
    "k_euler": "Euler",
    "euler_a": "Euler a",
    "k_euler_a": "Euler a",
    "heun": "Heun",
    "dpmsolver++": "DPM++ 2M",
    "dpmsolver": "DPM++ 2M",
    "pndm": "PNDM",
}


@dataclass(frozen=True)
class SamplePrompt:
    """One line: the text and its options, with sd-scripts' defaults."""

    text: str
    negative: str = ""
    width: int = 512
    height: int = 512
    seed: int = 1
    steps: int = 30
    cfg_scale: float = 7.5
    sampler: str = "ddim"


def parse(line: str, *, sampler: str = "ddim") -> SamplePrompt:
    """Return what ``text --n negative --w 512 --h 512 --d seed --s steps --l cfg --ss sampler`` says.

    A value that is no number is passed over, as sd-scripts does: a sample is never worth a run.
    """
    text, *rest = _OPTION.split(" " + line)
    said = dict(zip(rest[::2], (value.strip() for value in rest[1::2]), strict=True))

    def number(key: str, default: float) -> float:
        try:
            return float(said.get(key, default))
        except ValueError:
            return default

    return SamplePrompt(
        text=text.strip(),
        negative=said.get("n", ""),
        width=int(number("w", 512)),
        height=int(number("h", 512)),
        seed=int(number("d", 1)),
        steps=int(number("s", 30)),
        cfg_scale=number("l", 7.5),
        sampler=said.get("ss", sampler),
    )


def without_trigger(prompt: SamplePrompt, trigger: str) -> SamplePrompt | None:
    """The same picture without the trigger word, which shows what has bled into all else; None if it is not there."""
    word = re.compile(rf"(?<!\w){re.escape(trigger.strip())}(?!\w)", re.IGNORECASE)
    if not trigger.strip() or not word.search(prompt.text):
        return None
    parts = (part.strip() for part in word.sub("", prompt.text).split(","))
    return replace(prompt, text=", ".join(" ".join(part.split()) for part in parts if part))


def draw(model: Model, prompt: SamplePrompt, path: Path, *, clip_skip: int = 0) -> float:
    """Make one picture with the model as it is and write it to ``path``; returns its contrast.

    Raises HostError, OSError, RuntimeError.
    """
    request = sampling.Txt2Img(
        prompts=(prompt.text,),
        negative_prompt=prompt.negative,
        steps=prompt.steps,
        sampler=SAMPLERS.get(prompt.sampler, "DDIM"),
        cfg_scale=prompt.cfg_scale,
        width=prompt.width,
        height=prompt.height,
        seeds=(prompt.seed,),
        clip_skip=clip_skip or None,
    )
    (picture,) = sampling.sample(model, request)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return contrast(picture)


def contrast(picture: Image.Image) -> float:
    """The standard deviation of a picture's brightness, 0 to 255."""
    return float(ImageStat.Stat(picture.convert("L")).stddev[0])
