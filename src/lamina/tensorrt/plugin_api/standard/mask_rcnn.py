"""Standard plugins of Mask R-CNN (He et al.), with the settings of its published model."""

from __future__ import annotations

import numpy as np

from lamina.errors import GraphError
from lamina.ir.graph import Array
from lamina.ir.types import DType
from lamina.tensorrt.plugin_api.standard.definition import (
    Attributes,
    Definition,
    composed,
    known,
    numbers,
)
from lamina.tensorrt.plugin_api.standard.suppression import Rule, suppress
from lamina.tensorrt.plugin_api.standard.tensors import Tensor, joined

_SCALES, _STRIDES = (32, 64, 128, 256, 512), (4, 8, 16, 32, 64)
_RATIOS = (0.5, 1.0, 2.0)
_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)
"""What the network's corrections are multiples of."""
_NOWHERE = -1.0


def _moved(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Return boxes (y1, x1, y2, x2) after corrections of middle and size, kept in the image."""
    low, high = boxes.part(-1, 0, 2), boxes.part(-1, 2, 2)
    size, scaled = high - low, deltas * deltas.constant(_DEVIATIONS)
    middle = (low + high) * 0.5 + scaled.part(-1, 0, 2) * size
    half = scaled.part(-1, 2, 2).exp() * size * 0.5
    return joined([middle - half, middle + half], len(boxes.shape) - 1).clip(0.0, 1.0)


def _proposal_layer(a: Attributes, scores: Tensor, deltas: Tensor) -> Tensor:
    """Regions from anchors: the best by score, corrected, less those that overlap better ones."""
    batch, (count,) = scores.shape[0], known(scores, 1)
    _, height, width = (int(n) for n in numbers(a["image_size"]))
    anchors = _anchors(height, width)
    if len(anchors) != count:
        raise GraphError(
            f"ProposalLayer_TRT makes {len(anchors)} anchors for an image of {height} x {width}, "
            f"the scores are of {count}"
        )
    boxes = _moved(deltas.constant(anchors[None]), deltas.reshape(batch, count, 4))
    foreground = scores.part(2, 1, 1).reshape(batch, count, 1)
    keep, most = int(a["keep_topk"]), int(a["prenms_topk"])
    rule = Rule(candidates=most, keep=keep, iou=float(a["iou_threshold"]), threshold=0.0)
    return suppress(boxes, foreground, rule).boxes


def _anchors(height: int, width: int) -> Array:
    """Return anchors (y1, x1, y2, x2) as parts of an image, by map, place and ratio."""
    found = []
    root = np.sqrt(np.array(_RATIOS))
    for scale, stride in zip(_SCALES, _STRIDES, strict=True):
        y, x = np.meshgrid(np.arange(0, height, stride), np.arange(0, width, stride), indexing="ij")
        half = np.stack([scale / root, scale * root], -1) / 2
        middle = np.stack([y, x], -1).reshape(-1, 1, 2)
        found.append(np.concatenate([middle - half, middle + half - 1], -1).reshape(-1, 4))
    anchors: Array = np.concatenate(found) / np.tile([height - 1, width - 1], 2)
    return anchors


def _detection_layer(a: Attributes, deltas: Tensor, scores: Tensor, regions: Tensor) -> Tensor:
    """Each region with its best class: corrected, suppressed by class; the first is background."""
    batch, count, classes = *regions.shape[:2], int(a["num_classes"])
    by_class = scores.reshape(batch, count, classes)
    best = by_class.onnx("ReduceMax", np.array([2]), keepdims=1)
    kinds = by_class.onnx("ArgMax", axis=2, keepdims=1)
    own = deltas.reshape(batch, count, classes, 4)
    boxes = _moved(regions, own.onnx("GatherND", kinds, batch_dims=2))
    every = Tensor(kinds.e, kinds.e.constant(np.arange(classes).reshape(1, 1, classes)))
    only = kinds.onnx("Equal", every).where(best, _NOWHERE)
    rule = Rule(
        candidates=1 << 30,
        keep=int(a["keep_topk"]),
        iou=float(a["iou_threshold"]),
        threshold=float(a["score_threshold"]),
        background=0,
    )
    kept = suppress(boxes, only, rule)
    rows = [t.reshape(batch, rule.keep, 1) for t in (kept.classes.cast(DType.F32), kept.scores)]
    return joined([kept.boxes, *rows], 2)


DEFINITIONS = (
    Definition(
        "ProposalLayer_TRT",
        {
            "prenms_topk": 1024,
            "keep_topk": 1000,
            "iou_threshold": 0.7,
            "image_size": [3, 1024, 1024],
        },
        composed(_proposal_layer),
        operands=(2,),
    ),
    Definition(
        "DetectionLayer_TRT",
        {"num_classes": 81, "keep_topk": 100, "score_threshold": 0.7, "iou_threshold": 0.3},
        composed(_detection_layer),
        operands=(3,),
    ),
)
