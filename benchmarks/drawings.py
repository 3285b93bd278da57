"""Detailed drawings made from seeds, for the guard: landscapes, streets, characters, patterns, posters.

Two drawings of one kind share subject and style, as the pictures of one artist do; ``pose`` of a character keeps
everything but a few details, as the pictures of one character in one pose do.
"""

from __future__ import annotations

import colorsys
import itertools
import math
import random

from PIL import Image, ImageDraw, ImageFilter

SIDE = 512
KINDS = ("landscape", "street", "character", "pattern")
Colour = tuple[int, int, int]


def draw(kind: str, seed: int, side: int = SIDE, *, pose: int | None = None) -> Image.Image:
    """The drawing of a kind and seed, RGB, ``side`` pixels wide and high.

    ``pose`` is the seed of a character's place and shape, which is otherwise its own.
    """
    pen = _Pen(random.Random(f"{kind} {seed}"), 2 * side)
    if kind == "character":
        pen.character(random.Random(f"pose {seed if pose is None else pose}"))
    else:
        getattr(pen, kind)()
    return pen.picture.resize((side, side), Image.Resampling.LANCZOS)


class _Pen:
    """Draws in units of the picture's side."""

    def __init__(self, rng: random.Random, side: int) -> None:
        self.rng, self.side = rng, side
        self.hue = rng.random()
        self.picture = Image.new("RGB", (side, side))
        self.pen = ImageDraw.Draw(self.picture)

    def colour(self, lightness: float, saturation: float = 0.5, spread: float = 0.15) -> Colour:
        hue = self.hue + self.rng.uniform(-spread, spread)
        red, green, blue = colorsys.hls_to_rgb(hue % 1.0, min(0.98, max(0.02, lightness)), saturation)
        return round(red * 255), round(green * 255), round(blue * 255)

    def area(self, points: list[tuple[float, float]], colour: Colour, edge: Colour | None = None) -> None:
        scaled = [(x * self.side, y * self.side) for x, y in points]
        self.pen.polygon(scaled, fill=colour)
        if edge is not None:
            self.pen.line([*scaled, scaled[0]], fill=edge, width=max(1, self.side // 250))

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour, edge: Colour | None = None) -> None:
        s = self.side
        box = ((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s)
        self.pen.ellipse(box, fill=colour, outline=edge, width=max(1, s // 250) if edge else 1)

    def line(self, points: list[tuple[float, float]], colour: Colour, width: float) -> None:
        scaled = [(x * self.side, y * self.side) for x, y in points]
        self.pen.line(scaled, fill=colour, width=max(1, round(width * self.side)))

    def ground(self, top: float, bottom: float) -> None:
        """A sky that fades from one lightness to another, with soft clouds."""
        first, last = self.colour(top), self.colour(bottom)
        for y in range(self.side):
            t = y / self.side
            mixed = tuple(round(a + (b - a) * t) for a, b in zip(first, last, strict=True))
            self.pen.line([(0, y), (self.side, y)], fill=mixed)
        for _ in range(self.rng.randint(3, 9)):
            x, y = self.rng.random(), self.rng.uniform(0, 0.5)
            for _ in range(6):
                dx, dy = self.rng.uniform(-0.08, 0.08), self.rng.uniform(-0.02, 0.02)
                self.disc(x + dx, y + dy, 0.06, 0.03, self.colour(top + self.rng.uniform(0.0, 0.15), 0.3))
        self.picture.paste(self.picture.filter(ImageFilter.GaussianBlur(self.side / 200)))

    def landscape(self) -> None:
        """Hills behind each other, trees, a path, grass."""
        rng = self.rng
        self.ground(rng.uniform(0.55, 0.8), rng.uniform(0.75, 0.95))
        self.disc(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.3), 0.06, 0.06, self.colour(0.9, 0.9))
        self.hue += rng.uniform(0.2, 0.5)
        for layer in range(rng.randint(3, 5)):
            height = 0.4 + 0.13 * layer + rng.uniform(-0.05, 0.05)
            waves = [(rng.uniform(1, 7), rng.uniform(0, 6.3), rng.uniform(0.01, 0.06)) for _ in range(3)]
            line = [(at / 60, height + sum(math.sin(at / 60 * f + p) * a for f, p, a in waves)) for at in range(61)]
            self.area([*line, (1, 1), (0, 1)], self.colour(0.55 - 0.09 * layer, 0.4))
            for _ in range(rng.randint(2, 7)):
                x, y = rng.choice(line)
                self.tree(x, y + 0.02, rng.uniform(0.05, 0.1) * (1 + layer * 0.5), rng.uniform(-0.2, 0.2), 5)
        for _ in range(160):
            x, y, lean = rng.random(), rng.uniform(0.85, 1.0), rng.uniform(-0.02, 0.02)
            self.line([(x, y), (x + lean, y - rng.uniform(0.02, 0.07))], self.colour(rng.uniform(0.2, 0.6)), 0.003)

    def tree(self, x: float, y: float, length: float, lean: float, depth: int) -> None:
        """A trunk that forks; leaves at its ends."""
        end = (x + length * math.sin(lean), y - length * math.cos(lean))
        self.line([(x, y), end], self.colour(0.2, 0.4), 0.002 * depth)
        if depth <= 1:
            size = self.rng.uniform(0.006, 0.018)
            self.disc(*end, size, size, self.colour(self.rng.uniform(0.25, 0.6), 0.6))
            return
        for turn in (-self.rng.uniform(0.2, 0.7), self.rng.uniform(0.2, 0.7)):
            self.tree(*end, length * self.rng.uniform(0.6, 0.8), lean + turn, depth - 1)

    def street(self) -> None:
        """Houses with windows, wires, a street with marks."""
        rng = self.rng
        self.ground(rng.uniform(0.1, 0.8), rng.uniform(0.4, 0.9))
        for row in range(2):
            x = rng.uniform(-0.2, 0.0)
            while x < 1:
                width, top = rng.uniform(0.1, 0.28), rng.uniform(0.12, 0.5) + 0.18 * row
                wall, dark = self.colour(rng.uniform(0.3, 0.7), 0.35), self.colour(0.15)
                self.area([(x, top), (x + width, top), (x + width, 1), (x, 1)], wall, dark)
                if rng.random() < 0.5:
                    self.area([(x, top), (x + width, top), (x + width / 2, top - width * 0.4)], self.colour(0.3), dark)
                across, down = rng.randint(2, 5), rng.randint(3, 8)
                for i in range(across):
                    for j in range(down):
                        wx, wy = x + width * (i + 0.25) / across, top + 0.03 + 0.5 * j / down
                        w, h = width * 0.5 / across, 0.25 / down
                        corners = [(wx, wy), (wx + w, wy), (wx + w, wy + h), (wx, wy + h)]
                        self.area(corners, self.colour(rng.choice((0.2, 0.35, 0.9)), 0.6), dark)
                x += width + rng.uniform(0.0, 0.05)
        self.area([(0, 0.86), (1, 0.84 + rng.uniform(-0.03, 0.03)), (1, 1), (0, 1)], self.colour(0.25, 0.1))
        for at in range(9):
            self.area([(at / 8, 0.93), (at / 8 + 0.06, 0.93), (at / 8 + 0.05, 0.95), (at / 8 - 0.01, 0.95)], (230,) * 3)
        for _ in range(4):
            y, sag = rng.uniform(0.05, 0.3), rng.uniform(0.02, 0.08)
            self.line([(t / 20, y + sag * math.sin(math.pi * t / 20)) for t in range(21)], (20, 20, 25), 0.002)

    def pattern(self) -> None:
        """Overlapping shapes in rows that are nearly regular, and strokes across."""
        rng = self.rng
        self.ground(rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.9))
        for _ in range(rng.randint(50, 90)):
            x, y, size = rng.random(), rng.random(), rng.uniform(0.02, 0.13)
            corners = rng.randint(3, 8)
            turn, wild = rng.uniform(0, 6.3), rng.uniform(0, 0.5)
            shape = [
                (
                    x + size * (1 + wild * (-1) ** at) * math.cos(turn + 6.283 * at / corners),
                    y + size * (1 + wild * (-1) ** at) * math.sin(turn + 6.283 * at / corners),
                )
                for at in range(corners)
            ]
            self.area(shape, self.colour(rng.uniform(0.1, 0.9), rng.random(), 0.5), self.colour(0.1))
        for _ in range(rng.randint(8, 20)):
            points = [(rng.random(), rng.random()) for _ in range(3)]
            self.line(points, self.colour(rng.random(), rng.random(), 0.5), rng.uniform(0.003, 0.015))

    def poster(self) -> None:
        """Few large shapes of strong contrast on bands, so that little is lost where a model sees coarsely."""
        rng = self.rng
        edges = [0.0, *sorted(rng.uniform(0.1, 0.9) for _ in range(3)), 1.0]
        for number, (top, bottom) in enumerate(itertools.pairwise(edges)):
            tone = self.colour(0.25 + 0.5 * (number % 2), 0.7, 0.5)
            self.area([(0, top), (1, top + 0.08), (1, bottom + 0.08), (0, bottom)], tone)
        for number in range(9):
            x, y, size = rng.random(), rng.random(), rng.uniform(0.08, 0.17)
            tone = self.colour(0.12 if number % 2 else 0.88, 0.8, 0.5)
            if rng.random() < 0.5:
                self.disc(x, y, size, size * rng.uniform(0.6, 1.2), tone)
            else:
                turn, corners = rng.uniform(0, 6.3), rng.randint(3, 5)
                turns = [turn + 6.283 * at / corners for at in range(corners)]
                self.area([(x + size * math.cos(at), y + size * math.sin(at)) for at in turns], tone)

    def character(self, pose: random.Random) -> None:
        """A head with hair and eyes on shoulders in patterned clothes, before a plain or simple ground."""
        rng = self.rng
        self.ground(rng.uniform(0.6, 0.95), rng.uniform(0.6, 0.95))
        dark = self.colour(0.12)
        skin, hair, cloth = self.colour(0.8, 0.5), self.colour(rng.uniform(0.15, 0.6)), self.colour(0.5, 0.6, 0.5)
        x, y = 0.5 + pose.uniform(-0.12, 0.12), pose.uniform(0.34, 0.44)
        r, tilt = pose.uniform(0.15, 0.21), pose.uniform(-0.05, 0.05)
        self.disc(x, y - 0.03, r * 1.3, r * 1.35, hair, dark)
        shoulder = pose.uniform(0.24, 0.36)
        self.area(
            [(x - 0.08, y + r), (x + 0.08, y + r), (x + shoulder, 0.82), (x + shoulder + 0.05, 1), (x - shoulder, 1)],
            cloth,
            dark,
        )
        for _ in range(rng.randint(8, 18)):
            cx, cy = x + rng.uniform(-0.2, 0.2), rng.uniform(0.8, 1.0)
            self.disc(cx, cy, 0.02, 0.02, self.colour(rng.uniform(0.2, 0.9)), dark)
        self.disc(x + tilt, y, r, r * 1.12, skin, dark)
        for at in range(9):
            hx = x + tilt - r + 2 * r * at / 8
            tip = (hx + pose.uniform(-0.03, 0.03), y - r * pose.uniform(0.1, 0.55))
            self.area([(hx - 0.04, y - r), (hx + 0.04, y - r), tip], hair, dark)
        for sign in (-1, 1):
            ex, ey = x + tilt + sign * r * 0.42, y + r * 0.15
            self.disc(ex, ey, r * 0.2, r * 0.26, (250, 250, 250), dark)
            self.disc(ex + tilt * 0.3, ey + 0.005, r * 0.12, r * 0.18, self.colour(0.35, 0.9, 0.5))
            self.disc(ex + tilt * 0.3, ey, r * 0.05, r * 0.08, dark)
            self.line([(ex - r * 0.2, ey - r * 0.4), (ex + r * 0.2, ey - r * (0.4 + tilt * 2))], dark, 0.006)
        wide = r * pose.uniform(0.15, 0.35)
        self.line(
            [(x + tilt - wide, y + r * 0.62), (x + tilt, y + r * 0.7), (x + tilt + wide, y + r * 0.62)], dark, 0.006
        )
