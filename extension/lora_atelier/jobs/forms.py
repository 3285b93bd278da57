"""What a person fills in, and the settings that are made of it: the recipe for the goal, then what was changed."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import GOALS, QUALITIES, DataConfig, ModelConfig, SamplingConfig, SubsetConfig, TrainConfig, recipe
from ..datasets.captions import CAPTION_SUFFIXES, read_caption
from ..datasets.checks import common_trigger
from ..errors import ModelError, Problem, problem
from ..models.detect import ModelInfo, inspect
from . import estimate

WHOSE = ("mine", "permission", "open-licence", "experiment", "studio")
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl"})
# Showings of pictures to learn from for each showing of a regularisation picture, however many there are of each.
_SHOWN_PER_REGULARISATION = 1.5


@dataclass(frozen=True, kw_only=True)
class JobForm:
    """What a person fills in; ``pictures`` is the folder. ``keep_pictures`` puts a copy into the run's directory.

    ``left_out`` are names of files in it that are not used, ``captions`` replace those of its files; either makes a
    copy too, so that the folder stays as it is. ``refused`` are names of files that are known not to be trained on, for
    their rights or because they can't be read: they are not counted. ``changes`` are single settings by place (see
    ``overlay``).
    """

    name: str
    trigger: str
    goal: str
    whose: str
    pictures: Path | None
    base_model: Path
    quality: str = "good"
    keep_pictures: bool = False
    regularisation: Path | None = None
    sample_prompts: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()
    captions: Mapping[str, str] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    changes: Mapping[str, Any] = field(default_factory=dict)
    engine: str = "native"
    checkout: Path | None = None

    @property
    def unused(self) -> frozenset[str]:
        """Names of files in the folder that won't be trained on."""
        return self.left_out | self.refused


@dataclass(frozen=True)
class Notice:
    """Something to say about one field of the form; what is ``blocking`` must be put right before a run can start.

    ``suggestion`` is the value that will be used, or could be used, instead.
    """

    problem: Problem
    blocking: bool = True
    suggestion: str = ""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What would be done with a form: its plan, the settings, and everything to say about it.

    ``recipe`` are the settings without the form's own changes.
    """

    name: str
    pictures: int
    info: ModelInfo | None = None
    recipe: TrainConfig | None = None
    config: TrainConfig | None = None
    plan: estimate.Plan | None = None
    notices: tuple[Notice, ...] = ()

    def blocking(self) -> tuple[Problem, ...]:
        """What must be put right first."""
        return tuple(notice.problem for notice in self.notices if notice.blocking)


# ------------------------------------------------------------------------------------------------- checks


def check_words(form: JobForm, notices: list[Notice]) -> None:
    """Note what is wrong with the answers of a form, and what is unusual."""
    trigger = form.trigger.strip()
    if not trigger:
        notices.append(
            Notice(problem("trigger", "There is no trigger word. Give a word that will call it in a prompt."))
        )
    elif len(trigger) > 100 or re.search(r"[<>\n\r]", trigger):
        notices.append(Notice(problem("trigger", "The trigger word may have up to 100 characters and no “<” or “>”.")))
    for said in common_trigger(trigger):
        notices.append(Notice(Problem("trigger", said), blocking=False, suggestion=str(said.values.get("example", ""))))
    if form.goal not in GOALS:
        notices.append(Notice(problem("goal", "Say what is to be learned: a character, a style or an object.")))
    if form.quality not in QUALITIES:
        notices.append(Notice(problem("quality", "Choose how good it is to become: draft, good or best.")))
    if form.whose not in WHOSE:
        notices.append(Notice(problem("whose", "Say whose pictures these are.")))


def count(folder: Path | None, notices: list[Notice], left_out: frozenset[str] = frozenset()) -> int:
    """How many pictures there are, noting if they are none, few, or can't be read."""
    try:
        found = count_pictures(folder, left_out) if folder is not None else 0
    except OSError as error:
        said = problem(
            "pictures",
            "The folder {folder} can't be read ({reason}). Choose another one.",
            folder=str(folder),
            reason=error.strerror or str(error),
        )
        notices.append(Notice(said))
        return 0
    if found == 0:
        notices.append(Notice(problem("pictures", "There are no pictures. Drop some pictures or choose a folder.")))
    elif found == 1:
        notices.append(
            Notice(
                problem("pictures", "One picture is very little: it will be copied rather than learned. Use 10 to 30."),
                blocking=False,
            )
        )
    return found


def count_pictures(folder: Path, left_out: frozenset[str] = frozenset()) -> int:
    """How many picture files lie in ``folder``, or else in kohya's numbered folders (``10_momo``) inside it.

    Told by their endings alone. Raises OSError.
    """
    with os.scandir(folder) as entries:
        listed = list(entries)
    found = sum(Path(e.name).suffix.lower() in PICTURE_SUFFIXES and e.name not in left_out for e in listed)
    numbered = [Path(entry.path) for entry in listed if entry.is_dir() and re.fullmatch(r"\d+_.+", entry.name)]
    return found or sum(count_pictures(each) for each in numbered)


def look_at_model(base_model: Path, notices: list[Notice]) -> ModelInfo | None:
    """What the base model is, or None with the reason noted."""
    if base_model == Path():  # the host has none, so nothing could be chosen
        notices.append(Notice(problem("base_model", "There is no base model that can be trained.")))
        return None
    try:
        return inspect(base_model)
    except ModelError as error:
        notices.append(Notice(Problem("base_model", error.what), blocking=True))
        notices += [Notice(Problem("base_model", part)) for part in (error.why, error.todo) if part]
        return None


# ------------------------------------------------------------------------------------------------- settings


def settings(form: JobForm, name: str, info: ModelInfo, pictures: int, lora_dir: Path, device: str) -> TrainConfig:
    """The recipe for a form's goal on a model: everything but the person's own changes."""
    config = recipe(goal=form.goal, family=info.family, num_images=pictures, quality=form.quality)
    dataset = dataclasses.replace(
        config.data.datasets[0],
        resolution=(info.resolution, info.resolution),
        min_bucket_reso=max(64, info.resolution // 2),
        max_bucket_reso=info.resolution * 2,
        subsets=_subsets(form),
    )
    schedule = config.schedule
    if device == "gpu" and info.family != "toy":
        schedule = dataclasses.replace(schedule, mixed_precision="bf16", gradient_checkpointing=info.family == "sdxl")
    validation = config.validation if pictures >= 5 else dataclasses.replace(config.validation, split=0.0)
    return dataclasses.replace(
        config,
        model=ModelConfig(
            base_model=str(form.base_model),
            v2=info.family == "sd2",
            v_parameterization=info.prediction_type == "v_prediction",
        ),
        output=dataclasses.replace(config.output, folder=str(lora_dir), name=name or "lora"),
        schedule=schedule,
        validation=validation,
        sampling=SamplingConfig(prompts=_sample_prompts(form, info)),
        data=DataConfig(datasets=(dataset,)),
    )


def moved(config: TrainConfig, source: Path) -> TrainConfig:
    """The same settings with the pictures to learn from in ``source``."""
    datasets = tuple(
        dataclasses.replace(
            dataset,
            subsets=tuple(s if s.is_reg else dataclasses.replace(s, image_dir=str(source)) for s in dataset.subsets),
        )
        for dataset in config.data.datasets
    )
    return dataclasses.replace(config, data=DataConfig(datasets=datasets))


def _subsets(form: JobForm) -> tuple[SubsetConfig, ...]:
    own = SubsetConfig(image_dir=str(form.pictures or ""), class_tokens=form.trigger.strip())
    if form.regularisation is None:
        return (own,)
    pictures, others = count(form.pictures, [], form.unused), count(form.regularisation, [])
    repeats = max(1, round(_SHOWN_PER_REGULARISATION * others / max(1, pictures)))
    return (
        dataclasses.replace(own, num_repeats=repeats),
        SubsetConfig(image_dir=str(form.regularisation), is_reg=True),
    )


def _sample_prompts(form: JobForm, info: ModelInfo) -> tuple[str, ...]:
    side = info.resolution
    scale = 3 if info.family == "toy" else 7
    trigger = form.trigger.strip()
    # The first one's newest picture is the LoRA's preview: a bare word leaves too much open to show what was learned.
    prompts = form.sample_prompts or (_with_trigger(_a_caption(form), trigger), trigger)
    return tuple(f"{text} --w {side} --h {side} --d 1 --s 20 --l {scale}" for text in prompts if text)


def _with_trigger(caption: str, trigger: str) -> str:
    """A caption as a prompt that calls what is learned; "" where it says no more than the trigger."""
    if caption.casefold() in ("", trigger.casefold()):
        return ""
    return caption if trigger.casefold() in caption.casefold() else f"{trigger}, {caption}"


def _a_caption(form: JobForm) -> str:
    """The caption of the first picture in use that has one which can be a prompt; "" if there is none."""
    folder = form.pictures
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder is not None else []
    except OSError:
        return ""
    captioned = {Path(name).stem for name in names if Path(name).suffix.lower() in CAPTION_SUFFIXES}
    for name in names:
        if folder is None or Path(name).suffix.lower() not in PICTURE_SUFFIXES or name in form.unused:
            continue
        text = form.captions.get(name)
        if text is None and Path(name).stem in captioned:
            text = read_caption(folder / name, ".txt")
        # What looks like an option of a prompt's line would be read as one.
        if text and not re.search(r"(^|\s)--\w", text):
            return " ".join(text.split())
    return ""
