"""The standard plugins mean what their NumPy forms say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Messages, Net, close, random


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    assert trt.init_libnvinfer_plugins(Messages(), "")


def apply(name: str, inputs: list[Any], version: str = "1", **attributes: Any) -> list[Any]:
    creator = trt.get_plugin_registry().get_plugin_creator(name, version)
    fields = trt.PluginFieldCollection(
        [trt.PluginField(k, np.atleast_1d(v)) for k, v in attributes.items()]
    )
    plugin = creator.create_plugin("it", fields)
    net = Net()
    tensors = [net.input(f"x{i}", x) for i, x in enumerate(inputs)]
    layer = net.network.add_plugin_v2(tensors, plugin)
    net.output(*(layer.get_output(i) for i in range(layer.num_outputs)))
    return list(net.build().run({f"x{i}": x for i, x in enumerate(inputs)}).values())


X = random(2, 6, 4, 5)


def test_pointwise_ones() -> None:
    close(apply("LReLU_TRT", [X], negSlope=np.float32(0.2))[0], np.where(X > 0, X, 0.2 * X), 1e-6)
    low, high = np.float32(-0.5), np.float32(1)
    close(apply("Clip_TRT", [X], clipMin=low, clipMax=high)[0], np.clip(X, -0.5, 1))
    inner = np.sqrt(2 / np.pi) * (X + 0.044715 * X**3)
    gelu = 0.5 * X * (1 + np.tanh(inner))
    close(apply("CustomGeluPluginDynamic", [X])[0], gelu, 1e-5)


def test_normalizations() -> None:
    scale, bias = random(6, seed=1), random(6, seed=2)
    mean, var = X.mean((2, 3), keepdims=True), X.var((2, 3), keepdims=True)
    unit = (X - mean) / np.sqrt(var + 1e-3)
    wanted = unit * scale[:, None, None] + bias[:, None, None]
    got = apply("InstanceNormalization_TRT", [X, scale, bias], epsilon=np.float32(1e-3))[0]
    close(got, wanted, 1e-4)
    weights = random(6, seed=3)
    for across, axes in ((0, 1), (1, (1, 2, 3))):
        norm = np.sqrt((X * X).sum(axes, keepdims=True) + 1e-4)
        got = apply(
            "Normalize_TRT",
            [X],
            weights=weights,
            acrossSpatial=np.int32(across),
            eps=np.float32(1e-4),
        )[0]
        close(got, X / norm * weights[:, None, None], 1e-5)


def test_region_and_flatten() -> None:
    x = random(1, 2 * (4 + 1 + 3), 2, 2)
    got = apply("Region_TRT", [x], num=np.int32(2), coords=np.int32(4), classes=np.int32(3))[0]
    boxes = x.reshape(1, 2, 8, 2, 2).copy()
    for i in (0, 1, 4):
        boxes[:, :, i] = 1 / (1 + np.exp(-boxes[:, :, i]))
    e = np.exp(boxes[:, :, 5:])
    boxes[:, :, 5:] = e / e.sum(2, keepdims=True)
    close(got, boxes.reshape(x.shape), 1e-5)
    a, b = random(2, 3, 2), random(2, 5, seed=1)
    close(apply("FlattenConcat_TRT", [a, b])[0], np.concatenate([a.reshape(2, -1), b], 1))


def suppressed(boxes: Any, scores: Any, keep: int, iou: float, threshold: float) -> list[Any]:
    """Greedy suppression of each class, then the best over all classes."""
    found = []
    for c in range(scores.shape[1]):
        left = [i for i in np.argsort(-scores[:, c], kind="stable") if scores[i, c] > threshold]
        while left:
            best, *left = left
            found.append((scores[best, c], c, best))
            left = [i for i in left if overlap(boxes[best], boxes[i]) <= iou]
    return sorted(found, key=lambda f: -f[0])[:keep]


def overlap(a: Any, b: Any) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    return common / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common)


@pytest.mark.parametrize(
    ("name", "centers"),
    [
        ("EfficientNMS_TRT", False),
        ("EfficientNMS_TRT", True),
        ("BatchedNMS_TRT", False),
        ("BatchedNMSDynamic_TRT", False),
    ],
)
def test_suppression(name: str, centers: bool) -> None:
    rng = np.random.default_rng(0)
    middle, extent = rng.uniform(0.2, 0.8, (2, 20, 2)), rng.uniform(0.1, 0.4, (2, 20, 2))
    corners = np.concatenate([middle - extent / 2, middle + extent / 2], 2).astype(np.float32)
    given = np.concatenate([middle, extent], 2).astype(np.float32) if centers else corners
    scores = rng.uniform(0, 1, (2, 20, 3)).astype(np.float32)
    keep, iou, threshold = 12, 0.4, 0.3
    if name == "EfficientNMS_TRT":
        got = apply(
            name,
            [given, scores],
            max_output_boxes=np.int32(keep),
            iou_threshold=np.float32(iou),
            score_threshold=np.float32(threshold),
            box_coding=np.int32(centers),
        )
    else:
        got = apply(
            name,
            [given[:, :, None], scores],
            keepTopK=np.int32(keep),
            topK=np.int32(20),
            iouThreshold=np.float32(iou),
            scoreThreshold=np.float32(threshold),
            clipBoxes=np.int32(0),
        )
    count, boxes, kept, classes = got
    assert boxes.shape == (2, keep, 4) and count.shape == (2, 1)
    for item in range(2):
        wanted = suppressed(corners[item], scores[item], keep, iou, threshold)
        assert int(count[item, 0]) == len(wanted)
        close(kept[item, : len(wanted)], np.float32([s for s, _, _ in wanted]))
        assert classes[item, : len(wanted)].tolist() == [c for _, c, _ in wanted]
        close(boxes[item, : len(wanted)], corners[item, [i for _, _, i in wanted]], 1e-5)
        assert not kept[item, len(wanted) :].any()


def test_unknown_attributes_are_named() -> None:
    creator = trt.get_plugin_registry().get_plugin_creator("LReLU_TRT", "1")
    fields = trt.PluginFieldCollection([trt.PluginField("slope", np.float32([1]))])
    with pytest.raises(Exception, match="no attribute 'slope'"):
        creator.create_plugin("it", fields)
