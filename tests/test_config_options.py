"""Each of sd-scripts' options is a setting, or a note, or refused with a sentence of its own; none is unknown."""

import re
from pathlib import Path

import pytest

from lora_atelier.config import keys, read_kohya
from lora_atelier.errors import ConfigError

pytestmark = pytest.mark.torchfree

LIST = Path(__file__).parent / "data" / "sd_scripts_options.txt"
_LINE = re.compile(r"(\w+) (flag|\w+)(\*?)(?: = ([^;]+?))?(?: ; (.+))?")


def options():
    """(name, a value that is not its default, its default or None) of every option; the last of equal names."""
    found = {}
    for line in LIST.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, kind, listed, default, choices = _LINE.fullmatch(line).groups()
            found[name] = (*_values(name, kind, default, choices and choices.split("/")), bool(listed))
    return found


def _values(name, kind, default, choices):
    if kind == "flag":
        return SPECIAL.get(name, True), False
    read = {"int": int, "float": float, "int_or_float": float}.get(kind, lambda text: text.strip("'"))
    value = None if default in (None, "None", "''") else read(default)
    if name in SPECIAL:
        return SPECIAL[name], value
    if choices:
        other = next(choice for choice in reversed(choices) if choice not in ("None", default and default.strip("'")))
        return read(other), value
    return {"int": 7, "float": 0.25, "int_or_float": 0.25}.get(kind, "x"), value


SPECIAL = {
    "resolution": "640,448",
    "face_crop_aug_range": "2.0,4.0",
    "network_module": "networks.oft",
    "optimizer_type": "Prodigy",
    "optimizer_args": "weight_decay=0.3",
    "network_args": "conv_dim=4",
    "save_model_as": "ckpt",
    "lr_scheduler": "linear",
    "caption_extention": ".text",
    "sdpa": False,  # ours is on
    "sample_at_first": False,
}
OPTIONS = options()
# They name files that the command line reads, or mean nothing alone.
READ_ELSEWHERE = {"config_file", "dataset_config", "sample_prompts"} | {"zero_stage"}
WITHOUT_A_DATASET = {
    *keys.subset_keys(), *keys.dataset_keys(), "train_batch_size", "caption_extention", "reg_data_dir", "in_json",
    "dataset_repeats",
}  # fmt: skip
# sd-scripts' default is of no use (2e-6 learns nothing), or costs time only.
OUR_OWN_DEFAULT = {"learning_rate", "sample_at_first", "max_data_loader_n_workers", "sdpa", "validation_seed"}


def read(**given):
    """What a file with these options says; one that is about pictures gets a folder of them."""
    folder = {"train_data_dir": "p"} if given.keys() & WITHOUT_A_DATASET else {}
    return read_kohya(folder | given, {})


def test_the_list_is_whole():
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]

    assert len(lines) == 205


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_a_setting_or_a_note_or_refused_with_a_reason(name):
    value, _, listed = OPTIONS[name]
    without = read_kohya({"train_data_dir": "p"} if name in WITHOUT_A_DATASET else {}, {})

    try:
        with_it = read(**{name: [value] if listed else value})
    except ConfigError as error:
        assert [found.field for found in error.problems] == [name]
        assert "no option that we know" not in str(error)
        return

    changed = with_it.config != without.config
    noted = [note for note in with_it.notes if note.field == name]
    assert changed != bool(noted) or name in READ_ELSEWHERE


@pytest.mark.parametrize("name", [name for name, (_, default, _) in OPTIONS.items() if default is not None])
def test_leaving_an_option_out_means_what_it_means_in_sd_scripts(name):
    if name in OUR_OWN_DEFAULT:
        return
    _, default, listed = OPTIONS[name]
    without = read_kohya({"train_data_dir": "p"} if name in WITHOUT_A_DATASET else {}, {})

    with_it = read(**{name: [default] if listed else default})

    assert with_it == without
