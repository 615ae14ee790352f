"""Shapes as written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from lamina.errors import ConfigError

Shape = tuple[int, ...]
Given = Shape | tuple[Shape, Shape, Shape]

HINT: Final = (
    "write NAME:1x3x224x224, or the smallest, likeliest and largest shape: "
    "NAME:1x3x224x224..8x3x224x224..32x3x224x224"
)
_SHAPE: Final = re.compile(r"\d+(x\d+)*")


def parse_shapes(texts: Sequence[str]) -> dict[str, Given]:
    """Read ``NAME:SHAPE`` or ``NAME:MIN..OPT..MAX`` items; one text may hold several, by commas.

    A name may contain colons, as in ``input:0:1x3``.  Raises ConfigError for anything else.
    """
    shapes: dict[str, Given] = {}
    for item in (i for text in texts for i in text.split(",")):
        name, colon, given = item.rpartition(":")
        parts = given.split("..")
        if not (colon and name) or not all(_SHAPE.fullmatch(p) for p in parts):
            raise ConfigError(f"the shape {item!r} cannot be read", hint=HINT)
        if name in shapes:
            raise ConfigError(f"the shape of {name!r} is given twice", hint=HINT)
        if len(parts) == 1:
            shapes[name] = _dims(parts[0])
        elif len(parts) == 3:
            low, likely, high = (_dims(p) for p in parts)
            shapes[name] = (low, likely, high)
        else:
            raise ConfigError(f"{item!r} has {len(parts)} shapes, expected 1 or 3", hint=HINT)
    return shapes


def likeliest(given: Given) -> Shape:
    """Return the shape that kernels are tuned for: the one given, or the middle one of a range."""
    match given:
        case (tuple(), tuple(likely), tuple()):
            return likely
    return tuple(d for d in given if isinstance(d, int))


def _dims(text: str) -> Shape:
    return tuple(int(d) for d in text.split("x"))
