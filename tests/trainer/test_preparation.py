"""What comes before the first step: checks, caches, masks, and no more of the model than is needed."""

import dataclasses
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from lora_atelier import config_files, events
from lora_atelier.config import DataConfig, LossConfig, NetworkConfig, SamplingConfig, ScheduleConfig
from lora_atelier.datasets import record
from lora_atelier.datasets.cache import CacheFolder
from lora_atelier.errors import Message
from lora_atelier.models import detect
from lora_atelier.models import load as models
from lora_atelier.trainer import caches, preparation
from lora_atelier.trainer.preparation import Preparation
from lora_atelier.trainer.run import FAILED, FINISHED, STOPPED, run

_spec = importlib.util.spec_from_file_location("resume_helpers", Path(__file__).with_name("test_resume.py"))
helpers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(helpers)
pictures, told, adapter, same = helpers.pictures, helpers.told, helpers.adapter, helpers.same

FROZEN = NetworkConfig(rank=4, alpha=2.0)
SHORT = ScheduleConfig(steps=2, seed=5)


def make(run_dir, model, pictures, *, subset=None, more=None, **changes):
    """A run of 2 steps that trains the U-Net alone; ``subset`` changes its folder, ``more`` parts of its groups."""
    made = helpers.make(run_dir, model, pictures, **{"network": FROZEN, "schedule": SHORT, **changes})
    config = config_files.read(made)
    (dataset,) = config.data.datasets
    changed = dataclasses.replace(dataset.subsets[0], **(subset or {}))
    groups = {"data": DataConfig(datasets=(dataclasses.replace(dataset, subsets=(changed,)),))}
    for name, values in (more or {}).items():
        groups[name] = dataclasses.replace(getattr(config, name), **values)
    config_files.write(dataclasses.replace(config, **groups), made)
    return made


@pytest.fixture
def loaded(monkeypatch):
    """The parts of the model that were loaded, in order."""
    parts, real = [], models.load

    def load(info, wanted, *rest):
        parts.extend(wanted)
        return real(info, wanted, *rest)

    monkeypatch.setattr(models, "load", load)
    return parts


@pytest.fixture
def prepared(monkeypatch):
    """What every run was prepared with."""
    found, real = [], Preparation.prepare

    def prepare(self):
        found.append(real(self))
        return found[-1]

    monkeypatch.setattr(Preparation, "prepare", prepare)
    return found


def warnings(run_dir):
    return [str(Message.from_json(warned.message)) for warned in told(run_dir, events.Warned)]


def failure(run_dir):
    (failed,) = told(run_dir, events.Failed)
    return " ".join(failed.error[part].format(**failed.error["values"]) for part in ("what", "why", "todo"))


# ----------------------------------------------------------------------------------------------------- caches


def test_of_an_unchanged_folder_only_the_unet_is_loaded_and_the_lora_is_the_same(
    tmp_path, tiny_model_folder, pictures, loaded
):
    runs = [make(tmp_path / "data" / "runs" / name, tiny_model_folder, pictures) for name in "12"]

    assert run(runs[0]) == FINISHED
    assert loaded == ["vae", "te", "unet"]
    loaded.clear()
    assert run(runs[1]) == FINISHED

    assert loaded == ["unet"]
    assert same(adapter(runs[0]), adapter(runs[1]))


def test_the_encoders_are_freed_once_all_is_encoded(tmp_path, tiny_model_folder, pictures, prepared):
    assert run(make(tmp_path / "run", tiny_model_folder, pictures)) == FINISHED

    assert prepared[0].model.vae is None and prepared[0].model.text_encoders == ()


def test_where_samples_are_asked_for_the_whole_model_is_loaded(tmp_path, tiny_model_folder, pictures, loaded):
    sampling = SamplingConfig(prompts=("momo --w 64 --h 64 --s 1",))
    for name in "12":
        loaded.clear()
        made = make(tmp_path / "data" / "runs" / name, tiny_model_folder, pictures, sampling=sampling)
        assert run(made) == FINISHED
        assert sorted(loaded) == ["te", "unet", "vae"] and told(made, events.Sampled) and not warnings(made)


def test_one_new_picture_and_one_new_caption_are_encoded_alone(tmp_path, tiny_model_folder, pictures, monkeypatch):
    assert run(make(tmp_path / "data" / "runs" / "1", tiny_model_folder, pictures)) == FINISHED
    Image.new("RGB", (64, 64), "red").save(pictures / "new.png")
    (pictures / "new.txt").write_text("momo 3", encoding="utf-8")
    (pictures / "0.txt").write_text("another", encoding="utf-8")
    sizes, captions = [], []
    encode_images, read = preparation.Model.encode_images, preparation.Model.read

    monkeypatch.setattr(
        preparation.Model, "encode_images", lambda self, p: sizes.append(p.shape) or encode_images(self, p)
    )
    monkeypatch.setattr(preparation.Model, "read", lambda self, t, way: captions.extend(t) or read(self, t, way))
    assert run(make(tmp_path / "data" / "runs" / "2", tiny_model_folder, pictures)) == FINISHED

    assert sizes == [(1, 3, 64, 64)] * 2  # plain and mirrored
    assert captions == ["another"]


def test_a_picture_that_changed_and_another_resolution_are_never_taken_from_the_cache(
    tmp_path, tiny_model_folder, pictures, prepared
):
    """sd-scripts' caches on disk take both for what they were."""
    small = Image.effect_mandelbrot((64, 64), (-1, -1, 1, 1), 50).convert("RGB")
    shapes, means = [], []
    for name, size in (("1", 64), ("2", 64), ("3", 96)):
        made = make(tmp_path / "data" / "runs" / name, tiny_model_folder, pictures)
        config = config_files.read(made)
        dataset = dataclasses.replace(config.data.datasets[0], resolution=(size, size))
        config_files.write(dataclasses.replace(config, data=DataConfig(datasets=(dataset,))), made)
        assert run(made) == FINISHED
        shapes.append(max(e.posteriors[0].shape[-1] for e in prepared[-1].examples))
        means.append(float(sum(e.posteriors[0][0].sum() for e in prepared[-1].examples)))
        for at in range(9):
            small.save(pictures / f"{at}.png")

    assert means[0] != means[1]
    assert shapes[1:] == [64 // 8, 96 // 8]


def test_captions_that_are_read_otherwise_are_encoded_anew(tmp_path, tiny_model_folder, pictures, prepared):
    for at in range(9):
        (pictures / f"{at}.txt").write_text(f"(momo:1.5) {at} {'long ' * 40}", encoding="utf-8")
    ways = {
        "plain": {},
        "again": {},
        "skip": {"model": {"clip_skip": 2}},
        "weighted": {"loss": {"weighted_captions": True}},
        "longer": {"model": {"max_token_length": 225}},
    }
    contexts = []
    for name, changes in ways.items():
        made = make(tmp_path / "data" / "runs" / name, tiny_model_folder, pictures, more=changes)
        assert run(made) == FINISHED
        contexts.append(prepared[-1].condition([prepared[-1].examples[0].caption]).context)

    assert torch.equal(contexts[0], contexts[1])
    assert [context.shape[1] for context in contexts] == [77, 77, 77, 77, 3 * 75 + 2]
    assert not any(torch.equal(contexts[0], other) for other in contexts[2:4])


def test_a_broken_file_in_the_cache_is_made_again(tmp_path, tiny_model_folder, pictures):
    runs = [make(tmp_path / "data" / "runs" / name, tiny_model_folder, pictures) for name in "12"]
    assert run(runs[0]) == FINISHED
    kept = sorted((tmp_path / "data" / "cache").rglob("*.safetensors"))
    for file in kept[::2]:
        file.write_bytes(file.read_bytes()[:-8])

    assert run(runs[1]) == FINISHED

    assert len(kept) > 10 and same(adapter(runs[0]), adapter(runs[1]))


def test_a_cache_that_cant_be_written_changes_nothing(tmp_path, tiny_model_folder, pictures, monkeypatch):
    kept, unkept = (make(tmp_path / name, tiny_model_folder, pictures) for name in "12")
    assert run(kept) == FINISHED
    real = caches.atomic.write_bytes

    def full(path, data):
        if "cache" in path.parts:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(caches.atomic, "write_bytes", full)
    assert run(unkept) == FINISHED

    assert not list((unkept / "cache").rglob("*.safetensors"))
    assert same(adapter(kept), adapter(unkept))


def test_what_was_not_used_for_long_is_removed_and_what_this_run_uses_is_not(tmp_path, tiny_model_folder, pictures):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    old = made / "cache" / "latents" / "aa" / "aa.safetensors"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    os.utime(old, (1e9, 1e9))

    assert run(made) == FINISHED

    assert not old.exists() and list((made / "cache" / "latents").rglob("*.safetensors"))


def test_an_unchanged_model_is_fingerprinted_once(tmp_path, tiny_model_folder, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model)
    for file in model.rglob("*.*"):
        os.utime(file, (1e9, 1e9))  # of a file that is written now the time alone would not be trusted
    folder, read, real = CacheFolder(tmp_path / "cache"), [], caches.fingerprint
    monkeypatch.setattr(caches, "fingerprint", lambda info, part: read.append(part) or real(info, part))

    keys = {caches.part_key(folder, detect.inspect(model), "vae") for _ in range(3)}
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    changed = caches.part_key(folder, detect.inspect(model), "vae")

    assert len(keys) == 1 and changed not in keys
    assert read == ["vae", "vae"]


# ------------------------------------------------------------------------------------------------------ masks


def masks(folder, colour):
    folder.mkdir()
    for at in range(9):
        Image.new("L", (96, 48) if at % 3 == 0 else (64, 64), colour).save(folder / f"{at}.png")
    return str(folder)


def test_where_the_masks_are_black_nothing_is_learned(tmp_path, tiny_model_folder, pictures):
    folder = masks(tmp_path / "masks", 0)
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        subset={"conditioning_data_dir": folder},
        loss=LossConfig(masked_loss=True),
    )

    assert run(made) == FINISHED

    assert all(not value.any() for key, value in adapter(made).items() if "lora_up" in key)
    assert any("black everywhere" in warning for warning in warnings(made))


def test_white_masks_change_nothing(tmp_path, tiny_model_folder, pictures):
    folder = masks(tmp_path / "masks", 255)
    plain = make(tmp_path / "plain", tiny_model_folder, pictures)
    masked = make(
        tmp_path / "masked",
        tiny_model_folder,
        pictures,
        subset={"conditioning_data_dir": folder},
        loss=LossConfig(masked_loss=True),
    )
    assert run(plain) == run(masked) == FINISHED

    assert same(adapter(plain), adapter(masked))


def test_mask_and_transparency_are_multiplied_at_the_size_of_the_latents(
    tmp_path, tiny_model_folder, pictures, prepared
):
    shown = Image.new("RGBA", (64, 64), (200, 0, 0, 255))
    shown.paste((0, 0, 0, 0), (0, 0, 32, 64))  # left half transparent
    shown.save(pictures / "1.png")
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 0, 64, 32))  # upper half black
    mask.save(folder / "1.png")

    for name in "12":  # the second time from the cache
        made = make(
            tmp_path / "data" / "runs" / name,
            tiny_model_folder,
            pictures,
            subset={"conditioning_data_dir": str(folder), "alpha_mask": True},
            loss=LossConfig(masked_loss=True),
        )
        assert run(made) == FINISHED
        sha256 = next(entry.sha256 for entry in record.read(made / record.FILE) if entry.name == "1.png")
        (example,) = (e for e in [*prepared[-1].examples, *prepared[-1].heldout] if e.key == sha256)

        wanted = torch.zeros(1, 8, 8)
        wanted[:, 4:, 4:] = 1
        assert torch.equal(example.loss_mask, wanted)
    assert any("8 of 9 pictures have no mask" in warning for warning in warnings(made))


def test_a_picture_whose_mask_is_broken_is_left_out(tmp_path, tiny_model_folder, pictures):
    folder = Path(masks(tmp_path / "masks", 255))
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    made = make(
        tmp_path / "run",
        tiny_model_folder,
        pictures,
        subset={"conditioning_data_dir": str(folder)},
        loss=LossConfig(masked_loss=True),
    )

    assert run(made) == FINISHED

    (warning,) = warnings(made)
    assert "1.png" in warning and "left out" in warning and "mask" in warning


# ----------------------------------------------------------------------------------------------------- checks


def test_pictures_that_are_all_broken_are_named_and_no_model_is_loaded(tmp_path, tiny_model_folder, loaded):
    folder = tmp_path / "broken"
    folder.mkdir()
    for at in range(3):
        Image.effect_noise((64, 64), 90).save(folder / f"{at}.jpg", quality=95)
        whole = (folder / f"{at}.jpg").read_bytes()
        (folder / f"{at}.jpg").write_bytes(whole[: len(whole) // 2])
    made = make(tmp_path / "run", tiny_model_folder, folder)

    assert run(made) == FAILED

    assert "no picture to train on" in failure(made)
    assert [w.message["values"].get("name") for w in told(made, events.Warned)][-3:] == ["0.jpg", "1.jpg", "2.jpg"]
    assert loaded == []


def test_few_pictures_a_common_trigger_and_long_captions_are_said_before_the_model_is_loaded(
    tmp_path, tiny_model_folder, pictures
):
    for at in range(3, 9):
        (pictures / f"{at}.png").unlink()
    (pictures / "2.txt").write_text("momo " * 16, encoding="utf-8")  # a token a letter: 64 of them
    (pictures / "1.txt").write_text("momo " * 20, encoding="utf-8")
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    (made / "job.toml").write_text('schema = 1\ntrigger = "cat"\nwhose = "mine"\n', encoding="utf-8")

    assert run(made) == FINISHED

    few, common, long = warnings(made)
    assert "only 3 pictures" in few and "“cat”" in common
    assert "“1.png”" in long and "80" in long and long.startswith("1 captions")
    stages = [e if isinstance(e, events.Warned) else e.stage for e in told(made) if e.kind in ("warned", "preparing")]
    assert stages.index("model") > max(at for at, e in enumerate(stages) if isinstance(e, events.Warned))


# -------------------------------------------------------------------------------------------- changed pictures


def change_caption(pictures):
    (pictures / "0.txt").write_text("momo z", encoding="utf-8")


def add_picture(pictures):
    Image.new("RGB", (64, 64), "red").save(pictures / "9.png")


def remove_picture(pictures):
    (pictures / "0.png").unlink()


CHANGES = {
    "caption": (change_caption, "was “momo 0” and is “momo z”"),
    "new": (add_picture, "“9.png” was not among"),
    "gone": (remove_picture, "“0.png” is not among"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_does_not_go_on_with_other_pictures_and_says_what_is_another(
    tmp_path, tiny_model_folder, pictures, monkeypatch, loaded, name
):
    change, shown = CHANGES[name]
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    with monkeypatch.context() as patch:
        helpers.stop_after(patch, 1)
        assert run(made) == STOPPED
    (made / "stop").unlink()
    loaded.clear()
    caption = (pictures / "0.txt").read_text(encoding="utf-8")
    content = (pictures / "0.png").read_bytes()
    change(pictures)

    assert run(made) == FAILED
    assert "not those that it began with" in failure(made)
    assert any(shown in warning for warning in warnings(made))
    assert loaded == []

    (pictures / "0.txt").write_text(caption, encoding="utf-8")
    (pictures / "0.png").write_bytes(content)
    (pictures / "9.png").unlink(missing_ok=True)
    assert run(made) == FINISHED


def test_a_run_without_a_step_begins_with_the_pictures_that_are_there_now(
    tmp_path, tiny_model_folder, pictures, monkeypatch
):
    made = make(tmp_path / "run", tiny_model_folder, pictures)
    (made / "stop").write_text("stop", encoding="ascii")
    assert run(made) == STOPPED
    (made / "stop").unlink()
    change_caption(pictures)

    assert run(made) == FINISHED


# --------------------------------------------------------------------------------------------------- captions

BY_LOT = {"shuffle_caption": True, "caption_tag_dropout_rate": 0.3, "enable_wildcard": True, "token_warmup_step": 3}


@pytest.fixture
def tags(pictures):
    """The pictures with captions of many tags, of two lines, with a choice."""
    for at in range(9):
        (pictures / f"{at}.txt").write_text(f"momo, {at}, a, b, {{c|d}}\nmomo, e, f", encoding="utf-8")
    return pictures


@pytest.mark.parametrize("train_te", [False, True], ids=["frozen", "trained"])
def test_captions_by_lot_are_the_same_ones_after_a_resume(tmp_path, tiny_model_folder, tags, monkeypatch, train_te):
    changes = {"network": NetworkConfig(rank=4, train_te=train_te), "schedule": ScheduleConfig(steps=4, seed=5)}
    straight, stopped = (make(tmp_path / name, tiny_model_folder, tags, subset=BY_LOT, **changes) for name in "12")
    assert run(straight) == FINISHED

    with monkeypatch.context() as patch:
        helpers.stop_after(patch, 2)
        assert run(stopped) == STOPPED
    (stopped / "stop").unlink()
    assert run(stopped) == FINISHED

    assert same(adapter(straight), adapter(stopped))


def test_a_step_sees_captions_in_another_form_each_time_and_measurements_in_one(
    tmp_path, tiny_model_folder, tags, monkeypatch, prepared
):
    seen, real = [], preparation.Preparation.prepare

    def prepare(self):
        made = real(self)
        condition = made.condition
        made.condition = lambda captions: seen.append(list(captions)) or condition(captions)
        return made

    monkeypatch.setattr(Preparation, "prepare", prepare)
    schedule = ScheduleConfig(steps=6, seed=5)
    subset = {"shuffle_caption": True, "keep_tokens": 1, "caption_prefix": "photo of", "caption_dropout_rate": 0.0}
    assert run(make(tmp_path / "run", tiny_model_folder, tags, subset=subset, schedule=schedule)) == FINISHED

    measured = {caption for captions in seen if len(captions) == 8 for caption in captions}
    trained = [caption for captions in seen if len(captions) < 8 for caption in captions]
    assert all(caption.startswith("photo of momo, ") for caption in [*measured, *trained])
    assert len(measured) == 2 and all(", a, b, " in caption for caption in measured)
    assert len({tuple(caption.split(", ")[1:]) for caption in trained}) > len(trained) // 2


def test_fixed_words_around_captions_are_encoded_once(tmp_path, tiny_model_folder, pictures, loaded):
    subset = {"caption_prefix": "photo of", "caption_suffix": ", best"}
    for name in "12":
        loaded.clear()
        made = make(tmp_path / "data" / "runs" / name, tiny_model_folder, pictures, subset=subset)
        assert run(made) == FINISHED

    assert loaded == ["unet"]


def test_a_metadata_file_gives_pictures_captions_and_buckets(tmp_path, tiny_model_folder, pictures, prepared):
    said = {f"{at}.png": {"caption": "momo", "tags": f"tag {at}", "train_resolution": [80, 48]} for at in range(4)}
    (pictures / "meta.json").write_text(json.dumps(said), encoding="utf-8")
    subset = {"image_dir": "", "metadata_file": str(pictures / "meta.json")}

    assert run(make(tmp_path / "run", tiny_model_folder, pictures, subset=subset)) == FINISHED

    assert [e.caption for e in prepared[0].examples] == [f"momo,tag {at}" for at in range(4)]
    assert {e.size for e in prepared[0].examples} == {(80, 48)}
