"""Mask R-CNN's standard plugins mean what their NumPy forms say."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.tensorrt.plugins.applying import apply, net
from tests.tensorrt.plugins.test_standard_boxes import greedy
from tests.tensorrt.running import close

RNG = np.random.default_rng(13)


def moved(box: Any, delta: Any) -> Any:
    height, width = box[2] - box[0], box[3] - box[1]
    dy, dx, dh, dw = delta * [0.1, 0.1, 0.2, 0.2]
    y, x = (box[0] + box[2]) / 2 + dy * height, (box[1] + box[3]) / 2 + dx * width
    height, width = height * np.exp(dh), width * np.exp(dw)
    ends = [y - height / 2, x - width / 2, y + height / 2, x + width / 2]
    return np.clip(ends, 0, 1)


def test_proposals() -> None:
    high, wide, keep, most = 64, 96, 20, 60
    anchors = []
    for scale, stride in zip((32, 64, 128, 256, 512), (4, 8, 16, 32, 64), strict=True):
        for y in range(0, high, stride):
            for x in range(0, wide, stride):
                for ratio in (0.5, 1, 2):
                    h, w = scale / np.sqrt(ratio), scale * np.sqrt(ratio)
                    ends = [y - h / 2, x - w / 2, y + h / 2 - 1, x + w / 2 - 1]
                    anchors.append(np.array(ends) / [high - 1, wide - 1, high - 1, wide - 1])
    count = len(anchors)
    scores = RNG.permuted([np.linspace(0.01, 1, count)] * 2, axis=1).astype(np.float32)
    given = np.stack([1 - scores, scores], -1)[..., None]
    deltas = RNG.standard_normal((2, count, 4, 1)).astype(np.float32)
    settings = {"prenms_topk": most, "keep_topk": keep, "iou_threshold": 0.5}
    (got,) = apply("ProposalLayer_TRT", [given, deltas], image_size=[3, high, wide], **settings)
    assert got.shape == (2, keep, 4)
    for item in range(2):
        boxes = np.array([moved(b, d) for b, d in zip(anchors, deltas[item, :, :, 0], strict=True)])
        kept = greedy(boxes, scores[item], 0.0, 0.5, most)[:keep]
        wanted = np.zeros((keep, 4))
        wanted[: len(kept)] = boxes[kept]
        close(got[item], wanted, 1e-5)
    made = net("ProposalLayer_TRT", [given, deltas], image_size=[3, 64, 64])
    assert "makes 1023 anchors" in made.fails()


def test_detections() -> None:
    count, classes, keep, iou, threshold = 24, 5, 10, 0.3, 0.4
    low, size = RNG.uniform(0, 0.6, (2, count, 2)), RNG.uniform(0.1, 0.4, (2, count, 2))
    regions = np.concatenate([low, low + size], -1).astype(np.float32)
    scores = RNG.permuted(np.linspace(0, 1, 2 * count * classes)).astype(np.float32)
    scores = scores.reshape(2, count, classes)
    deltas = RNG.standard_normal((2, count, classes, 4)).astype(np.float32)
    (got,) = apply(
        "DetectionLayer_TRT",
        [deltas.reshape(2, count, -1, 1, 1), scores[..., None, None], regions],
        num_classes=classes,
        keep_topk=keep,
        score_threshold=threshold,
        iou_threshold=iou,
    )
    assert got.shape == (2, keep, 6)
    for item in range(2):
        kinds = scores[item].argmax(1)
        boxes = np.array([moved(regions[item, i], deltas[item, i, k]) for i, k in enumerate(kinds)])
        found = []
        for kind in range(1, classes):
            own = np.where(kinds == kind, scores[item].max(1), -1)
            found += [(own[i], kind, boxes[i]) for i in greedy(boxes, own, threshold, iou)]
        rows = sorted(found, key=lambda f: -f[0])[:keep]
        wanted = np.zeros((keep, 6))
        for k, (score, kind, box) in enumerate(rows):
            wanted[k] = [*box, kind, score]
        assert len(rows) > 3
        close(got[item], wanted, 1e-5)
