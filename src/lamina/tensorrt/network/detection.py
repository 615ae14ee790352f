"""Non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence

from lamina import ops
from lamina.ir.dims import dim_min
from lamina.ir.graph import Value
from lamina.ir.types import DType
from lamina.ops.kinds import BinaryKind
from lamina.tensorrt.check import checked
from lamina.tensorrt.enums import BoundingBoxFormat, DataType
from lamina.tensorrt.foundation.dtype import to_ir
from lamina.tensorrt.lowering.emitter import LayerEmitter
from lamina.tensorrt.network.additions import Additions
from lamina.tensorrt.network.layer import ILayer
from lamina.tensorrt.network.setting import OptionalSetting, Setting, set_quietly
from lamina.tensorrt.network.tensor import ITensor


class INMSLayer(ILayer):
    """Boxes that overlap no better one: rows (batch, class, box), and their number.

    Boxes are [N, boxes, 4] or [N, boxes, classes, 4], scores [N, boxes, classes].  Input 2 limits
    the boxes of a class, inputs 3 and 4 are the thresholds of overlap and score (0 by default).
    """

    _kind = "NMS"
    _results = 2
    bounding_box_format = Setting(BoundingBoxFormat, "CORNER_PAIRS", "How boxes are given.")
    topk_box_limit = OptionalSetting(int, None, "Most boxes of a class that are looked at.")
    indices_type = Setting(DataType, "INT32", "Type of the results.")
    _indices_type = indices_type

    def _lower(self, e: LayerEmitter, *inputs: Value | None) -> Sequence[Value]:
        boxes, scores, most, overlap, least = (*inputs, None, None)[:5]
        assert boxes is not None and scores is not None and most is not None
        scores = e.transpose(scores, (0, 2, 1))
        classes = scores.tensor.shape[1]
        apart = False
        if boxes.tensor.rank == 4:
            shape = boxes.tensor.shape
            apart = shape[2] != 1
            if apart:  # boxes of its own for each class: classes become items of the batch
                flat = e.transpose(boxes, (0, 2, 1, 3))
                boxes = e.reshape(flat, (shape[0] * shape[2], shape[1], 4))
                scores = e.reshape(scores, (shape[0] * shape[2], 1, shape[1]))
            else:
                boxes = e.reshape(boxes, (shape[0], shape[1], 4))
        scores = self._best(e, scores)
        low = e.constant(0.0, DType.F32) if least is None else e.cast(least, DType.F32)
        high = e.constant(0.0, DType.F32) if overlap is None else e.cast(overlap, DType.F32)
        op = ops.Nms(
            count=e.count("selected"),
            center_point_box=self.bounding_box_format.name == "CENTER_SIZES",
        )
        found = e.emit(op, boxes, scores, e.cast(most, DType.I64), high, low)
        if apart:
            found = _with_class(e, found, classes)
        dtype = to_ir(self._indices_type)
        number = e.reshape(e.shape_of(found, 0, 1), ())
        return e.cast(found, dtype), e.cast(number, dtype)

    def _best(self, e: LayerEmitter, scores: Value) -> Value:
        """Give all but the best boxes of a class the lowest score."""
        if self.topk_box_limit is None:
            return scores
        count = scores.tensor.shape[2]
        k = dim_min(count, self.topk_box_limit)
        if k == count:
            return scores
        best, _ = e.emit_all(ops.TopK(k=k, axis=2), scores)
        worst = e.slice(best, 2, k - 1, 1)
        below = e.binary(BinaryKind.LESS, scores, worst)
        return e.emit(ops.Select(), below, e.like(-3.3e38, scores), scores)


def _with_class(e: LayerEmitter, found: Value, classes: object) -> Value:
    """Split the batch of (batch * classes + class, 0, box) again."""
    joined, box = e.slice(found, 1, 0, 1), e.slice(found, 1, 2, 1)
    count = e.constant(classes, DType.I64)
    batch = e.binary(BinaryKind.DIV, joined, count)
    label = e.binary(BinaryKind.MOD, joined, count)
    return e.emit(ops.Concat(axis=1), batch, label, box)


class DetectionAdditions(Additions):
    """``add_*`` of the layers of this module."""

    @checked
    def add_nms(
        self,
        boxes: ITensor,
        scores: ITensor,
        max_output_boxes_per_class: ITensor,
        indices_type: DataType | None = None,
    ) -> INMSLayer:
        """Add a non-maximum suppression."""
        layer = self._add(INMSLayer(self._state, [boxes, scores, max_output_boxes_per_class]))
        if indices_type is not None:
            set_quietly(layer, indices_type=indices_type)
        return layer


__all__ = ["INMSLayer"]
