"""Standard plugins that choose among boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lamina.errors import GraphError
from lamina.ir.types import DType
from lamina.tensorrt.plugin_api.standard.definition import (
    Attributes,
    Definition,
    composed,
    known,
    numbers,
)
from lamina.tensorrt.plugin_api.standard.suppression import Rule, positions, suppress
from lamina.tensorrt.plugin_api.standard.tensors import Tensor, joined

_CORNER, _CENTER_SIZE, _CORNER_SIZE, _TF_CENTER = range(4)


def _corners(boxes: Tensor) -> Tensor:
    """Return the corners of boxes given by middle and size."""
    middle, size = boxes.part(-1, 0, 2), boxes.part(-1, 2, 2)
    return joined([middle - size * 0.5, middle + size * 0.5], len(boxes.shape) - 1)


def _efficient_nms(
    a: Attributes, boxes: Tensor, scores: Tensor, anchors: Tensor | None = None
) -> list[Tensor]:
    centers = int(a["box_coding"]) == 1
    if anchors is not None:
        boxes = _decoded(boxes, anchors, centers=centers)
    if centers:
        boxes = _corners(boxes)
    if a["score_activation"]:
        scores = scores.onnx("Sigmoid")
    rule = Rule(
        candidates=1 << 30,
        keep=int(a["max_output_boxes"]),
        iou=float(a["iou_threshold"]),
        threshold=float(a["score_threshold"]),
        background=int(a["background_class"]),
    )
    if a["class_agnostic"]:
        return _agnostic(boxes, scores, rule)
    kept = suppress(boxes, scores, rule)
    return [kept.count(), kept.boxes, kept.scores, kept.classes.cast(DType.I32)]


def _decoded(boxes: Tensor, anchors: Tensor, *, centers: bool) -> Tensor:
    """Return boxes that are given as differences from anchors."""
    if len(boxes.shape) == 4:
        batch, count, _ = anchors.shape
        anchors = anchors.reshape(batch, count, 1, 4)
    if not centers:
        return boxes + anchors
    middle, size = anchors.part(-1, 0, 2), anchors.part(-1, 2, 2)
    moved = boxes.part(-1, 0, 2) * size + middle
    return joined([moved, boxes.part(-1, 2, 2).exp() * size], len(boxes.shape) - 1)


def _agnostic(boxes: Tensor, scores: Tensor, rule: Rule) -> list[Tensor]:
    """Let boxes of all classes suppress each other; a box is of its best class only."""
    batch, count, classes = scores.shape
    if 0 <= rule.background < known(scores, 2)[0]:
        penalty = np.where(np.arange(int(classes)) == rule.background, -1e4, 0)  # type: ignore[arg-type]
        scores = scores + scores.constant(penalty)
    best = scores.onnx("ReduceMax", np.array([2]), keepdims=1)
    kinds = scores.onnx("ArgMax", axis=2, keepdims=0)
    if len(boxes.shape) == 4:
        # Boxes of one place differ by class, so each (place, class) is a candidate.
        best = scores.reshape(batch, count * classes, 1)
        boxes = boxes.reshape(batch, count * classes, 4)
        row = positions(scores, classes).reshape(1, 1, classes)
        kinds = row.expand(batch, count, classes).reshape(batch, count * classes)
    kept = suppress(boxes, best, replace(rule, background=-1))
    rows = kept.numbers.reshape(batch, rule.keep, 1)
    found = kept.valid.where(kinds.onnx("GatherND", rows, batch_dims=1), 0)
    return [kept.count(), kept.boxes, kept.scores, found.cast(DType.I32)]


def _batched_nms(a: Attributes, boxes: Tensor, scores: Tensor) -> list[Tensor]:
    if len(boxes.shape) == 4 and boxes.shape[2] == 1:
        batch, count = boxes.shape[:2]
        boxes = boxes.reshape(batch, count, 4)
    kept = suppress(boxes, scores, _rule(a, "scoreThreshold", "iouThreshold"))
    found = kept.boxes.clip(0.0, 1.0) if a["clipBoxes"] else kept.boxes
    classes = kept.valid.where(kept.classes.cast(DType.F32), -1.0)
    return [kept.count(), found, kept.scores, classes]


def _rule(a: Attributes, threshold: str, iou: str) -> Rule:
    return Rule(
        candidates=int(a["topK"]),
        keep=int(a["keepTopK"]),
        iou=float(a[iou]),
        threshold=float(a[threshold]),
        background=int(a["backgroundLabelId"]),
        extent=0.0 if a["isNormalized"] else 1.0,
    )


def _nms(a: Attributes, *inputs: Tensor) -> list[Tensor]:
    """SSD's detection: decode boxes by their priors, suppress, and list what is kept."""
    order = [int(i) for i in numbers(a["inputOrder"])]
    location, confidence, priors = (inputs[i] for i in order)
    classes, (batch, *_) = int(a["numClasses"]), location.shape
    (length,) = known(priors, 2)
    count = length // 4
    own = 1 if a["shareLocation"] else classes
    encoded = location.reshape(batch, count, own, 4)
    boxes = _decode_ssd(a, encoded, priors.reshape(priors.shape[0], 2, count, 1, 4))
    if own == 1:
        boxes = boxes.reshape(batch, count, 4)
    scores = confidence.reshape(batch, count, classes)
    if a["confSigmoid"]:
        scores = scores.onnx("Sigmoid")
    kept = suppress(boxes, scores, _rule(a, "confidenceThreshold", "nmsThreshold"))
    keep = int(a["keepTopK"])
    items = positions(scores, batch).cast(boxes.dtype).reshape(batch, 1)
    columns = [
        items.expand(batch, keep),
        kept.valid.where(kept.classes.cast(boxes.dtype), -1.0),
        kept.scores.cast(boxes.dtype),
    ]
    rows = [c.reshape(batch, keep, 1) for c in columns]
    found = joined([*rows, kept.boxes.clip(0.0, 1.0)], 2)
    return [found.reshape(batch, 1, keep, 7), kept.count().reshape(batch, 1, 1, 1)]


def _decode_ssd(a: Attributes, encoded: Tensor, priors: Tensor) -> Tensor:
    """Return corners of boxes; the second channel of priors has the variances."""
    batch, _, count, _, _ = priors.shape
    anchors = priors.part(1, 0, 1).reshape(batch, count, 1, 4)
    variance = priors.part(1, 1, 1).reshape(batch, count, 1, 4)
    code = int(a["codeType"])
    if code == _TF_CENTER:  # vertical numbers come first
        y, x, height, width = encoded.parts(-1, 4)
        encoded = joined([x, y, width, height], 3)
    if code == _TF_CENTER or not a["varianceEncodedInTarget"]:
        encoded = encoded * variance
    low, high = anchors.part(-1, 0, 2), anchors.part(-1, 2, 2)
    size = high - low
    if code == _CORNER:
        return encoded + anchors
    if code == _CORNER_SIZE:
        return encoded * joined([size, size], 3) + anchors
    if code not in (_CENTER_SIZE, _TF_CENTER):
        raise GraphError(f"codeType {code} of NMS_TRT is not known")
    middle = (low + high) * 0.5
    center = encoded.part(-1, 0, 2) * size + middle
    return _corners(joined([center, encoded.part(-1, 2, 2).exp() * size], 3))


def _proposal(a: Attributes, scores: Tensor, deltas: Tensor) -> Tensor:
    """Faster R-CNN's regions: decode by anchors, drop small ones, suppress."""
    batch = scores.shape[0]
    anchors, height, width = known(scores, 1, 2, 3)
    limits = np.array([a["input_width"], a["input_height"]], np.float32) - 1
    centers, extents = _anchors(a, anchors, height, width)
    count = anchors * height * width
    encoded = deltas.reshape(batch, anchors, 4, height, width).transpose(0, 1, 3, 4, 2)
    encoded = encoded.reshape(batch, count, 4)
    size = encoded.constant(extents)
    middle = encoded.part(-1, 0, 2) * size + encoded.constant(centers)
    boxes = _corners(joined([middle, encoded.part(-1, 2, 2).exp() * size], 2))
    ends = np.concatenate([limits, limits])
    boxes = boxes.onnx("Max", 0.0).onnx("Min", boxes.constant(ends))
    extent = boxes.part(-1, 2, 2) - boxes.part(-1, 0, 2)
    small = (extent <= float(a["roi_min_size"])).cast(DType.F32)
    too_small = small.onnx("ReduceMax", np.array([2]), keepdims=1) > 0.0
    flat = too_small.where(scores.filled(-1e30, batch, count, 1), scores.reshape(batch, count, 1))
    rule = Rule(
        candidates=int(a["pre_nms_top_n"]),
        keep=int(a["post_nms_top_n"]),
        iou=float(a["nms_iou_threshold"]),
        threshold=-1e29,
        extent=1.0,
    )
    kept = suppress(boxes, flat, rule).boxes / boxes.constant(ends)
    x1, y1, x2, y2 = kept.parts(-1, 4)
    return joined([y1, x1, y2, x2], 2).reshape(batch, rule.keep, 4, 1)


def _anchors(a: Attributes, count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return middles and sizes, (x, y) each, of the anchors in the order of the scores."""
    sizes, ratios = (np.array(numbers(a[k]), np.float32) for k in ("anchor_sizes", "anchor_ratios"))
    if sizes.size * ratios.size != count:
        raise GraphError(
            f"the plugin has {sizes.size} anchor sizes and {ratios.size} ratios, but the scores "
            f"are of {count} anchors"
        )
    root = np.sqrt(ratios)
    shapes = np.stack([np.outer(sizes, root), np.outer(sizes, 1 / root)], -1).reshape(count, 2)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    middles = np.stack([x, y], -1).reshape(1, height * width, 2) * int(a["rpn_stride"])
    whole = (count, height * width, 2)
    flat = count * height * width
    centers = np.broadcast_to(middles, whole).reshape(flat, 2)
    return centers, np.broadcast_to(shapes[:, None], whole).reshape(flat, 2)


def _special_slice(a: Attributes, detections: Tensor) -> Tensor:
    return detections.part(-1, 0, 4)


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
_SSD = {
    "shareLocation": 1,
    "varianceEncodedInTarget": 0,
    "backgroundLabelId": 0,
    "numClasses": 21,
    "topK": 400,
    "keepTopK": 200,
    "confidenceThreshold": 0.4,
    "nmsThreshold": 0.45,
    "inputOrder": [0, 1, 2],
    "codeType": _CENTER_SIZE,
    "confSigmoid": 0,
    "isNormalized": 1,
    "scoreBits": 16,
    "isBatchAgnostic": 1,
}
_REGIONS = {
    "input_height": 0,
    "input_width": 0,
    "rpn_stride": 16,
    "roi_min_size": 1.0,
    "nms_iou_threshold": 0.7,
    "pre_nms_top_n": 6000,
    "post_nms_top_n": 300,
    "anchor_sizes": [],
    "anchor_ratios": [],
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
        composed(_efficient_nms),
        outputs=4,
        operands=(2, 3),
    ),
    *(
        Definition(name, _BATCHED, composed(_batched_nms), outputs=4, operands=(2,))
        for name in ("BatchedNMS_TRT", "BatchedNMSDynamic_TRT")
    ),
    *(
        Definition(name, _SSD, composed(_nms), outputs=2, operands=(3,))
        for name in ("NMS_TRT", "NMSDynamic_TRT")
    ),
    *(
        Definition(name, _REGIONS, composed(_proposal), operands=(2,))
        for name in ("Proposal", "ProposalDynamic")
    ),
    Definition("SpecialSlice_TRT", {}, composed(_special_slice), operands=(1,)),
)
