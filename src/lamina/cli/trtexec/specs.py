"""Values of options that have a grammar of their own."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from lamina.errors import ConfigError
from lamina.tensorrt.engine.formats import FORMATS

T = TypeVar("T")
Shape = tuple[int, ...]

TYPES = {
    "fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8", "int32": "INT32",
    "int64": "INT64", "uint8": "UINT8", "bool": "BOOL", "fp8": "FP8",
}  # fmt: skip
"""Element types as options write them."""


def split(text: str) -> list[str]:
    """Split at commas that are not in single quotes."""
    parts, quoted = [""], False
    for c in text:
        if c == "'":
            quoted = not quoted
        if c == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += c
    return [p for p in parts if p]


def pairs(text: str) -> dict[str, str]:
    """Read ``name:value,...``; names may be in single quotes and hold colons themselves."""
    found = {}
    for part in split(text):
        name, _, value = part.rpartition(":") if ":" in part else (part, "", "")
        found[name.strip().replace("'", "")] = value.strip()
    return found


def shapes(text: str) -> dict[str, Shape]:
    """Read ``x:1x3x8x8,...``; ``scalar`` or nothing is a shape without dimensions."""
    found = {}
    for name, value in pairs(text).items():
        sizes = [] if value in ("", "scalar") else value.split("x")
        if not all(s.isdigit() for s in sizes):
            raise ConfigError(
                f"{name}:{value} is not a shape", hint="write sizes between x: x:1x3x224x224"
            )
        found[name] = tuple(map(int, sizes))
    return found


def matching(found: Mapping[str, T], name: str) -> T | None:
    """Return the entry for a name; keys may hold one ``*``."""
    if name in found:
        return found[name]
    for pattern, value in found.items():
        if fnmatch.fnmatchcase(name, pattern):
            return value
    return None


def require_inputs(option: str, given: Iterable[str], inputs: Sequence[str]) -> None:
    """Raise ConfigError for a name given with an option that no input has."""
    for name in given:
        if all(matching({name: True}, known) is None for known in inputs):
            raise ConfigError(
                f"--{option}: there is no input {name!r}", hint=f"inputs are {', '.join(inputs)}"
            )


def io_types(text: str, count: int) -> list[tuple[str, tuple[str, ...]] | None]:
    """Read ``fp16:chw,fp32:hwc+chw4`` for ``count`` tensors: types with the formats they may have.

    One entry stands for all of them.
    """
    listed: list[tuple[str, tuple[str, ...]] | None] = []
    for part in split(text):
        kind, _, forms = part.partition(":")
        if kind not in TYPES:
            raise ConfigError(f"{kind!r} is not a type", hint=f"types are {', '.join(TYPES)}")
        formats = tuple(_format(form) for form in (forms or "chw").split("+"))
        listed.append((TYPES[kind], formats))
    if len(listed) == 1:
        listed *= count
    if listed and len(listed) != count:
        raise ConfigError(f"{len(listed)} types are given for {count} tensors")
    return listed or [None] * count


def _format(text: str) -> str:
    """Return the name that a format has in TensorFormat: ``chw`` is LINEAR."""
    name = "LINEAR" if text == "chw" else text.upper()
    if name not in FORMATS:
        known = ["chw", *(n.lower() for n in FORMATS if n != "LINEAR")]
        raise ConfigError(f"{text!r} is not a format", hint=f"formats are {', '.join(known)}")
    return name


def percentiles(text: str) -> list[float]:
    """Read percentages separated by commas."""
    try:
        found = [float(p) for p in split(text)]
    except ValueError as e:
        raise ConfigError(f"--percentile={text} is not a list of numbers") from e
    if any(not 0 <= p <= 100 for p in found):
        raise ConfigError(f"--percentile={text}: percentages lie between 0 and 100")
    return found


def text_of(shape: Iterable[int]) -> str:
    """Print a shape as the options write it."""
    return "x".join(map(str, shape)) or "scalar"
