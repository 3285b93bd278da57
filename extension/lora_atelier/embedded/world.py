"""The world that the embedded base model knows: one textured shape on a plain background, drawn with its caption.

Everything is a function of a ``random.Random``, so a seed names a picture. Needs Pillow and no torch.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

SIDE = 128
# Drawn four times as large and scaled down, which smooths the edges.
_OVERSAMPLING = 4

Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (220, 40, 40),
    "orange": (245, 140, 25),
    "yellow": (250, 222, 50),
    "green": (45, 155, 65),
    "cyan": (70, 205, 225),
    "blue": (45, 75, 205),
    "purple": (130, 55, 165),
    "pink": (245, 150, 195),
    "white": (246, 246, 246),
    "black": (28, 28, 30),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "heart", "star", "bar")
SIZES = {"small": 52, "medium": 68, "large": 88}  # pixels across; at 44 the VAE itself spoilt one shape in ten
POSITIONS = {"centre": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
TEXTURES = ("plain", "striped", "dotted")
# How far from the middle a shape of each size is put, in pixels, so that it stays in the picture.
_REACH = {"small": 30, "medium": 25, "large": 19}
_BAR_REACH = {"small": 26, "medium": 20, "large": 14}
_PLACES = {
    "centre": ("in the centre", "in the middle"),
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
}


@dataclass(frozen=True)
class Jitter:
    """What a caption does not say: offset in pixels, a factor of the size, a turn in radians."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    turn: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One picture of the world."""

    shape: str
    colour: str
    background: str
    size: str = "medium"
    position: str = "centre"
    texture: str = "plain"
    jitter: Jitter = Jitter()

    @property
    def prompt(self) -> str:
        """The scene in words, all but "plain", in the form the benchmark asks for.

        It says the centre too: captions that leave out the place show any.
        """
        noun = " ".join(word for word in (self.size, self.colour, self.texture, self.shape) if word != "plain")
        return f"{_article(noun)} {noun} {_PLACES[self.position][0]}, {self.background} background"


def random_scene(rng: random.Random, *, easy: bool = False) -> Scene:
    """A scene drawn by ``rng``; an easy one is plain, central and not small."""
    colour = rng.choice(list(COLOURS))
    return Scene(
        shape=rng.choice(SHAPES),
        colour=colour,
        background=rng.choice([name for name in COLOURS if name != colour]),
        size=rng.choice(["medium", "large"] if easy else list(SIZES)),
        position="centre" if easy else rng.choice(list(POSITIONS)),
        texture="plain" if easy else rng.choice(["plain", "plain", "striped", "dotted"]),
        jitter=Jitter(
            rng.uniform(-2.5, 2.5), rng.uniform(-2.5, 2.5), rng.uniform(0.95, 1.05), rng.uniform(-0.06, 0.06)
        ),
    )


def is_held_out(scene: Scene) -> bool:
    """Whether this shape, colour and background are among the tenth that the base model never saw together."""
    return zlib.crc32(f"{scene.shape}|{scene.colour}|{scene.background}".encode()) % 10 == 0


def held_out_scenes(count: int, seed: int) -> tuple[Scene, ...]:
    """``count`` different scenes of combinations that the base model never saw."""
    rng = random.Random(seed)
    found: dict[str, Scene] = {}
    while len(found) < count:
        scene = random_scene(rng)
        if is_held_out(scene):
            found.setdefault(scene.prompt, scene)
    return tuple(found.values())


def demo_scenes() -> tuple[Scene, ...]:
    """The 40 fixed prompts of the headless demo: none of them was seen in training."""
    return held_out_scenes(40, seed=40)


def benchmark_scenes() -> tuple[Scene, ...]:
    """The 200 fixed prompts of the base model's benchmark: none of them was seen in training."""
    return held_out_scenes(200, seed=200)


EXAMPLE_PROMPTS = (
    "a large red heart, white background",
    "a medium yellow star at the top, blue background",
    "a small pink circle on the left, black background",
    "a large striped green ring on a yellow background",
    "a dotted purple square on the right, orange background",
)


# ---------------------------------------------------------------------------------------------- drawing


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of 128 × 128 pixels."""
    side = SIDE * _OVERSAMPLING
    picture = Image.new("RGB", (side, side), COLOURS[scene.background])
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    cx, cy, across = placement(scene)
    for points, value in _outline(scene.shape):
        pen.polygon(_placed(points, cx, cy, across, scene.jitter.turn), fill=value)
    picture.paste(_filled(scene, cx, cy), (0, 0), mask)
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def placement(scene: Scene) -> tuple[float, float, float]:
    """Centre x, centre y and the size across of the scene's shape, in pixels of the picture."""
    right, down = POSITIONS[scene.position]
    reach = (_BAR_REACH if scene.shape == "bar" and right else _REACH)[scene.size]
    jitter = scene.jitter
    across = SIZES[scene.size] * jitter.scale
    return SIDE / 2 + right * reach + jitter.dx, SIDE / 2 + down * reach + jitter.dy, across


def shade(colour: Colour) -> Colour:
    """The tone of a texture on this colour: darker, on the darkest colours lighter."""
    red, green, blue = colour
    if 0.3 * red + 0.59 * green + 0.11 * blue < 60:
        return (_lighter(red), _lighter(green), _lighter(blue))
    return (round(red * 0.58), round(green * 0.58), round(blue * 0.58))


def _lighter(value: int) -> int:
    return round(value + (255 - value) * 0.45)


Points = list[tuple[float, float]]


def _placed(points: Points, cx: float, cy: float, across: float, turn: float) -> Points:
    cos, sin = math.cos(turn), math.sin(turn)
    return [
        ((cx + across * (x * cos - y * sin)) * _OVERSAMPLING, (cy + across * (x * sin + y * cos)) * _OVERSAMPLING)
        for x, y in points
    ]


def _filled(scene: Scene, cx: float, cy: float) -> Image.Image:
    """A whole picture of the shape's colour and texture; the texture is fixed to the shape's middle."""
    side = SIDE * _OVERSAMPLING
    colour = COLOURS[scene.colour]
    fill = Image.new("RGB", (side, side), colour)
    pen = ImageDraw.Draw(fill)
    if scene.texture == "striped":
        step, width = 20 * _OVERSAMPLING, 8 * _OVERSAMPLING
        start = round(cy * _OVERSAMPLING) % step - width // 2
        for y in range(start - step, side + step, step):
            pen.rectangle((0, y, side, y + width - 1), fill=shade(colour))
    elif scene.texture == "dotted":
        step, radius = 18 * _OVERSAMPLING, 5 * _OVERSAMPLING
        middle_x, middle_y = round(cx * _OVERSAMPLING), round(cy * _OVERSAMPLING)
        for row in range(-8, 9):
            for column in range(-8, 9):
                x = middle_x + column * step + (step // 2 if row % 2 else 0)
                y = middle_y + round(row * step * 0.85)
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shade(colour))
    return fill


def _outline(shape: str) -> list[tuple[Points, int]]:
    """The shape's polygons in a box of side 1 around 0: 255 adds, 0 cuts a hole."""
    if shape == "circle":
        return [(_circle(0.5), 255)]
    if shape == "ring":
        return [(_circle(0.52), 255), (_circle(0.25), 0)]
    if shape == "square":
        return [(_box(0.44, 0.44), 255)]
    if shape == "bar":
        return [(_box(0.6, 0.2), 255)]
    if shape == "cross":
        return [(_box(0.17, 0.5), 255), (_box(0.5, 0.17), 255)]
    if shape == "triangle":
        return [([(0, -0.5), (0.54, 0.44), (-0.54, 0.44)], 255)]
    if shape == "star":
        return [(_star(0.58, 0.25), 255)]
    if shape == "heart":
        return [(_heart(), 255)]
    raise KeyError(shape)


def _circle(radius: float) -> Points:
    return [(radius * math.cos(i * math.tau / 64), radius * math.sin(i * math.tau / 64)) for i in range(64)]


def _box(half_width: float, half_height: float) -> Points:
    x, y = half_width, half_height
    return [(-x, -y), (x, -y), (x, y), (-x, y)]


def _star(outer: float, inner: float) -> Points:
    points = []
    for i in range(10):
        radius = outer if i % 2 == 0 else inner
        angle = i * math.tau / 10 - math.tau / 4
        points.append((radius * math.cos(angle), radius * math.sin(angle) + 0.04))
    return points


def _heart() -> Points:
    # The usual parametric heart, 33 units wide, moved so that its box is around 0.
    points = []
    for i in range(96):
        t = i * math.tau / 96
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 33, -y / 33 - 0.04))
    return points


# --------------------------------------------------------------------------------------------- captions


def caption(scene: Scene, rng: random.Random) -> str:
    """One of several ways to say the scene. What is left out varies, so that a prompt may leave out anything."""
    says_texture = rng.random() < (0.85 if scene.texture != "plain" else 0.3)
    says_place = rng.random() < (0.8 if scene.position != "centre" else 0.45)
    texture = scene.texture if says_texture else ""
    size = scene.size if rng.random() < 0.6 else ""
    place = rng.choice(_PLACES[scene.position]) if says_place else ""
    colour = scene.colour if rng.random() < 0.95 else ""
    background = scene.background if rng.random() < 0.94 else ""
    shape = scene.shape if rng.random() < 0.96 else "shape"
    words = (size, colour, texture) if rng.random() < 0.6 else (size, texture, colour)
    noun = " ".join(word for word in (*words, shape) if word)
    text = ", ".join(part for part in _phrases(rng.random(), noun, place, background) if part)
    return _with_noise(text, rng) if rng.random() < 0.13 else text


def _phrases(form: float, noun: str, place: str, background: str) -> tuple[str, ...]:
    thing = f"{_article(noun)} {noun}"
    there = f" {place}" if place else ""
    if form < 0.35:
        return thing + there, f"{background} background" if background else ""
    if form < 0.7:
        return thing + (f" on a {background} background" if background else ""), place
    if form < 0.85:
        return noun, f"{background} background" if background else "", place
    return (f"a picture of {thing}{there}" + (f" on {background}" if background else ""),)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _with_noise(text: str, rng: random.Random) -> str:
    """The caption with one or two words that mean nothing: the base model learns to pass over what it does not know.

    Without them an unknown trigger word would change the picture before any LoRA is trained.
    """
    words = text.split(" ")
    for _ in range(2 if rng.random() < 0.4 else 1):
        words.insert(rng.randint(0, len(words)), _unknown_word(rng))
    return " ".join(words)


def _unknown_word(rng: random.Random) -> str:
    kind = rng.random()
    consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiouy"
    if kind < 0.3:
        syllables = "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.randint(1, 3)))
        return syllables + rng.choice(["", "n", "s", "x"])
    if kind < 0.5:
        return "".join(rng.choice(consonants + vowels + "0123456789") for _ in range(rng.randint(3, 6)))
    if kind < 0.7:
        return rng.choice("xqz sks figure person character style drawing photo toy cat dog tree house".split())
    if kind < 0.85:
        return "".join(chr(rng.randint(0x3041, 0x3093)) for _ in range(rng.randint(2, 4)))  # hiragana
    return "".join(chr(rng.randint(0x4E00, 0x8000)) for _ in range(rng.randint(1, 3)))  # kanji


def captions(count: int, seed: int) -> Iterator[str]:
    """Captions of ``count`` random scenes."""
    rng = random.Random(seed)
    for _ in range(count):
        yield caption(random_scene(rng), rng)
