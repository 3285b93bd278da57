"""How LyCORIS parts a layer's size into two factors: for LoKr's two sides, and for the blocks of OFT and BOFT."""

from __future__ import annotations


def balanced(size: int, factor: int = -1) -> tuple[int, int]:
    """The two factors of ``size``, the smaller first: ``factor`` and the rest where that divides it.

    Else those that are nearest to each other with the smaller not above ``factor``; -1 sets no limit.
    Source: what LyCORIS' ``functional.general.factorization`` is documented to give.
    """
    if factor > 0 and size % factor == 0:
        small, large = sorted((factor, size // factor))
        return small, large
    limit = size if factor < 0 else factor
    # The nearer a divisor is to the root, the nearer are the two.
    small = max((n for n in range(1, int(size**0.5) + 1) if size % n == 0 and n <= limit), default=1)
    return small, size // small


def butterfly(size: int, factor: int) -> tuple[int, int] | None:
    """Size and number of BOFT's blocks for ``size`` outputs: an even size up to ``factor`` and a power of two of them.

    The largest such size; None if there is none.
    """
    sizes = (n for n in range(2, min(size, size if factor < 0 else factor) + 1, 2) if size % n == 0)
    found = max((n for n in sizes if (size // n).bit_count() == 1), default=0)
    return (found, size // found) if found else None
