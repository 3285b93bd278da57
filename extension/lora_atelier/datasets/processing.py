"""What becomes of a caption on its way into a step: kohya's options, each a function of the draw that is passed in."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..config import SubsetConfig

_ALTERNATIVES = re.compile(r"\{([^}]+)\}")
# Stand for {{ and }} while alternatives are replaced; no caption holds them.
_OPENING, _CLOSING = "\x00", "\x01"


@dataclass(frozen=True, kw_only=True)
class CaptionRules:
    """A subset's caption options by sd-scripts' names; the defaults change nothing."""

    caption_separator: str = ","
    secondary_separator: str = ""
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    shuffle_caption: bool = False
    enable_wildcard: bool = False
    caption_prefix: str = ""
    caption_suffix: str = ""
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0.0

    @classmethod
    def of(cls, subset: SubsetConfig) -> CaptionRules:
        """The rules of one folder."""
        said = {f.name: getattr(subset, f.name, None) for f in fields(cls)}
        return cls(**{name: value for name, value in said.items() if value is not None})

    @property
    def by_lot(self) -> bool:
        """Whether one caption can come out in several forms."""
        return self.shuffle_caption or self.enable_wildcard or self.caption_tag_dropout_rate > 0

    @property
    def varies(self) -> bool:
        """Whether the form depends on the draw or on the step."""
        return self.by_lot or self.token_warmup_step > 0


PLAIN = CaptionRules()


def process(caption: str, rules: CaptionRules, draw: random.Random | None, *, step: int = 0, steps: int = 0) -> str:
    """The caption as a step sees it: ``step`` counts optimizer steps from 0, of ``steps`` in all.

    The order is sd-scripts' (process_caption): prefix and suffix, one of several lines, {a|b}, tags kept, warmed up,
    shuffled and dropped, secondary separator. Without ``draw`` the first line and alternative are taken and no tag is
    moved or missing: what a picture is measured with.

    Two things differ from sd-scripts on purpose. Of several lines the chosen one gets prefix and suffix; there the
    first gets the prefix and the last the suffix. And ``keep_tokens_separator`` is never said to the model; there it
    is unless tags are shuffled or dropped.
    """
    said = _line(caption.split("\n"), draw if rules.enable_wildcard else None)
    said = " ".join(part for part in (rules.caption_prefix, said, rules.caption_suffix) if part)
    if rules.enable_wildcard:
        said = _chosen(said, draw)
    if _is_split(said, rules):
        said = ", ".join(_tags(said, rules, draw, step, steps))
    if rules.secondary_separator:
        said = said.replace(rules.secondary_separator, rules.caption_separator)
    return said


def _line(lines: Sequence[str], draw: random.Random | None) -> str:
    return draw.choice(lines) if draw is not None and len(lines) > 1 else lines[0]


def _chosen(text: str, draw: random.Random | None) -> str:
    """``{a|b}`` replaced by one of its alternatives; ``{{`` and ``}}`` are braces."""

    def one(found: re.Match[str]) -> str:
        alternatives = found.group(1).split("|")
        return draw.choice(alternatives) if draw is not None else alternatives[0]

    hidden = text.replace("{{", _OPENING).replace("}}", _CLOSING)
    return _ALTERNATIVES.sub(one, hidden).replace(_OPENING, "{").replace(_CLOSING, "}")


def _is_split(text: str, rules: CaptionRules) -> bool:
    parted = bool(rules.keep_tokens_separator) and rules.keep_tokens_separator in text
    return parted or rules.shuffle_caption or rules.token_warmup_step > 0 or rules.caption_tag_dropout_rate > 0


def _tags(text: str, rules: CaptionRules, draw: random.Random | None, step: int, steps: int) -> list[str]:
    head, middle, tail = _parted(text, rules)
    if draw is None:
        return [*head, *middle, *tail]
    middle = middle[: _warmed_up(len(middle), rules, step, steps)]
    if rules.shuffle_caption:
        draw.shuffle(middle)
    if rules.caption_tag_dropout_rate > 0:
        middle = [tag for tag in middle if draw.random() >= rules.caption_tag_dropout_rate]
    return [*head, *middle, *tail]


def _parted(text: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay in front, those that may move, and those that stay behind."""
    mark, separator = rules.keep_tokens_separator, rules.caption_separator
    if mark and mark in text:
        parts = text.split(mark, 2)
        head, middle, tail = ([tag.strip() for tag in part.split(separator)] for part in [*parts, ""][:3])
        return _filled(head), _filled(middle), _filled(tail)
    tags = [tag.strip() for tag in text.strip().split(separator)]
    kept = max(0, rules.keep_tokens)
    return tags[:kept], tags[kept:], []


def _filled(tags: Sequence[str]) -> list[str]:
    return [tag for tag in tags if tag]


def _warmed_up(count: int, rules: CaptionRules, step: int, steps: int) -> int:
    """How many of ``count`` tags are shown: from token_warmup_min evenly up to all at token_warmup_step."""
    last = rules.token_warmup_step
    last = math.floor(last * steps) if last < 1 else last
    if not last or step >= last:
        return count
    return max(0, math.floor(step * ((count - rules.token_warmup_min) / last)) + rules.token_warmup_min)
