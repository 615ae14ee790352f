"""Suppression of overlapping boxes, which several standard plugins share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lamina.ir.dims import Dim
from lamina.ir.types import DType
from lamina.tensorrt.plugin_api.standard.tensors import Tensor, joined

_NOTHING = -3.0e38
"""Score of a place that no box takes."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What boxes are kept: ``keep`` of an item, after at most ``candidates`` of each class.

    With ``background`` that class is left out.  ``extent`` is added to the last corner of boxes
    while overlaps are computed: 1 for boxes of whole pixels.
    """

    candidates: int
    keep: int
    iou: float
    threshold: float
    background: int = -1
    extent: float = 0.0


@dataclass(frozen=True)
class Kept:
    """The boxes of each item in the order of their scores; those that are not ``valid`` are 0."""

    valid: Tensor
    boxes: Tensor
    scores: Tensor
    classes: Tensor
    numbers: Tensor
    """Of the boxes among the candidates of their class."""

    def count(self) -> Tensor:
        """Return how many boxes an item has, i32 [b, 1]."""
        ones = self.valid.cast(DType.I32)
        return ones.onnx("ReduceSum", np.array([1]), keepdims=1)


def suppress(boxes: Tensor, scores: Tensor, rule: Rule) -> Kept:
    """Keep boxes given by corners: [b, n, 4], or [b, n, c, 4] for each class; scores [b, n, c].

    Every chosen box puts its score into a table [b, c * n + keep]; the ``keep`` best of each item
    follow from that without a loop.
    """
    dtype = boxes.dtype
    by_class = _without(scores.cast(DType.F32).transpose(0, 2, 1), rule.background)
    wide = boxes.cast(DType.F32)
    own = wide.transpose(0, 2, 1, 3) if len(wide.shape) == 4 else None
    own, by_class = _candidates(wide, own, by_class, rule.candidates)
    batch, classes, count = by_class.shape
    table = _table(wide, own, by_class, rule)
    table = joined([table, table.filled(_NOTHING, batch, rule.keep)], 1)
    best, places = table.several("TopK", 2, np.array([rule.keep]), axis=1)
    valid = best > _NOTHING
    real = valid.where(places, 0)
    per_class = _size(by_class, 2)
    numbers = real.onnx("Mod", per_class)
    source, rows = wide, numbers
    if own is not None:
        source, rows = own.reshape(batch, classes * count, 4), real
    found = source.onnx("GatherND", rows.reshape(batch, rule.keep, 1), batch_dims=1)
    kept = valid.reshape(batch, rule.keep, 1).where(found, 0.0)
    chosen = valid.where(best, 0.0).cast(scores.dtype)
    return Kept(valid, kept.cast(dtype), chosen, real / per_class, numbers)


def _without(by_class: Tensor, background: int) -> Tensor:
    classes = by_class.shape[1]
    if not isinstance(classes, int) or not 0 <= background < classes:
        return by_class
    penalty = np.where(np.arange(classes) == background, _NOTHING, 0).astype(np.float32)
    return by_class + by_class.constant(penalty.reshape(1, classes, 1))


def _candidates(
    boxes: Tensor, own: Tensor | None, by_class: Tensor, most: int
) -> tuple[Tensor | None, Tensor]:
    """Leave the ``most`` best boxes of each class; each class then has boxes of its own."""
    batch, classes, count = by_class.shape
    if not isinstance(count, int) or most >= count:
        return own, by_class
    best, places = by_class.several("TopK", 2, np.array([most]), axis=2)
    if own is not None:
        return own.onnx("GatherND", places.reshape(*places.shape, 1), batch_dims=2), best
    flat: Dim = classes * most
    found = boxes.onnx("GatherND", places.reshape(batch, flat, 1), batch_dims=1)
    return found.reshape(batch, classes, most, 4), best


def _table(boxes: Tensor, own: Tensor | None, by_class: Tensor, rule: Rule) -> Tensor:
    """Return the scores of the chosen boxes [b, c * n], nothing at all other places."""
    batch, classes, count = by_class.shape
    looked_at, scores = boxes, by_class
    if own is not None:  # classes have boxes of their own: each is an item
        looked_at = own.reshape(batch * classes, count, 4)
        scores = by_class.reshape(batch * classes, 1, count)
    if rule.extent:
        looked_at = looked_at + looked_at.constant([0, 0, rule.extent, rule.extent])
    every = _size(scores, 2).reshape(1)
    iou, threshold = (scores.constant([x]) for x in (rule.iou, rule.threshold))
    chosen = looked_at.onnx("NonMaxSuppression", scores, every, iou, threshold)
    empty = scores.filled(_NOTHING, *scores.shape)
    filled = empty.onnx("ScatterND", chosen, scores.onnx("GatherND", chosen))
    return filled.reshape(batch, classes * count)


def _size(x: Tensor, axis: int) -> Tensor:
    """Return one size as an i64 scalar tensor."""
    return Tensor(x.e, x.e.shape_of(x.value, axis, axis + 1)).reshape()


def positions(x: Tensor, count: Dim) -> Tensor:
    """Return 0, 1, ... as i64 numbers, as many as a size that may be a symbol."""
    ones = Tensor(x.e, x.e.fill(1, DType.I64, (count,)))
    return ones.onnx("CumSum", np.array(0), exclusive=1)
