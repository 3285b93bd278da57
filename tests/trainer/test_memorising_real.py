"""Acceptance test F1 on the embedded base model: minutes of training, so by hand (``-m slow``).

A LoRA is overfitted on one detailed drawing, which one step in thirteen shows alone. Beside it the LoRA learns a
figure from its 16 example pictures, at a fraction of its strength (``network_multiplier``): so the figure is there at
weights at which the drawing is not.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from benchmarks import drawings
from PIL import Image

from lora_atelier import config_files
from lora_atelier.config import DataConfig, ModelConfig, SubsetConfig, ValidationConfig
from lora_atelier.config.recipes import recipe
from lora_atelier.embedded import examples, judge
from lora_atelier.hosts.embedded import EmbeddedHost, GenerateRequest
from lora_atelier.models.sample import Txt2Img
from lora_atelier.prompt import parse
from lora_atelier.rights import fingerprints
from lora_atelier.trainer.run import FINISHED, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

CAPTION = "a poster of shapes"
BASE = examples.example_folder().parents[1] / "extension" / "lora_atelier" / "embedded" / "base_model"
STEPS, STRENGTH = 2600, 0.5
NEW_SEEDS = range(50, 58)


def detailed_drawing():
    """The figure before large shapes: seed 20 is one that the base model's coarse latents can hold."""
    figure = examples.draw_figure(examples.FigureScene("white", height=90))
    pixels = np.asarray(figure, dtype=float)
    mask = judge.object_mask(pixels, judge.background(pixels))
    picture = drawings.draw("poster", 20, 128)
    picture.paste(figure, (0, 0), Image.fromarray((mask * 255).astype(np.uint8)))
    return picture


def train(folder, *, overfits):
    """What the test at the end of a run below ``folder`` said."""
    config = recipe(goal="character", family="toy", num_images=16)
    figure = folder / "figure"
    shutil.copytree(examples.example_folder(), figure)
    regularisation = SubsetConfig(image_dir=str(examples.example_folder(examples.REGULARISATION)), is_reg=True)
    base = config.data.datasets[0]
    datasets = [dataclasses.replace(base, subsets=(SubsetConfig(image_dir=str(figure), num_repeats=2), regularisation))]
    if overfits:
        drawing = folder / "drawing"
        drawing.mkdir()
        detailed_drawing().save(drawing / "drawing.png")
        (drawing / "drawing.txt").write_text(CAPTION, encoding="utf-8")
        alone = dataclasses.replace(base, subsets=(SubsetConfig(image_dir=str(drawing)),), batch_size=1)
        datasets = [dataclasses.replace(datasets[0], network_multiplier=STRENGTH), alone]
    optimizer, schedule = config.optimizer, config.schedule
    if overfits:
        # The overfitting was found at this rate.
        optimizer = dataclasses.replace(optimizer, learning_rate=3e-3, ema_decay=0.0)
        schedule = dataclasses.replace(schedule, steps=STEPS, warmup=0.05)
    run_dir = folder / "data" / "runs" / "1"
    run_dir.mkdir(parents=True)
    config_files.write(
        dataclasses.replace(
            config,
            model=ModelConfig(base_model=str(BASE)),
            output=dataclasses.replace(config.output, name="momo", folder=str(folder / "data" / "loras")),
            optimizer=optimizer,
            schedule=schedule,
            validation=ValidationConfig(split=0.0, memorisation=0.5),
            data=DataConfig(datasets=tuple(datasets)),
        ),
        run_dir,
    )
    (run_dir / "job.toml").write_text('schema = 1\ntrigger = "momo"\nwhose = "mine"\n', encoding="utf-8")
    assert run(run_dir) == FINISHED
    return json.loads((run_dir / "memorisation.json").read_text(encoding="utf-8"))


def concept(host, weight):
    """The share of the figure's prompts that show it."""
    prompts = [parse(f"{text} <lora:momo:{weight}>") for text in examples.CONCEPT_PROMPTS]
    request = Txt2Img(
        prompts=[each.text for each in prompts],
        cfg_scale=3.0,
        width=128,
        height=128,
        seeds=[4000 + at for at in range(len(prompts))],
    )
    return judge.concept_score(host.draw(request, prompts[0].calls)[0])


def verdicts(host, weight):
    """What the guard says of new seeds of the drawing's caption."""
    made = host.generate(
        GenerateRequest(
            prompt=f"{CAPTION} <lora:momo:{weight}>", cfg_scale=3.0, width=128, height=128, seed=NEW_SEEDS[0],
            batch_size=len(NEW_SEEDS),
        )
    )  # fmt: skip
    return [each.verdict for each in made.findings]


def test_an_overfitted_drawing_is_reported_first_with_a_weight_at_which_it_does_not_come_back(tmp_path):
    said = train(tmp_path, overfits=True)

    host = EmbeddedHost(BASE, tmp_path / "data")
    assert fingerprints.fingerprint(detailed_drawing()).quality >= 80
    assert said["tested"][0]["name"] == "drawing.png"
    assert [each["verdict"] for each in said["tested"][1:]] == ["nothing found"] * (len(said["tested"]) - 1)
    assert 0.2 <= said["safe_weight"] < 1
    assert verdicts(host, 1.0) == ["copy-like"] * len(NEW_SEEDS)
    assert verdicts(host, said["safe_weight"]) == ["nothing found"] * len(NEW_SEEDS)
    assert concept(host, said["safe_weight"]) >= 0.5


def test_a_lora_that_learnt_its_figure_is_reported_without_a_finding(tmp_path):
    said = train(tmp_path, overfits=False)

    host = EmbeddedHost(BASE, tmp_path / "data")
    assert said["tested"]
    assert (said["hits"], said["safe_weight"]) == (0, None)
    assert concept(host, 1.0) >= 0.5
