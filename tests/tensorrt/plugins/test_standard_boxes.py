"""Standard plugins that decode, suppress and make boxes mean what their NumPy forms say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina
from tests.tensorrt.plugins.applying import apply, net
from tests.tensorrt.running import close

RNG = np.random.default_rng(7)
KEEP, IOU, THRESHOLD = 9, 0.4, 0.3


def overlap(a: Any, b: Any, extent: float = 0.0) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + extent
    common = float(np.prod(np.maximum(sides, 0)))
    areas = np.prod(a[2:] - a[:2] + extent) + np.prod(b[2:] - b[:2] + extent)
    return common / (float(areas) - common)


def greedy(
    boxes: Any, scores: Any, threshold: float, iou: float, top: int = 1000, extent: float = 0.0
) -> list[int]:
    """Boxes of one class that are kept, the best first."""
    order = [i for i in np.argsort(-scores, kind="stable")[:top] if scores[i] > threshold]
    kept: list[int] = []
    while order:
        best, *order = order
        kept.append(best)
        order = [i for i in order if overlap(boxes[best], boxes[i], extent) <= iou]
    return kept


def detections(boxes: Any, scores: Any, skip: int = -1, top: int = 1000, **more: Any) -> list[Any]:
    """(score, class, box) of one item, the best first; boxes [n, 4] or [n, c, 4]."""
    found = []
    for c in range(scores.shape[1]):
        own = boxes[:, c] if boxes.ndim == 3 else boxes
        if c != skip:
            rows = greedy(own, scores[:, c], more.get("threshold", THRESHOLD), IOU, top)
            found += [(scores[i, c], c, own[i]) for i in rows]
    return sorted(found, key=lambda f: -f[0])[:KEEP]


def corners(given: Any) -> Any:
    return np.concatenate(
        [given[..., :2] - given[..., 2:] / 2, given[..., :2] + given[..., 2:] / 2], -1
    )


def centered(*shape: int) -> Any:
    middle, size = RNG.uniform(0.2, 0.8, (*shape, 2)), RNG.uniform(0.1, 0.4, (*shape, 2))
    return np.concatenate([middle, size], -1).astype(np.float32)


def scored(*shape: int) -> Any:
    return RNG.permutation(np.linspace(0, 1, int(np.prod(shape)))).reshape(shape).astype(np.float32)


def compare(got: list[Any], wanted: list[list[Any]], empty: int = 0) -> None:
    count, boxes, scores, classes = got
    for item, rows in enumerate(wanted):
        n = len(rows)
        assert int(count[item, 0]) == n
        close(scores[item, :n], np.float32([r[0] for r in rows]))
        assert classes[item, :n].tolist() == [r[1] for r in rows]
        close(boxes[item, :n], np.float32([r[2] for r in rows]).reshape(n, 4), 1e-5)
        assert not scores[item, n:].any() and not boxes[item, n:].any()
        assert (classes[item, n:] == empty).all()


SETTINGS = {"max_output_boxes": KEEP, "iou_threshold": IOU, "score_threshold": THRESHOLD}


@pytest.mark.parametrize(
    ("centers", "own", "anchored"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, False)],
)
def test_efficient_nms(centers: bool, own: bool, anchored: bool) -> None:
    shape = (2, 20, 3) if own else (2, 20)
    given = centered(*shape) if centers else corners(centered(*shape)).astype(np.float32)
    scores = scored(2, 20, 3)
    inputs, boxes = [given, scores], given.astype(np.float64)
    if anchored:
        anchors = centered(1, 20) if centers else corners(centered(1, 20)).astype(np.float32)
        moves = (0.1 * RNG.standard_normal(given.shape)).astype(np.float32)
        inputs = [moves, scores, anchors]
        wide = anchors[:, :, None] if own else anchors
        boxes = moves + wide
        if centers:
            middle = moves[..., :2] * wide[..., 2:] + wide[..., :2]
            boxes = np.concatenate([middle, np.exp(moves[..., 2:]) * wide[..., 2:]], -1)
    boxes = corners(boxes) if centers else boxes
    got = apply("EfficientNMS_TRT", inputs, box_coding=int(centers), **SETTINGS)
    compare(got, [detections(b, s) for b, s in zip(boxes, scores, strict=True)])


@pytest.mark.parametrize("own", [False, True])
def test_efficient_nms_over_all_classes(own: bool) -> None:
    shape = (2, 20, 3) if own else (2, 20)
    boxes, raw = corners(centered(*shape)).astype(np.float32), scored(2, 20, 3)
    logits = np.log(raw.clip(1e-3, 0.999) / (1 - raw.clip(1e-3, 0.999)))
    got = apply(
        "EfficientNMS_TRT",
        [boxes, logits],
        class_agnostic=1,
        background_class=1,
        score_activation=1,
        **SETTINGS,
    )
    wanted = []
    for b, s in zip(boxes, raw.clip(1e-3, 0.999), strict=True):
        pairs = [(i, c) for i in range(20) for c in (0, 2)]
        flat = np.array([b[i, c] if own else b[i] for i, c in pairs])
        values = np.array([s[i, c] for i, c in pairs])
        kept = greedy(flat, values, THRESHOLD, IOU)[:KEEP]
        wanted.append([(values[k], pairs[k][1], flat[k]) for k in kept])
    compare(got, wanted)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("top", [20, 6])
def test_batched_nms(own: bool, top: int) -> None:
    boxes = corners(centered(2, 20, 3 if own else 1)).astype(np.float32)
    scores = scored(2, 20, 3)
    got = apply(
        "BatchedNMSDynamic_TRT",
        [boxes, scores],
        shareLocation=int(not own),
        backgroundLabelId=0,
        topK=top,
        keepTopK=KEEP,
        iouThreshold=IOU,
        scoreThreshold=THRESHOLD,
    )
    flat = boxes if own else boxes[:, :, 0]
    rows = [detections(b, s, 0, top) for b, s in zip(flat, scores, strict=True)]
    compare(got, [[(s, c, np.clip(b, 0, 1)) for s, c, b in r] for r in rows], -1)


def test_half_precision() -> None:
    boxes, scores = corners(centered(2, 20)).astype(np.float16), scored(2, 20, 3).astype(np.float16)
    got = apply("EfficientNMS_TRT", [boxes, scores], **SETTINGS)
    assert got[1].dtype == got[2].dtype == np.float16
    wide = [detections(*p) for p in zip(boxes.astype(float), scores.astype(float), strict=True)]
    compare([got[0], *(x.astype(np.float32) for x in got[1:3]), got[3]], wide)


def test_a_dynamic_batch() -> None:
    boxes, scores = corners(centered(3, 20)).astype(np.float32), scored(3, 20, 3)
    made = net("EfficientNMS_TRT", [boxes, scores], shapes=[(-1, 20, 4), (-1, 20, 3)], **SETTINGS)
    made.profile(x0=((1, 20, 4), (2, 20, 4), (4, 20, 4)), x1=((1, 20, 3), (2, 20, 3), (4, 20, 3)))
    engine = made.build()
    for items in (3, 1):
        got = list(engine.run({"x0": boxes[:items], "x1": scores[:items]}).values())
        wanted = [detections(b, s) for b, s in zip(boxes[:items], scores[:items], strict=True)]
        compare(got, wanted)


def decoded(code: int, loc: Any, prior: Any, variance: Any) -> Any:
    low, high = prior[..., :2], prior[..., 2:]
    size, middle = high - low, (high + low) / 2
    if code == 3:
        loc = loc[..., [1, 0, 3, 2]]
    loc = loc * variance
    if code == 0:
        return prior + loc
    if code == 2:
        return prior + loc * np.concatenate([size, size], -1)
    return corners(np.concatenate([loc[..., :2] * size + middle, np.exp(loc[..., 2:]) * size], -1))


@pytest.mark.parametrize(
    ("code", "shared"), [(0, True), (1, True), (1, False), (2, False), (3, True)]
)
def test_ssd_detection(code: int, shared: bool) -> None:
    count, classes = 15, 4
    own = 1 if shared else classes
    loc = (0.5 * RNG.standard_normal((2, count, own, 4))).astype(np.float32)
    priors = corners(centered(count)).astype(np.float32)
    variances = RNG.uniform(0.1, 0.3, (count, 4)).astype(np.float32)
    scores = scored(2, count, classes)
    inputs = [
        loc.reshape(2, -1, 1, 1),
        np.stack([priors.reshape(-1), variances.reshape(-1)]).reshape(1, 2, -1, 1),
        scores.reshape(2, -1, 1, 1),
    ]
    plain = code == 1 and not shared
    found, number = apply(
        "NMSDynamic_TRT",
        inputs,
        inputOrder=[0, 2, 1],
        shareLocation=int(shared),
        varianceEncodedInTarget=int(plain),
        backgroundLabelId=0,
        numClasses=classes,
        topK=12,
        keepTopK=KEEP,
        confidenceThreshold=THRESHOLD,
        nmsThreshold=IOU,
        codeType=code,
    )
    assert found.shape == (2, 1, KEEP, 7) and number.shape == (2, 1, 1, 1)
    boxes = decoded(code, loc, priors[:, None], np.ones(4) if plain else variances[:, None])
    for item in range(2):
        each = boxes[item, :, 0] if shared else boxes[item]
        rows = detections(each, scores[item], 0, 12)
        assert int(number[item, 0, 0, 0]) == len(rows)
        for k in range(KEEP):
            row = found[item, 0, k]
            if k >= len(rows):
                assert row.tolist() == [item, -1, 0, 0, 0, 0, 0]
                continue
            score, label, box = rows[k]
            close(row, np.float32([item, label, score, *np.clip(box, 0, 1)]), 1e-5)


def test_regions_of_faster_rcnn() -> None:
    sizes, ratios, high, wide, stride = [24.0, 60.0], [1.0, 0.5, 2.0], 4, 5, 16
    image_high, image_wide = 64, 80
    scores = scored(2, 6, high, wide)
    deltas = (0.3 * RNG.standard_normal((2, 24, high, wide))).astype(np.float32)
    (got,) = apply(
        "ProposalDynamic",
        [scores, deltas],
        input_height=image_high,
        input_width=image_wide,
        rpn_stride=stride,
        roi_min_size=8.0,
        nms_iou_threshold=0.5,
        pre_nms_top_n=60,
        post_nms_top_n=12,
        anchor_sizes=sizes,
        anchor_ratios=ratios,
    )
    assert got.shape == (2, 12, 4, 1)
    for item in range(2):
        boxes, values = [], []
        for a, y, x in np.ndindex(6, high, wide):
            size, root = sizes[a // 3], np.sqrt(ratios[a % 3])
            w, h = size * root, size / root
            t = deltas[item].reshape(6, 4, high, wide)[a, :, y, x]
            cx, cy = (x + 0.5) * stride + w * t[0], (y + 0.5) * stride + h * t[1]
            w, h = np.exp(t[2]) * w, np.exp(t[3]) * h
            box = np.clip(
                [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2],
                0,
                np.array([image_wide, image_high] * 2) - 1,
            )
            small = box[2] - box[0] <= 8 or box[3] - box[1] <= 8
            boxes.append(box)
            values.append(-1e30 if small else scores[item, a, y, x])
        kept = greedy(np.array(boxes), np.array(values), -1e29, 0.5, 60, 1.0)[:12]
        wanted = np.zeros((12, 4))
        wanted[: len(kept)] = np.array(boxes)[kept][:, [1, 0, 3, 2]]
        wanted /= np.array([image_high, image_wide] * 2) - 1
        close(got[item, :, :, 0], wanted, 1e-5)


def test_prior_boxes() -> None:
    features, image = np.zeros((2, 8, 3, 4), np.float32), np.zeros((2, 3, 60, 100), np.float32)
    smallest, largest, ratios = [20.0, 30.0], [40.0, 50.0], [2.0, 3.0]
    variance = [0.1, 0.2, 0.3, 0.4]
    for clip in (0, 1):
        (got,) = apply(
            "PriorBox_TRT",
            [features, image],
            minSize=smallest,
            maxSize=largest,
            aspectRatios=ratios,
            flip=1,
            clip=clip,
            variance=variance,
            stepH=0.0,
            stepW=0.0,
        )
        rows = []
        for y, x in np.ndindex(3, 4):
            cx, cy = (x + 0.5) * 25, (y + 0.5) * 20
            for low, high in zip(smallest, largest, strict=True):
                shapes = [(low, low), (np.sqrt(low * high),) * 2]
                for r in (2, 1 / 2, 3, 1 / 3):
                    shapes.append((low * np.sqrt(r), low / np.sqrt(r)))
                for w, h in shapes:
                    box = [(cx - w / 2) / 100, (cy - h / 2) / 60, (cx + w / 2) / 100]
                    rows.append([*box, (cy + h / 2) / 60])
        boxes = np.array(rows)
        flat = (boxes.clip(0, 1) if clip else boxes).reshape(-1)
        assert got.shape == (2, 2, flat.size, 1)
        close(got[1, 0, :, 0], flat, 1e-6)
        close(got[0, 1, :, 0], np.tile(np.float32(variance), len(rows)), 1e-6)


def test_anchors_of_a_grid() -> None:
    got = apply(
        "GridAnchorRect_TRT",
        [],
        numLayers=3,
        minSize=0.2,
        maxSize=0.8,
        aspectRatios=[1.0, 2.0, 0.5, 3.0],
        featureMapShapes=[2, 3, 1, 2, 1, 1],
        variance=[0.1, 0.1, 0.2, 0.2],
    )
    scales = [0.2, 0.5, 0.8, 1.0]
    for number, (high, wide) in enumerate([(2, 3), (1, 2), (1, 1)]):
        rows = []
        for y, x in np.ndindex(high, wide):
            pairs = [(0.1, 1.0), (0.2, 2.0), (0.2, 0.5)]
            if number:
                pairs = [(scales[number], r) for r in (1.0, 2.0, 0.5, 3.0)]
                pairs.append((np.sqrt(scales[number] * scales[number + 1]), 1.0))
            for scale, ratio in pairs:
                w, h = scale * np.sqrt(ratio), scale / np.sqrt(ratio)
                cx, cy = (x + 0.5) / wide, (y + 0.5) / high
                rows.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        close(got[number][0, 0, :, 0], np.array(rows).reshape(-1), 1e-6)
        close(got[number][0, 1, :4, 0], np.float32([0.1, 0.1, 0.2, 0.2]))
    square = apply("GridAnchor_TRT", [], numLayers=1, featureMapShapes=[2])
    assert square[0].shape == (1, 2, 2 * 2 * 3 * 4, 1)


def test_the_first_numbers_of_detections() -> None:
    x = RNG.standard_normal((2, 5, 6)).astype(np.float32)
    assert (apply("SpecialSlice_TRT", [x])[0] == x[..., :4]).all()


def test_wrong_numbers_of_operands_are_named() -> None:
    made = net("EfficientNMS_TRT", [np.zeros((1, 4, 4), np.float32)])
    assert "takes 2 or 3 operands, got 1" in made.fails()
    made = net("NMS_TRT", [np.zeros((1, 4, 1, 1), np.float32)] * 3, codeType=9)
    with pytest.raises(AssertionError):
        made.build()
    assert isinstance(made.logger.errors, list) and lamina is not None
