"""Draws the example pictures that a first LoRA is trained on: a figure, pictures of the ordinary world, a style.

    python -m lora_atelier.embedded.examples DIR

writes the folders ``figure``, ``figure_regularisation`` and ``style``, each picture with its caption in a ``.txt`` of
the same name, as kohya's trainers read them. The same ones are kept in ``examples/`` at the repository's root.
Everything is drawn from fixed seeds. Needs Pillow and no torch.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from . import world

CONCEPT_NAME = "momo"
TRIGGER = "momo"
STYLE_TRIGGER = "sticker style"
FIGURE, REGULARISATION, STYLE, PHOTOGRAPHS = "figure", "figure_regularisation", "style", "photographs"
NUM_FIGURES, NUM_REGULARISATION, NUM_STICKERS = 16, 64, 16

# None of the figure's colours is one of the world's, so that it stands out on every background; each is so far from
# all of them that a third of its neighbour's colour, which the base's coarse latents let bleed in, changes no name.
HEAD: world.Colour = (165, 250, 175)
BODY: world.Colour = (238, 30, 150)
BAND: world.Colour = (120, 250, 30)
_EYES: world.Colour = (28, 28, 30)
_OVERSAMPLING = 4
# Heights and distances from the middle in pixels, such that the figure stays in the picture.
_HEIGHT = {"centre": (90.0, 104.0), "left": (88.0, 100.0), "right": (88.0, 100.0), "top": (86.0, 94.0)}
_HEIGHT["bottom"] = _HEIGHT["top"]
_REACH_X, _REACH_Y = 25, 13
_PLACES = {"centre": "", "left": ", on the left", "right": ", on the right", "top": ", at the top"}
_PLACES["bottom"] = ", at the bottom"
# Thickness of a sticker's white edge and how far its shadow falls, in pixels.
_EDGE, _SHADOW = 5, 7


@dataclass(frozen=True)
class FigureScene:
    """The figure in one picture: background and place in the world's words, then what a caption does not say."""

    background: str
    position: str = "centre"
    height: float = 96.0
    dx: float = 0.0
    dy: float = 0.0

    @property
    def prompt(self) -> str:
        """The scene in words, with the trigger."""
        article = "an" if self.background[0] in "aeiou" else "a"
        return f"{TRIGGER} figure on {article} {self.background} background{_PLACES[self.position]}"


@dataclass(frozen=True)
class Example:
    """A picture to train on."""

    picture: Image.Image
    caption: str


CONCEPT_SCENES: tuple[FigureScene, ...] = tuple(
    FigureScene(background, position)
    for positions in (("centre",), ("left", "right"))
    for background, position in zip(world.COLOURS, islice(cycle(positions), len(world.COLOURS)), strict=True)
)
# Two on each background; what a trained LoRA is judged by.
CONCEPT_PROMPTS: tuple[str, ...] = tuple(scene.prompt for scene in CONCEPT_SCENES)


# ----------------------------------------------------------------------------------------------- the figure


def figures() -> list[Example]:
    """The pictures of the figure."""
    rng = random.Random(1)
    backgrounds = list(islice(cycle(world.COLOURS), NUM_FIGURES))
    positions = list(islice(cycle(("centre", "left", "centre", "right", "centre", "top", "bottom")), NUM_FIGURES))
    rng.shuffle(backgrounds)
    scenes = [random_figure(rng, *where) for where in zip(backgrounds, positions, strict=True)]
    return [Example(draw_figure(scene), scene.prompt) for scene in scenes]


def random_figure(rng: random.Random, background: str, position: str) -> FigureScene:
    """The figure there, at a random height, a little off."""
    return FigureScene(
        background, position, rng.uniform(*_HEIGHT[position]), rng.uniform(-2.5, 2.5), rng.uniform(-2.5, 2.5)
    )


def draw_figure(scene: FigureScene) -> Image.Image:
    """The figure as an RGB picture of 128 × 128 pixels: round head with ears and eyes, a banded body."""
    side = world.SIDE * _OVERSAMPLING
    picture = Image.new("RGB", (side, side), world.COLOURS[scene.background])
    pen = ImageDraw.Draw(picture)
    right, down = world.POSITIONS[scene.position]
    middle_x = world.SIDE / 2 + right * _REACH_X + scene.dx
    middle_y = world.SIDE / 2 + down * _REACH_Y + scene.dy

    def place(x: float, y: float) -> tuple[float, float]:
        """From units of the figure's height, 0 at its middle, to the enlarged picture's pixels."""
        return (middle_x + x * scene.height) * _OVERSAMPLING, (middle_y + y * scene.height) * _OVERSAMPLING

    def disc(x: float, y: float, radius: float, colour: world.Colour) -> None:
        pen.ellipse((*place(x - radius, y - radius), *place(x + radius, y + radius)), fill=colour)

    def body(top: float, bottom: float, colour: world.Colour) -> None:
        corners = [(-_half_width(top), top), (_half_width(top), top), (_half_width(bottom), bottom)]
        pen.polygon([place(x, y) for x, y in [*corners, (-_half_width(bottom), bottom)]], fill=colour)

    for x in (-0.21, 0.21):
        disc(x, -0.385, 0.115, BODY)
    body(-0.06, 0.5, BODY)
    body(0.14, 0.34, BAND)
    disc(0, -0.255, 0.235, HEAD)
    for x in (-0.1, 0.1):
        disc(x, -0.265, 0.06, _EYES)
    return picture.resize((world.SIDE, world.SIDE), Image.Resampling.LANCZOS)


def _half_width(y: float) -> float:
    """Half the body's width at a height; it widens downwards."""
    return 0.2 + 0.28 * y


# ------------------------------------------------------------------------------------- the world and the style


def regularisation() -> list[Example]:
    """Pictures of the world that the base knows already, so that the LoRA does not change them.

    Every shape is there eight times, every colour about six times as an object and six times as a background.
    """
    rng = random.Random(2)
    shapes = _shuffled(world.SHAPES, NUM_REGULARISATION, rng)
    colours = _shuffled(world.COLOURS, NUM_REGULARISATION, rng)
    backgrounds = cycle(world.COLOURS)
    made: list[Example] = []
    for shape, colour in zip(shapes, colours, strict=True):
        scene = world.Scene(
            shape=shape,
            colour=colour,
            background=next(name for name in backgrounds if _is_free(shape, colour, name)),
            size=rng.choice(list(world.SIZES)),
            position=rng.choice(list(world.POSITIONS)),
            texture=rng.choice(("plain", *world.TEXTURES)),
        )
        made.append(Example(world.draw(scene), scene.prompt))
    return made


def _is_free(shape: str, colour: str, background: str) -> bool:
    """Whether a picture may show this: what the demo asks for afterwards must not have been seen here."""
    return colour != background and not world.is_held_out(world.Scene(shape, colour, background))


def stickers() -> list[Example]:
    """Pictures in one style: the world's shapes as stickers, with a thick white edge and a shadow."""
    rng = random.Random(3)
    dark = [name for name in world.COLOURS if name not in ("white", "black")]
    shapes = _shuffled(world.SHAPES, NUM_STICKERS, rng)
    colours = _shuffled(dark, NUM_STICKERS, rng)
    made: list[Example] = []
    for number, (shape, colour) in enumerate(zip(shapes, colours, strict=True)):
        backgrounds = [name for name in dark if name != colour]
        scene = world.Scene(
            shape=shape,
            colour=colour,
            background=backgrounds[number % len(backgrounds)],
            size=("large", "medium")[number % 2],
            position=("centre", "left", "centre", "right")[number % 4],
        )
        made.append(Example(draw_sticker(scene), f"{STYLE_TRIGGER}, {scene.prompt}"))
    return made


def draw_sticker(scene: world.Scene) -> Image.Image:
    """The scene's shape as a sticker: 128 × 128 pixels, RGB."""
    outline = world.Scene(scene.shape, "black", "white", scene.size, scene.position, jitter=scene.jitter)
    inside = ImageChops.invert(world.draw(outline).convert("L"))
    inside = inside.point([min(255, round(max(0, value - 9) * 255 / 208)) for value in range(256)])
    edge = inside.filter(ImageFilter.MaxFilter(2 * _EDGE + 1)).filter(ImageFilter.GaussianBlur(0.7))
    ground = world.COLOURS[scene.background]
    picture = Image.new("RGB", (world.SIDE, world.SIDE), ground)
    picture.paste(world.shade(ground), (_SHADOW, _SHADOW), edge)
    picture.paste(world.COLOURS["white"], (0, 0), edge)
    picture.paste(world.COLOURS[scene.colour], (0, 0), inside)
    return picture


def _shuffled(
    names: tuple[str, ...] | list[str] | dict[str, world.Colour], count: int, rng: random.Random
) -> list[str]:
    """``count`` names, each as often as the others, give or take one."""
    chosen = list(islice(cycle(names), count))
    rng.shuffle(chosen)
    return chosen


# ---------------------------------------------------------------------------------------------------- folders

SETS: dict[str, Callable[[], list[Example]]] = {FIGURE: figures, REGULARISATION: regularisation, STYLE: stickers}


def write(folder: Path) -> None:
    """Write every set into its own folder below ``folder``; files of the same names are replaced."""
    for name, make in SETS.items():
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for number, example in enumerate(make(), start=1):
            example.picture.save(target / f"{number:02}.png", optimize=True)
            (target / f"{number:02}.txt").write_text(example.caption + "\n", encoding="utf-8", newline="\n")


def example_folder(name: str = FIGURE) -> Path:
    """One of the folders in ``examples/`` of the checkout that this package lies in."""
    return Path(__file__).resolve().parents[3] / "examples" / name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the example pictures and their captions.")
    parser.add_argument("folder", type=Path, help="where the three folders are made")
    write(parser.parse_args().folder)
