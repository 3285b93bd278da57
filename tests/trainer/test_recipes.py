"""Real runs of what recipes ask for: another VAE, LoRAs in the base, pictures seen afresh, every kind of adapter."""

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lora_atelier import config_files, events
from lora_atelier.adapters.families import group, match
from lora_atelier.config import (
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    ScheduleConfig,
    ValidationConfig,
    from_kohya,
)
from lora_atelier.models import load as models
from lora_atelier.models.layers import layers
from lora_atelier.trainer import loop, metadata
from lora_atelier.trainer.run import FINISHED, run

_spec = importlib.util.spec_from_file_location("preparation_helpers", Path(__file__).with_name("test_preparation.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
pictures, prepared, make, adapter = helpers.pictures, helpers.prepared, helpers.make, helpers.adapter
told, failure, warnings = helpers.told, helpers.failure, helpers.warnings

# The test for pictures that come back has tests of its own; these runs are too short for it, and would say so.
PLAIN = ValidationConfig(split=0.0, memorisation=0.0)


def test_another_vae_encodes_the_pictures_and_is_part_of_the_caches_names(
    tmp_path, tiny_model_folder, save_model, pictures, prepared
):
    save_model(tmp_path / "other", seed=9)
    runs = tmp_path / "data" / "runs"
    own = make(runs / "own", tiny_model_folder, pictures)
    other = make(runs / "other", tiny_model_folder, pictures, more={"model": {"vae": str(tmp_path / "other" / "vae")}})

    assert run(own) == FINISHED and run(other) == FINISHED

    first, second = (each.examples[0].posteriors[0] for each in prepared)
    assert first.shape == second.shape and not torch.allclose(first, second, atol=1e-3)


def test_the_hashes_of_a_vae_file_are_in_the_lora_as_sd_scripts_writes_them_and_read_after_the_first_step(
    tmp_path, save_model, tiny_model_folder, pictures, monkeypatch
):
    save_model(tmp_path / "other", seed=9)
    weights = tmp_path / "other" / "vae" / "diffusion_pytorch_model.safetensors"
    hashed = []
    real = metadata._file_hashes
    monkeypatch.setattr(metadata, "_file_hashes", lambda *file: hashed.append(steps[0]) or real(*file))
    steps = [0]
    step = loop.Loop._optimize
    monkeypatch.setattr(loop.Loop, "_optimize", lambda self: steps.__setitem__(0, self.step + 1) or step(self))
    file, folder = (
        make(tmp_path / name, tiny_model_folder, pictures, more={"model": {"vae": str(path)}})
        for name, path in (("file", weights), ("folder", weights.parent))
    )

    assert run(file) == FINISHED and min(hashed) >= 1
    assert run(folder) == FINISHED

    with safe_open(next((file / "loras").glob("*.safetensors")), "pt") as made:
        said = made.metadata()
    content = weights.read_bytes()
    assert said["ss_new_vae_hash"] == hashlib.sha256(content).hexdigest()
    assert said["ss_vae_hash"] == hashlib.sha256(content[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8]
    assert said["ss_vae_name"] == weights.name
    with safe_open(next((folder / "loras").glob("*.safetensors")), "pt") as made:
        assert made.metadata()["ss_vae_hash"] == made.metadata()["ss_new_vae_hash"] == "None"


def test_a_vae_that_is_none_is_said_before_anything_is_read(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures, more={"model": {"vae": str(tmp_path / "vae.ckpt")}})
    (tmp_path / "vae.ckpt").write_bytes(b"x")

    assert run(made) != FINISHED
    assert "pickle" in failure(made)


def test_loras_are_merged_into_the_base_before_the_training(
    tmp_path, tiny_model_folder, pictures, prepared, random_lora
):
    base = models.load(tiny_model_folder)
    chosen = {
        name: layer.module for name, layer in layers(base).items() if name.endswith(("attn1_to_q", "self_attn_q_proj"))
    }
    stored = random_lora(chosen, rank=2, size=0.5)
    save_file(stored, tmp_path / "style.safetensors")
    more = {"model": {"base_weights": (str(tmp_path / "style.safetensors"),), "base_weights_multiplier": (-0.5,)}}
    runs = tmp_path / "data" / "runs"

    assert run(make(runs / "plain", tiny_model_folder, pictures)) == FINISHED
    assert run(make(runs / "merged", tiny_model_folder, pictures, more=more)) == FINISHED

    found, wanted = layers(prepared[1].model), layers(base)
    for name in chosen:
        if name.startswith("lora_unet"):
            (change,) = match(group(stored).layers[name]).values()
            weight = wanted[name].module.weight
            assert torch.allclose(found[name].module.weight, weight - 0.5 * change.delta(weight), atol=1e-5)
    # The text encoder's part counts too: its captions are others, and no others are taken from the cache.
    plain, merged = (each.condition(["momo 1"]).context for each in prepared)
    assert not torch.allclose(plain, merged, atol=1e-3)


def test_a_lora_of_another_model_in_the_base_is_refused_before_the_model_is_read(tmp_path, tiny_model_folder, pictures):
    save_file(
        {
            "lora_unet_nothing.lora_down.weight": torch.zeros(2, 3),
            "lora_unet_nothing.lora_up.weight": torch.zeros(3, 2),
        },
        tmp_path / "x.safetensors",
    )
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        more={"model": {"base_weights": (str(tmp_path / "x.safetensors"),)}},
    )

    assert run(made) != FINISHED
    assert "“x”" in failure(made) and not told(made, events.Stepped)


def test_pictures_are_cut_and_coloured_anew_with_their_masks_and_the_same_in_every_run(
    tmp_path, tiny_model_folder, pictures, prepared
):
    masks = tmp_path / "masks"
    masks.mkdir()
    for at in range(9):
        # Left white, right black: where a cut begins can be read from its mask.
        mask = Image.new("L", (64, 64) if at % 3 else (96, 48), 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(masks / f"{at}.png")
    subset = {"random_crop": True, "color_aug": True, "conditioning_data_dir": str(masks)}
    options = {"subset": subset, "more": {"memory": {"cache_latents": False}, "loss": {"masked_loss": True}}}
    made = [make(tmp_path / name, tiny_model_folder, pictures, **options) for name in "12"]

    assert [run(each) for each in made] == [FINISHED, FINISHED]

    assert helpers.same(*(adapter(each) for each in made))
    import random

    example = next(e for e in prepared[0].examples if e.size[0] > e.size[1])
    seen = [example.seen(random.Random(seed), False) for seed in range(12)]
    assert len({tuple(p.flatten()[:8].tolist()) for p, _ in seen}) > 6
    plain, mirrored = (example.seen(random.Random(3), side) for side in (False, True))
    assert torch.equal(plain[1].flip(-1), mirrored[1])
    assert prepared[0].model.vae is not None


def test_augmented_pictures_are_refused_while_pictures_are_cached(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures, subset={"random_crop": True})

    said = [str(problem) for problem in config_files.read(made).problems()]

    assert any("random_crop" in each and "cache_latents" in each for each in said)


def test_what_is_preserved_keeps_what_the_base_model_predicts(tmp_path, tiny_model_folder, pictures):
    """Its loss is 0 as long as nothing is learned, and stays nearer to 0 than that of a picture that is learned."""
    losses = []
    for preserved in (True, False):
        made = make(
            tmp_path / str(preserved),
            tiny_model_folder,
            pictures,
            subset={"diff_output_preservation": preserved, "caption_dropout_rate": 0.0},
            validation=PLAIN,
            schedule=ScheduleConfig(steps=1, seed=5),
        )
        assert run(made) == FINISHED
        losses.append(told(made, events.Stepped)[0].loss)

    assert losses[0] == pytest.approx(0.0, abs=1e-9) and losses[1] > 0.01


@pytest.mark.parametrize("kind", ["lokr", "boft", "full", "dylora"])
def test_every_kind_trains_and_its_file_draws_what_was_trained(
    kind, tmp_path, tiny_model_folder, pictures, monkeypatch
):
    """What the loader makes of the file is what the network answered in training."""
    from lora_atelier.trainer import session

    built, real = [], session.build
    monkeypatch.setattr(session, "build", lambda *given: built.append(real(*given)) or built[-1])
    arguments = ("block_size=2",) if kind == "dylora" else ()
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        network=NetworkConfig(algorithm=kind, rank=4, alpha=4.0, conv_rank=4, conv_alpha=4.0, network_args=arguments),
        optimizer=OptimizerConfig(learning_rate=0.02),
        validation=PLAIN,
        output=OutputConfig(name="momo", folder=str(tmp_path / "run" / "loras"), precision="float"),
    )

    assert run(made) == FINISHED and not warnings(made)

    (trainee,) = built
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    context = trainee.condition(["momo 1"])

    def predicted(model):
        with torch.no_grad():
            return model.prediction(x, torch.tensor([500]), context, size=(64, 64))

    trainee.network.eval()
    trained = predicted(trainee.model)
    trainee.network.detach()
    alone = predicted(trainee.model)
    merged = models.load(tiny_model_folder)
    for name, stored in group(adapter(made)).layers.items():
        for parameter, change in match(stored).items():
            view = layers(merged)[name].view(parameter)
            view += change.delta(view.clone())
    assert torch.allclose(predicted(merged), trained, atol=1e-4)
    assert not torch.allclose(alone, trained, atol=1e-3)
    with safe_open(made / "loras" / "momo.safetensors", "pt") as opened:
        said = opened.metadata()
    assert said["ss_network_module"] == "lycoris.kohya"
    assert json.loads(said["ss_network_args"])["algo"] == {"oft": "diag-oft"}.get(kind, kind)


@pytest.mark.parametrize(
    ("group", "name", "value", "words"),
    [
        ("optimizer", "optimizer", "no_such_package.Best", "no_such_package"),
        ("schedule", "lr_scheduler_type", "StepLRR", "StepLRR"),
        ("network", "network_weights", "gone.safetensors", "gone"),
        ("output", "metadata_thumbnail", "gone.png", "gone.png"),
    ],
)
def test_what_can_not_be_had_is_said_before_the_model_is_read(
    group, name, value, words, tmp_path, tiny_model_folder, pictures, monkeypatch
):
    monkeypatch.setattr(models, "load", lambda *_: pytest.fail("the model was read"))
    made = make(tmp_path / "run", tiny_model_folder, pictures, more={group: {name: value}})

    assert run(made) != FINISHED
    assert words in failure(made)


def test_a_recipe_of_many_folders_in_many_encodings_is_seen_as_kohyas_files_say(
    tmp_path, tiny_model_folder, prepared, monkeypatch
):
    """Numbered folders, two datasets with their own batches, JSON lines, cp932 and BOM, regularisation, one broken."""
    from lora_atelier.trainer import session

    def picture(path, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_mandelbrot((64, 64), (-2 + seed / 9, -1.5, 1, 1.5), 20 + seed).convert("RGB").save(path)

    for at in range(4):
        picture(tmp_path / "kohya" / "3_momo figure" / f"{at}.png", at)
        picture(tmp_path / "listed" / f"b{at}.png", 10 + at)
    for at in range(2):
        picture(tmp_path / "reg" / "1_figure" / f"r{at}.png", 20 + at)
    numbered = tmp_path / "kohya" / "3_momo figure"
    (numbered / "0.txt").write_bytes("桃の絵, 赤".encode("cp932"))
    (numbered / "1.txt").write_bytes(b"\xef\xbb\xbfmomo with a mark")
    (numbered / "broken.png").write_bytes((numbered / "0.png").read_bytes()[:200])
    rows = [{"image_path": f"b{at}.png", "caption": f"b {at}", "tags": "x, y"} for at in range(4)]
    (tmp_path / "meta.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    size = {"resolution": [64, 64], "enable_bucket": False}
    datasets = [
        {
            **size,
            "batch_size": 3,
            "subsets": [
                {"image_dir": str(tmp_path / "kohya"), "caption_extension": ".txt"},
                {"image_dir": str(tmp_path / "reg"), "is_reg": True},
            ],
        },
        {
            **size,
            "batch_size": 2,
            "network_multiplier": -1.0,
            "subsets": [{"image_dir": str(tmp_path / "listed"), "metadata_file": str(tmp_path / "meta.jsonl")}],
        },
    ]
    config = from_kohya({"all": {"max_train_steps": 2}}, {"datasets": datasets})
    made = make(tmp_path / "run", tiny_model_folder, tmp_path / "kohya")
    written = dataclasses.replace(config_files.read(made), data=config.data, validation=PLAIN)
    config_files.write(written, made)
    plans, real = [], session.plan_of
    monkeypatch.setattr(session, "plan_of", lambda *given: plans.append(real(*given)) or plans[-1])

    assert run(made) == FINISHED

    assert [(e.caption, e.weight) for e in prepared[0].examples] == [
        ("桃の絵, 赤", 1.0),
        ("momo with a mark", 1.0),
        ("momo figure", 1.0),
        ("momo figure", 1.0),
        ("figure", 1.0),
        ("figure", 1.0),
        *((f"b {at},x, y", 1.0) for at in range(4)),
    ]
    plan = plans[-1]
    assert [sight.repeats for sight in plan.sights] == [3] * 4 + [6] * 2 + [1] * 4
    batches = [plan.batch(at) for at in range(plan.batches_per_epoch)]
    assert sorted(len(batch) for batch in batches) == [2] * 2 + [3] * 8
    said = " ".join(warnings(made))
    assert "broken.png" in said and "cp932" in said
