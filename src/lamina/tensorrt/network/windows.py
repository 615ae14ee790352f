"""Padding of convolutions and pooling windows, as PaddingMode decides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina import ops
from lamina.errors import GraphError
from lamina.ir.dims import Dim, ceildiv, dim_max, is_static
from lamina.ir.graph import Value
from lamina.ops.kinds import PadMode
from lamina.tensorrt.lowering.emitter import LayerEmitter


@dataclass(frozen=True)
class Window:
    """A window that slides over the spatial axes; one entry per axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pre: tuple[int, ...]
    post: tuple[int, ...]
    mode: str

    def spans(self) -> list[int]:
        """Return how many elements a window covers."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]


def pads(window: Window, sizes: Sequence[Dim]) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Return the padding before and after each spatial axis for a window that joins elements."""
    begin: list[Dim] = []
    end: list[Dim] = []
    rows = zip(sizes, window.spans(), window.strides, window.pre, window.post, strict=True)
    for size, span, stride, pre, post in rows:
        before, after = _one_axis(window.mode, size, span, stride, pre, post)
        begin.append(before)
        end.append(after)
    return tuple(begin), tuple(end)


def _one_axis(mode: str, size: Dim, span: int, stride: int, pre: int, post: int) -> tuple[Dim, Dim]:
    if mode == "EXPLICIT_ROUND_DOWN":
        return pre, post
    if mode.startswith("SAME"):
        total = dim_max(0, (ceildiv(size, stride) - 1) * stride + span - size)
        less = total // 2
        return (less, total - less) if mode == "SAME_UPPER" else (total - less, less)
    if mode == "CAFFE_ROUND_DOWN":
        return pre, pre
    if mode == "CAFFE_ROUND_UP":
        post = pre
    count = ceildiv(size + (pre + post - span), stride) + 1
    needed = (count - 1) * stride + span - size - pre
    if mode == "CAFFE_ROUND_UP" and is_static(count) and is_static(size):
        if (int(count) - 1) * stride >= int(size) + pre:  # type: ignore[arg-type]
            needed = (count - 2) * stride + span - size - pre
    return pre, dim_max(needed, post) if not is_static(needed) else max(int(needed), post)  # type: ignore[arg-type]


def padded(
    e: LayerEmitter, x: Value, window: Window, fill: float
) -> tuple[Value, tuple[int, ...], tuple[int, ...]]:
    """Return the operand and its padding; padding that is not static is applied to the operand."""
    begin, end = pads(window, x.tensor.shape[2:])
    rank = len(window.kernel)
    if not all(is_static(p) for p in (*begin, *end)):
        op = ops.Pad(mode=PadMode.CONSTANT, pads_begin=(0, 0, *begin), pads_end=(0, 0, *end))
        return e.emit(op, x, e.like(fill, x)), (0,) * rank, (0,) * rank
    return x, tuple(map(_number, begin)), tuple(map(_number, end))


def _number(d: Dim) -> int:
    assert isinstance(d, int)
    return d


def image(e: LayerEmitter, x: Value, rank: int) -> Value:
    """Return the operand as [N, C, *spatial]; raises GraphError for another number of axes.

    With an implicit batch TensorRT allows further axes in front, which join the batch.
    """
    if x.tensor.rank != rank + 2:
        raise GraphError(
            f"the window has {rank} axes, so the operand must have {rank + 2} dimensions "
            f"(batch and channels first), got {x.tensor}"
        )
    return x
