"""Standard plugins that choose among boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.errors import GraphError
from lamina.ir.graph import Value
from lamina.tensorrt.plugin_api.standard.definition import Attributes, Definition, sizes

_NOTHING = -3.0e38
"""Score of a place that no box takes."""


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """What boxes are kept: at most ``candidates`` of a class and ``keep`` of an item."""

    candidates: int
    keep: int
    iou: float
    threshold: float
    centers: bool = False
    background: int = -1
    clip: bool = False
    classes_dtype: int = 6


def _suppress(scores: Value, rule: _Rule) -> str:
    """Return the common part: from ``boxes`` [b, n, 4] and ``scores`` [b, n, c] to four results.

    Every chosen box puts its score into a table [b, c * n + keep]; the ``keep`` best of each item
    follow from that without a loop.  Places that no box takes are zero.
    """
    batch, count, classes = sizes(scores)
    return f"""
        turned = Transpose <perm = [0, 2, 1]> (scores)
        {_without_background(rule.background, classes)}
        most = Constant <value_int = {rule.candidates}> ()
        iou = Constant <value_float = {rule.iou}> ()
        threshold = Constant <value_float = {rule.threshold}> ()
        chosen = NonMaxSuppression <center_point_box = {int(rule.centers)}>
            (boxes, by_class, most, iou, threshold)
        chosen_scores = GatherND (by_class, chosen)
        table_shape = Constant <value_ints = [{batch}, {classes}, {count}]> ()
        nothing = Constant <value_float = {_NOTHING}> ()
        empty = Expand (nothing, table_shape)
        filled = ScatterND (empty, chosen, chosen_scores)
        flat_shape = Constant <value_ints = [{batch}, {classes * count}]> ()
        flat = Reshape (filled, flat_shape)
        rest_shape = Constant <value_ints = [{batch}, {rule.keep}]> ()
        rest = Expand (nothing, rest_shape)
        table = Concat <axis = 1> (flat, rest)
        keep = Constant <value_ints = [{rule.keep}]> ()
        best, places = TopK <axis = 1> (table, keep)
        valid = Greater (best, nothing)
        zero = Constant <value_float = 0.0> ()
        detection_scores = Where (valid, best, zero)
        ones = Cast <to = 6> (valid)
        axis = Constant <value_ints = [1]> ()
        num_detections = ReduceSum <keepdims = 1> (ones, axis)
        n = Constant <value_int = {count}> ()
        none = Constant <value_int = 0> ()
        real_places = Where (valid, places, none)
        kinds = Div (real_places, n)
        detection_classes = Cast <to = {rule.classes_dtype}> (kinds)
        numbers = Mod (real_places, n)
        last_axis = Constant <value_ints = [2]> ()
        indices = Unsqueeze (numbers, last_axis)
        gathered = GatherND <batch_dims = 1> (boxes, indices)
        {_CORNERS if rule.centers else "corners = Identity (gathered)"}
        {_CLIPPED if rule.clip else "clipped = Identity (corners)"}
        kept = Unsqueeze (valid, last_axis)
        detection_boxes = Where (kept, clipped, zero)
    """


def _without_background(background: int, classes: int) -> str:
    if not 0 <= background < classes:
        return "by_class = Identity (turned)"
    row = ", ".join(str(_NOTHING) if c == background else "0.0" for c in range(classes))
    return f"""penalty = Constant <value_floats = [{row}]> ()
        penalty_shape = Constant <value_ints = [1, {classes}, 1]> ()
        penalties = Reshape (penalty, penalty_shape)
        by_class = Add (turned, penalties)"""


_CORNERS = """halves = Constant <value_float = 0.5> ()
        pair = Constant <value_ints = [2, 2]> ()
        middle, extent = Split <axis = 2> (gathered, pair)
        reach = Mul (extent, halves)
        first = Sub (middle, reach)
        last = Add (middle, reach)
        corners = Concat <axis = 2> (first, last)"""
_CLIPPED = """low = Constant <value_float = 0.0> ()
        high = Constant <value_float = 1.0> ()
        clipped = Clip (corners, low, high)"""
_RESULTS = "num_detections, detection_boxes, detection_scores, detection_classes"


def _flat_boxes(boxes: Value) -> str:
    """Return lines that make ``boxes`` [b, n, 4] of [b, n, 4] or [b, n, 1, 4]."""
    shape = sizes(boxes)
    if len(shape) == 4 and shape[2] != 1:
        raise GraphError(
            f"the plugin takes boxes that all classes share, got {boxes.tensor}",
            hint="the third of four sizes must be 1",
        )
    return f"""
        box_shape = Constant <value_ints = [{shape[0]}, {shape[1]}, 4]> ()
        boxes = Reshape (given, box_shape)
    """


def _efficient_nms(a: Attributes, inputs: Sequence[Value]) -> str:
    if len(inputs) != 2:
        raise GraphError(
            f"EfficientNMS_TRT takes boxes and scores, got {len(inputs)} operands",
            hint="decode boxes before the plugin; anchors are not taken",
        )
    if a["class_agnostic"]:
        raise GraphError("EfficientNMS_TRT with class_agnostic is not supported")
    activated = "scores = Sigmoid (raw)" if a["score_activation"] else "scores = Identity (raw)"
    rule = _Rule(
        candidates=int(a["max_output_boxes"]),
        keep=int(a["max_output_boxes"]),
        iou=float(a["iou_threshold"]),
        threshold=float(a["score_threshold"]),
        centers=int(a["box_coding"]) == 1,
        background=int(a["background_class"]),
    )
    return f"""f (given, raw) => ({_RESULTS}) {{
        {_flat_boxes(inputs[0])}
        {activated}
        {_suppress(inputs[1], rule)}
    }}"""


def _batched_nms(a: Attributes, inputs: Sequence[Value]) -> str:
    rule = _Rule(
        candidates=int(a["topK"]),
        keep=int(a["keepTopK"]),
        iou=float(a["iouThreshold"]),
        threshold=float(a["scoreThreshold"]),
        background=int(a["backgroundLabelId"]),
        clip=bool(a["clipBoxes"]),
        classes_dtype=1,
    )
    return f"""f (given, scores) => ({_RESULTS}) {{
        {_flat_boxes(inputs[0])}
        {_suppress(inputs[1], rule)}
    }}"""


_BATCHED = {
    "shareLocation": 1,
    "backgroundLabelId": -1,
    "numClasses": 1,
    "topK": 1000,
    "keepTopK": 100,
    "scoreThreshold": 0.0,
    "iouThreshold": 0.5,
    "isNormalized": 1,
    "clipBoxes": 1,
    "scoreBits": 16,
    "caffeSemantics": 1,
}

DEFINITIONS = (
    Definition(
        "EfficientNMS_TRT",
        {
            "score_threshold": 0.25,
            "iou_threshold": 0.5,
            "max_output_boxes": 100,
            "background_class": -1,
            "score_activation": 0,
            "class_agnostic": 0,
            "box_coding": 0,
        },
        _efficient_nms,
        outputs=4,
    ),
    Definition("BatchedNMS_TRT", _BATCHED, _batched_nms, outputs=4),
    Definition("BatchedNMSDynamic_TRT", _BATCHED, _batched_nms, outputs=4),
)
