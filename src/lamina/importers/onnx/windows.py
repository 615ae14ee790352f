"""Geometry that convolutions and pools share: kernels, strides, and padding by name."""

from __future__ import annotations

from dataclasses import dataclass

from lamina import ops
from lamina.errors import ImportFailed
from lamina.importers.onnx.node import OnnxNode
from lamina.ir.dims import Dim, ceildiv, dim_max
from lamina.ir.graph import Value
from lamina.ops.kinds import PadMode


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes, one entry per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[int, ...]
    pads_end: tuple[int, ...]


def read_window(
    n: OnnxNode, x: Value, kernel: tuple[int, ...], fill: float = 0.0
) -> tuple[Value, Window]:
    """Read the attributes of a sliding window.

    Padding by name that depends on a symbolic size is applied to ``x`` here, with ``fill``.
    """
    rank = len(kernel)
    if x.tensor.rank != rank + 2:
        raise ImportFailed(f"a window over {rank} axes needs {rank + 2} dimensions, got {x.tensor}")
    strides = per_axis(n, "strides", rank)
    dilations = per_axis(n, "dilations", rank)
    mode = n.choice("auto_pad", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if mode == "NOTSET":
        pads = n.integers("pads", (0,) * (2 * rank))
        if len(pads) != 2 * rank:
            raise ImportFailed(f"pads has {len(pads)} entries for {rank} spatial axes")
        return x, Window(kernel, strides, dilations, pads[:rank], pads[rank:])
    begin: tuple[Dim, ...] = (0,) * rank
    end = begin
    if mode != "VALID":
        begin, end = _same_pads(x, kernel, strides, dilations, upper=mode == "SAME_UPPER")
    if not all(isinstance(p, int) for p in (*begin, *end)):
        pad = ops.Pad(mode=PadMode.CONSTANT, pads_begin=(0, 0, *begin), pads_end=(0, 0, *end))
        x, begin, end = n.emit(pad, x, n.like(fill, x)), (0,) * rank, (0,) * rank
    ints = tuple(int(p) for p in begin), tuple(int(p) for p in end)  # type: ignore[arg-type]
    return x, Window(kernel, strides, dilations, *ints)


def per_axis(n: OnnxNode, name: str, rank: int) -> tuple[int, ...]:
    """Return an attribute with one positive entry per spatial axis, 1 where it is absent."""
    values = n.integers(name, (1,) * rank)
    if len(values) != rank or any(v < 1 for v in values):
        raise ImportFailed(f"{name} {list(values)} must be {rank} positive numbers")
    return values


def _same_pads(
    x: Value,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    *,
    upper: bool,
) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Pad so that the result has ``ceil(size / stride)`` elements; the odd one goes to the end."""
    begin, end = [], []
    for size, k, s, d in zip(x.tensor.shape[2:], kernel, strides, dilations, strict=True):
        span = (k - 1) * d + 1
        total = dim_max(0, (ceildiv(size, s) - 1) * s + span - size)
        less = total // 2
        begin.append(less if upper else total - less)
        end.append(total - less if upper else less)
    return tuple(begin), tuple(end)
