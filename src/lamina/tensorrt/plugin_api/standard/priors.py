"""Standard plugins that make anchor boxes: their results are constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lamina.importers.onnx.node import OnnxNode
from lamina.ir.graph import Array, Value
from lamina.tensorrt.plugin_api.standard.definition import (
    Attributes,
    Definition,
    composed,
    known,
    numbers,
)
from lamina.tensorrt.plugin_api.standard.tensors import Tensor

_FIRST_RATIOS = 3
"""Anchors at each place of the first map."""
_SMALLEST = 0.1
"""Scale of the first anchor of the first map (SSD, section 2.2)."""


def _prior_box(a: Attributes, features: Tensor, image: Tensor) -> Tensor:
    """SSD's prior boxes for one feature map: corners, and in a second channel the variances."""
    height, width = known(features, 2, 3)
    image_height, image_width = known(image, 2, 3)
    image_height = int(a["imgH"]) or image_height
    image_width = int(a["imgW"]) or image_width
    step_y = float(a["stepH"]) or image_height / height
    step_x = float(a["stepW"]) or image_width / width
    shapes = _prior_shapes(a)
    offset = float(a["offset"])
    centers = _centers(height, width, offset) * [step_x, step_y]
    boxes = _corners(centers, shapes) / np.tile([image_width, image_height], 2)
    if a["clip"]:
        boxes = boxes.clip(0, 1)
    found = _with_variances(boxes, a["variance"])
    batch = features.shape[0]
    return features.constant(found).expand(batch, *found.shape[1:])


def _prior_shapes(a: Attributes) -> Array:
    """Return (width, height) of the boxes at one place, by smallest size, then by ratio."""
    smallest, largest = numbers(a["minSize"]), numbers(a["maxSize"])
    ratios = []
    for ratio in (float(r) for r in numbers(a["aspectRatios"])):
        if ratio != 1.0:
            ratios += [ratio, 1 / ratio] if a["flip"] else [ratio]
    rows = []
    for i, size in enumerate(smallest):
        rows.append([size, size])
        if largest:
            rows.append([np.sqrt(size * largest[i])] * 2)
        rows += [[size * np.sqrt(r), size / np.sqrt(r)] for r in ratios]
    return np.array(rows)


def _centers(height: int, width: int, offset: float) -> Array:
    """Return (x, y) of places in units of steps [height * width, 1, 2]."""
    x, y = np.meshgrid(np.arange(width) + offset, np.arange(height) + offset)
    return np.stack([x, y], -1).reshape(-1, 1, 2)


def _corners(centers: Array, shapes: Array) -> Array:
    half = shapes / 2
    return np.concatenate([centers - half, centers + half], -1)


def _with_variances(boxes: Array, variance: Any) -> Array:
    """Return boxes and variances as two channels [1, 2, n, 1]."""
    flat = boxes.reshape(-1)
    variances = np.tile(np.array(numbers(variance), np.float64), flat.size // 4)
    return np.stack([flat, variances]).reshape(1, 2, flat.size, 1).astype(np.float32)


def _grid_anchor(e: OnnxNode, a: Attributes, inputs: Sequence[Value]) -> Sequence[Value]:
    """SSD's anchors for several feature maps, in units of the image."""
    count, shapes = int(a["numLayers"]), [int(n) for n in numbers(a["featureMapShapes"])]
    maps = [tuple(shapes[2 * i : 2 * i + 2]) for i in range(count)]
    if len(shapes) == count:  # square maps
        maps = [(n, n) for n in shapes]
    low, high = float(a["minSize"]), float(a["maxSize"])
    scales = [low + (high - low) * i / max(count - 1, 1) for i in range(count)] + [1.0]
    found = []
    for i, (height, width) in enumerate(maps):
        boxes = _corners(
            _centers(height, width, 0.5) / [width, height], _anchor_shapes(a, scales, i)
        )
        found.append(e.constant(_with_variances(boxes, a["variance"])))
    return found


def _anchor_shapes(a: Attributes, scales: Sequence[float], number: int) -> Array:
    """Return (width, height) of the anchors at one place of a map."""
    ratios = [float(r) for r in numbers(a["aspectRatios"])]
    if number == 0:
        ratios = ratios[:_FIRST_RATIOS]
        sizes = [_SMALLEST, *[scales[0]] * (len(ratios) - 1)]
    else:
        sizes = [scales[number]] * len(ratios) + [np.sqrt(scales[number] * scales[number + 1])]
        ratios = [*ratios, 1.0]
    root = np.sqrt(ratios)
    return np.stack([sizes * root, sizes / root], -1)


_ANCHORS = {
    "minSize": 0.2,
    "maxSize": 0.95,
    "aspectRatios": [1.0, 2.0, 0.5, 3.0, 0.33],
    "featureMapShapes": [],
    "variance": [0.1, 0.1, 0.2, 0.2],
    "numLayers": 6,
}

DEFINITIONS = (
    Definition(
        "PriorBox_TRT",
        {
            "minSize": [],
            "maxSize": [],
            "aspectRatios": [],
            "flip": 1,
            "clip": 0,
            "variance": [0.1, 0.1, 0.2, 0.2],
            "imgH": 0,
            "imgW": 0,
            "stepH": 0.0,
            "stepW": 0.0,
            "offset": 0.5,
        },
        composed(_prior_box),
        operands=(2,),
    ),
    *(
        Definition(name, _ANCHORS, _grid_anchor, outputs=lambda a: int(a["numLayers"]))
        for name in ("GridAnchor_TRT", "GridAnchorRect_TRT")
    ),
)
