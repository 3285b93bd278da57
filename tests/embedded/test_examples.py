"""The example pictures: what lies in ``examples/`` is what the script draws."""

from __future__ import annotations

from collections import Counter

import pytest
from PIL import Image

from lora_atelier.embedded import examples, judge, world

pytestmark = pytest.mark.torchfree


@pytest.mark.parametrize("name", examples.SETS)
def test_the_folders_in_the_repository_are_those_that_the_script_writes(name, tmp_path):
    examples.write(tmp_path)
    kept, drawn = examples.example_folder(name), tmp_path / name

    assert sorted(path.name for path in kept.iterdir()) == sorted(path.name for path in drawn.iterdir())
    for path in sorted(drawn.iterdir()):
        if path.suffix == ".png":  # the pixels: how well a PNG is packed depends on the zlib that packs it
            assert Image.open(kept / path.name).tobytes() == Image.open(path).tobytes(), path.name
        else:
            assert (kept / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), path.name


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        examples.write(tmp_path / folder)
    first, second = (
        {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.*"))}
        for root in (tmp_path / "one", tmp_path / "two")
    )
    assert first == second


def test_every_figure_is_captioned_with_the_trigger_and_recognised():
    made = examples.figures()
    assert len(made) == examples.NUM_FIGURES
    assert all(example.caption.startswith(f"{examples.TRIGGER} ") for example in made)
    assert judge.concept_score([example.picture for example in made]) == 1.0


def test_the_regularisation_pictures_cover_the_world_but_nothing_that_is_asked_for_later():
    made = examples.regularisation()
    readings = [judge.read(example.picture) for example in made]
    assert set(Counter(reading.shape for reading in readings).values()) == {len(made) // len(world.SHAPES)}
    assert {reading.colour for reading in readings} == {reading.background for reading in readings}
    assert not any(examples.TRIGGER in example.caption for example in made)
    for reading, example in zip(readings, made, strict=True):
        assert f"{reading.shape}" in example.caption
        assert not world.is_held_out(world.Scene(reading.shape, reading.colour, reading.background))


def test_the_style_is_captioned_with_its_trigger():
    made = examples.stickers()
    assert len(made) == examples.NUM_STICKERS
    assert all(example.caption.startswith(examples.STYLE_TRIGGER) for example in made)


def test_there_are_twenty_prompts_for_the_figure_two_on_each_background():
    assert len(set(examples.CONCEPT_PROMPTS)) == 20
    assert all(examples.TRIGGER in prompt.split() for prompt in examples.CONCEPT_PROMPTS)
    assert set(Counter(scene.background for scene in examples.CONCEPT_SCENES).values()) == {2}


def test_every_photograph_is_a_small_jpeg_with_its_licence_written_down():
    folder = examples.example_folder(examples.PHOTOGRAPHS)
    photographs = sorted(folder.glob("*.jpg"))
    licences = (folder / "LICENSES.md").read_text(encoding="utf-8")
    assert 6 <= len(photographs) <= 8
    for path in photographs:
        assert f"`{path.name}`" in licences
        assert path.stat().st_size <= 150_000
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            assert not picture.getexif()
