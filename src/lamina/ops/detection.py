"""Operators of object detection."""

from __future__ import annotations

import numpy as np

from lamina.errors import TypeMismatch
from lamina.ir.dims import Dim
from lamina.ir.graph import Array, Op, operator
from lamina.ir.types import DType, TensorType
from lamina.ops.accumulate import widen
from lamina.ops.check import floating, has_dtype, rank_is, same_dtype, same_size


@operator
class Nms(Op):
    """Keep the best-scored boxes and drop those that overlap a kept one: i64 [count, 3].

    ``boxes`` [B, N, 4] are two opposite corners (y, x, y, x), or center and size (x, y, w, h) with
    ``center_point_box``; ``scores`` are [B, classes, N].  A row of the result is (batch, class,
    box).  The limits are scalars or vectors of one element; ``count`` is a symbol of its own.
    """

    count: Dim
    center_point_box: bool = False

    def infer(
        self,
        boxes: TensorType,
        scores: TensorType,
        max_output_boxes_per_class: TensorType,
        iou_threshold: TensorType,
        score_threshold: TensorType,
    ) -> TensorType:
        floating("boxes", boxes)
        same_dtype("boxes", boxes, "scores", scores)
        rank_is("boxes", boxes, 3)
        rank_is("scores", scores, 3)
        same_size("the batch of boxes", boxes.shape[0], "that of scores", scores.shape[0])
        same_size("the number of boxes", boxes.shape[1], "that of scores", scores.shape[2])
        same_size("the last axis of boxes", boxes.shape[2], "the expected size", 4)
        has_dtype("max_output_boxes_per_class", max_output_boxes_per_class, DType.I32, DType.I64)
        limits = (max_output_boxes_per_class, iou_threshold, score_threshold)
        if any(limit.size != 1 for limit in limits):
            raise TypeMismatch(f"limits must be single elements, got {', '.join(map(str, limits))}")
        return TensorType(DType.I64, (self.count, 3))

    def reference(
        self,
        boxes: Array,
        scores: Array,
        max_output_boxes_per_class: Array,
        iou_threshold: Array,
        score_threshold: Array,
    ) -> Array:
        most = int(max_output_boxes_per_class.item())
        low, high = self._corners(widen(boxes))
        rows: list[tuple[int, int, int]] = []
        for batch, label in np.ndindex(scores.shape[:2]):
            score = scores[batch, label]
            candidates = np.argsort(-widen(score), kind="stable")
            candidates = candidates[score[candidates] > score_threshold.item()]
            kept = 0
            while len(candidates) and kept < most:
                best, rest = candidates[0], candidates[1:]
                rows.append((batch, label, int(best)))
                kept += 1
                overlap = _iou(low[batch], high[batch], best, rest)
                candidates = rest[~(overlap > iou_threshold.item())]
        return np.array(rows, np.int64).reshape(-1, 3)

    def _corners(self, boxes: Array) -> tuple[Array, Array]:
        """Return the low and high corners of boxes, each [B, N, 2]."""
        first, second = boxes[..., :2], boxes[..., 2:]
        if self.center_point_box:
            return first - second / 2, first + second / 2
        return np.minimum(first, second), np.maximum(first, second)


def _iou(low: Array, high: Array, box: int, others: Array) -> Array:
    """Return intersection over union of one box with others (0 where an area is empty)."""
    sides = np.minimum(high[box], high[others]) - np.maximum(low[box], low[others])
    shared = sides.clip(0, None).prod(axis=-1)
    area, areas = (high[box] - low[box]).prod(), (high[others] - low[others]).prod(axis=-1)
    union = area + areas - shared
    valid = (shared > 0) & (area > 0) & (areas > 0) & (union > 0)
    return np.where(valid, shared / np.where(valid, union, 1), 0)
