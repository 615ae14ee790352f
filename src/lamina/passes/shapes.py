"""The numbers and ranges of symbolic sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lamina.config import ShapeRange
from lamina.errors import ConfigError
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, Expr, evaluate, is_static
from lamina.ir.graph import Graph
from lamina.ir.types import TensorType
from lamina.passes.specialize import specialize

Ranges = tuple[tuple[str, int, int, int], ...]
"""Symbol, smallest, likeliest and largest value."""

LARGEST: Final = (1 << 31) - 1
"""Of a size that no shape bounds."""
_BATCH, _LENGTH, _IMAGE, _VOLUME = 1, 128, 224, 64
_DOUBLINGS: Final = 4


def apply_shapes(graph: Graph, shapes: Mapping[str, ShapeRange]) -> tuple[Graph, Ranges]:
    """Give symbols their numbers or ranges; return the graph, and a row for each symbol left.

    A symbol without a shape may be 1 to 2**31 - 1; :func:`likely_sizes` says what it is tuned for.
    Raises ConfigError for shapes that do not fit the inputs or each other, and for likeliest sizes
    with which some tensor would have less than no elements.
    """
    low: dict[str, int] = {}
    opt: dict[str, int] = {}
    high: dict[str, int] = {}
    inputs = {v.name: v for v in graph.inputs}
    if unknown := [n for n in shapes if n not in inputs]:
        known = ", ".join(sorted(inputs))
        raise ConfigError(f"there is no input {unknown[0]!r}", hint=f"the inputs are {known}")
    for name, given in shapes.items():
        type = inputs[name].type
        if not isinstance(type, TensorType) or type.rank != len(given[1]):
            raise ConfigError(f"input {name!r} is {type}, the shape given is {given[1]}")
        for axis, d in enumerate(type.shape):
            for values, shape in zip((low, opt, high), given, strict=True):
                _bind(values, d, shape[axis], name, axis)
    fixed = {s: n for s, n in opt.items() if low[s] == high[s]}
    if fixed:
        graph = specialize(graph, fixed)
    names = sorted(s for s in graph.symbols() if s not in graph.definers)
    likely = likely_sizes(graph, {s: opt[s] for s in names if s in opt})
    return graph, tuple((s, low.get(s, 1), likely[s], high.get(s, LARGEST)) for s in names)


def _bind(values: dict[str, int], d: Dim, size: int, name: str, axis: int) -> None:
    if isinstance(d, Expr):
        text = str(d)
        if values.setdefault(text, size) != size:
            raise ConfigError(
                f"{text} is {values[text]} and {size} in the shapes given",
                hint=f"axis {axis} of {name!r} must agree with the other inputs",
            )
    elif d != size:
        raise ConfigError(
            f"axis {axis} of input {name!r} is {d} in the model, the shape says {size}"
        )


def likely_sizes(graph: Graph, given: Mapping[str, int]) -> dict[str, int]:
    """Return the likeliest value of each symbol of the inputs; those ``given`` are kept.

    A first axis is a batch of 1.  Several free axes of an image are 224 long, of a volume 64, any
    other free axis (a sequence) 128; they are doubled while some tensor would be empty.
    """
    likely: dict[str, int] = {}
    for v in graph.inputs:
        if isinstance(v.type, TensorType):
            for symbol, size in _guesses(v.type.shape):
                likely[symbol] = min(size, likely.get(symbol, size))
    free = [s for s, size in likely.items() if size > 1 and s not in given]
    likely |= {s: _BATCH for s in graph.symbols() - {*likely, *graph.definers}}
    likely |= given
    for _ in range(_DOUBLINGS if free else 0):
        if _smallest(graph, likely)[0] > 0:
            break
        likely |= {s: 2 * likely[s] for s in free}
    size, where = _smallest(graph, likely)
    if size < 0:
        sizes = ", ".join(f"{s}={n}" for s, n in sorted(likely.items()))
        raise ConfigError(
            f"with the likeliest sizes {sizes} an axis would have {size} elements, at {where}",
            hint="give larger sizes with shapes=",
        )
    return likely


def _guesses(shape: tuple[Dim, ...]) -> list[tuple[str, int]]:
    free = [axis for axis, d in enumerate(shape) if axis and not is_static(d)]
    size = {4: _IMAGE, 5: _VOLUME}.get(len(shape), _LENGTH) if len(free) > 1 else _LENGTH
    found = []
    for axis, d in enumerate(shape):
        found += [(s, size if axis else _BATCH) for s in attribute_symbols(d)]
    return found


def _smallest(graph: Graph, env: Mapping[str, int]) -> tuple[int, str]:
    """Return the smallest axis that follows from sizes of inputs, and where it is."""
    smallest, where = 1, ""
    for node in graph.nodes():
        for v in node.outputs:
            shape = v.type.shape if isinstance(v.type, TensorType) else ()
            for d in shape:
                if is_static(d) or any(s not in env for s in attribute_symbols(d)):
                    continue
                if (size := evaluate(d, env)) < smallest:
                    smallest, where = size, str(node.loc)
    return smallest, where
