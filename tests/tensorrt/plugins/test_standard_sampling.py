"""Standard plugins that sample several maps, or scatter into one, mean what NumPy says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.plugins.applying import apply, net, plugin
from tests.tensorrt.running import Net, close, random

RNG = np.random.default_rng(11)


def bilinear(image: Any, y: float, x: float) -> Any:
    """Sample [c, h, w]; what lies outside is 0."""
    top, left = int(np.floor(y)), int(np.floor(x))
    total = np.zeros(image.shape[0])
    for row, a in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, b in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += a * b * image[:, row, column]
    return total


def aligned(image: Any, box: Any, pooled: int, samples: int, mode: int) -> Any:
    """Average of samples in each bin of a box (x1, y1, x2, y2) as parts of the image.

    ``samples`` of 0 are as many as a bin has elements; modes are those of PyramidROIAlign_TRT.
    """
    size = np.array(image.shape[:0:-1], np.float64)  # width, height
    whole = size - 1 if mode == -1 else size
    low, high = (box[k : k + 2] * whole - (0.5 if mode == 2 else 0.0) for k in (0, 2))
    step = (high - low) / (pooled - 1 if mode == -1 else pooled)
    inner = 0.5 if mode > 0 else 0.0
    counts = [samples or max(1, int(np.ceil(s))) for s in (high - low) / pooled]
    found = np.zeros((image.shape[0], pooled, pooled))
    for i, j, v, u in np.ndindex(pooled, pooled, counts[1], counts[0]):
        x = low[0] + step[0] * (j + (u + inner) / counts[0])
        y = low[1] + step[1] * (i + (v + inner) / counts[1])
        place = np.clip([x, y], 0, size - 1)
        found[:, i, j] += bilinear(image, place[1], place[0]) / (counts[0] * counts[1])
    return found


def regions(image: int) -> Any:
    """Boxes (x1, y1, x2, y2) of many sizes, some of which end outside of the image."""
    edges = RNG.permuted([[8, 12, 25, 35, 50, 70, 90, 110, 30]] * 2, axis=1)
    size = edges[..., None] * RNG.uniform(0.95, 1.05, (2, 9, 2))
    low = RNG.uniform(-0.1, 1, (2, 9, 2)) * (image - size)
    return np.concatenate([low, low + size], -1).astype(np.float32)


@pytest.mark.parametrize(
    ("mode", "samples", "normalized"),
    [(-1, 1, True), (0, 2, False), (1, 2, True), (2, 2, False), (1, 0, False), (2, 0, True)],
)
def test_pyramid(mode: int, samples: int, normalized: bool) -> None:
    image, pooled, scale = 128, 3, 40
    maps = [random(2, 4, n, n, seed=n) for n in (32, 16, 8, 4)]
    boxes = regions(image)
    given = (boxes[..., [1, 0, 3, 2]] / image).astype(np.float32) if normalized else boxes
    settings = {
        "fpn_scale": scale,
        "pooled_size": pooled,
        "image_size": [image, image],
        "roi_coords_absolute": int(not normalized),
        "roi_coords_swap": int(normalized),
        "roi_coords_plusone": int(normalized),
        "roi_coords_transform": mode,
        "sampling_ratio": samples,
    }
    (got,) = apply("PyramidROIAlign_TRT", [given, *maps], **settings)
    assert got.shape == (2, 9, 4, pooled, pooled)
    levels = set()
    for item, k in np.ndindex(2, 9):
        box = np.clip(boxes[item, k].astype(np.float64), 0, image)
        edge = np.sqrt(np.prod(box[2:] - box[:2] + int(normalized)))
        level = int(sum(edge > least for least in (scale / 2, scale, scale * 2)))
        levels.add(level)
        wanted = aligned(maps[level][item], box / image, pooled, samples, mode)
        close(got[item, k], wanted, 1e-4)
    assert levels == {0, 1, 2, 3}


def test_the_pyramid_as_it_was_and_what_it_refuses() -> None:
    image = 512
    maps = [random(1, 2, n, n, seed=n) for n in (32, 16, 8, 4)]
    boxes = np.float32([[[0.1, 0.2, 0.25, 0.3], [0.2, 0.1, 0.9, 0.8]]])
    (got,) = apply(
        "PyramidROIAlign_TRT", [boxes, *maps], legacy=1, pooled_size=3, image_size=[image, image]
    )
    for k, level in ((0, 0), (1, 3)):
        box = boxes[0, k, [1, 0, 3, 2]].astype(np.float64)
        close(got[0, k], aligned(maps[level][0], box, 3, 1, -1), 1e-4)
    made = net("PyramidROIAlign_TRT", [boxes, *maps], roi_coords_transform=0, sampling_ratio=0)
    assert "sampling_ratio 0 is not supported" in made.fails()


def test_crops_of_several_levels() -> None:
    image, pooled = 512, 3
    maps = [random(2, 4, image >> n, image >> n, seed=n) for n in range(2, 7)]
    boxes = regions(128) * 4
    boxes[0, 0] = [50, 60, 40, 90]  # no box
    (got,) = apply(
        "MultilevelCropAndResize_TRT",
        [boxes[..., [1, 0, 3, 2]], *maps],
        pooled_size=pooled,
        image_size=[3, image, image],
    )
    levels = set()
    for item, k in np.ndindex(2, 9):
        box = boxes[item, k].astype(np.float64)
        wanted = np.zeros((4, pooled, pooled))
        if (box[2:] > box[:2]).all() and (box >= 0).all() and (box <= image).all():
            edge = np.sqrt(np.prod(box[2:] - box[:2]))
            level = int(sum(edge > least for least in (112, 224, 448, 896)))
            levels.add(level)
            wanted = aligned(maps[level][item], box / image, pooled, 1, 1)
        close(got[item, k], wanted, 1e-4)
    assert {0, 1} <= levels and not got[0, 0].any()


def test_deformable_attention() -> None:
    shapes = np.array([[4, 5], [2, 3]])
    starts, batch, heads, depth, queries, points = np.array([0, 20]), 2, 3, 4, 6, 2
    value = random(batch, 26, heads, depth)
    places = RNG.uniform(-0.1, 1.1, (batch, queries, heads, 2, points, 2)).astype(np.float32)
    weights = RNG.uniform(0, 1, (batch, queries, heads, 2, points)).astype(np.float32)
    made = Net()
    tensors = [
        made.input("value", value),
        made.constant(shapes),
        made.constant(starts),
        made.input("places", places),
        made.input("weights", weights),
    ]
    layer = made.network.add_plugin_v2(tensors, plugin("MultiscaleDeformableAttnPlugin_TRT"))
    made.output(layer.get_output(0))
    got = made.build().run({"value": value, "places": places, "weights": weights})["y0"]
    wanted = np.zeros((batch, queries, heads, depth))
    for n, q, m, level, p in np.ndindex(batch, queries, heads, 2, points):
        high, wide = shapes[level]
        part = value[n, starts[level] : starts[level] + high * wide, m]
        image = part.T.reshape(depth, high, wide)
        x, y = places[n, q, m, level, p]
        sample = bilinear(image, float(y) * high - 0.5, float(x) * wide - 0.5)
        wanted[n, q, m] += weights[n, q, m, level, p] * sample
    close(got, wanted, 1e-4)
    assert trt.LayerType.PLUGIN_V2 == layer.type


def test_pillars() -> None:
    high, wide, most, channels = 5, 6, 8, 3
    voxels, counts = random(2, most, channels), np.int32([5, 8])
    coordinates = np.zeros((2, most, 4), np.int32)
    for item in range(2):
        cells = RNG.permutation(high * wide)[:most]
        coordinates[item, :, 0], coordinates[item, :, 2] = item, cells // wide
        coordinates[item, :, 3] = cells % wide
    inputs = [voxels, coordinates, counts]
    (got,) = apply("PillarScatterPlugin", inputs, dense_shape=[high, wide])
    wanted = np.zeros((2, channels, high, wide), np.float32)
    for item in range(2):
        for k in range(counts[item]):
            _, _, y, x = coordinates[item, k]
            wanted[item, :, y, x] = voxels[item, k]
    assert (got == wanted).all()
