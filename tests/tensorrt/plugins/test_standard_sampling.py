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


def aligned(image: Any, box: Any, pooled: int, samples: int, shift: float) -> Any:
    """Average of samples in each bin of a box (x1, y1, x2, y2) in units of the map."""
    x1, y1, x2, y2 = (float(v) - shift for v in box)
    high, wide = y2 - y1, x2 - x1
    if shift == 0:
        high, wide = max(high, 1.0), max(wide, 1.0)
    found = np.zeros((image.shape[0], pooled, pooled))
    for i, j, u, v in np.ndindex(pooled, pooled, samples, samples):
        y = y1 + (i + (u + 0.5) / samples) * high / pooled
        x = x1 + (j + (v + 0.5) / samples) * wide / pooled
        if -1 <= y <= image.shape[1] and -1 <= x <= image.shape[2]:
            place = np.clip([y, x], 0, np.array(image.shape[1:]) - 1)
            found[:, i, j] += bilinear(image, *place) / samples**2
    return found


@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("normalized", [False, True])
def test_pyramid(mode: int, normalized: bool) -> None:
    image, pooled, scale = 128, 3, 40
    maps = [random(2, 4, n, n, seed=n) for n in (32, 16, 8, 4)]
    edges = RNG.permuted([[8, 12, 25, 35, 50, 70, 90, 110, 30]] * 2, axis=1)
    size = edges[..., None] * RNG.uniform(0.95, 1.05, (2, 9, 2))
    low = RNG.uniform(0, 1, (2, 9, 2)) * (image - size)
    boxes = np.concatenate([low, low + size], -1).astype(np.float32)
    given = (boxes[..., [1, 0, 3, 2]] / image).astype(np.float32) if normalized else boxes
    settings = {
        "fpn_scale": scale,
        "pooled_size": pooled,
        "image_size": [image, image],
        "roi_coords_absolute": int(not normalized),
        "roi_coords_swap": int(normalized),
        "roi_coords_plusone": int(normalized),
        "roi_coords_transform": mode,
        "sampling_ratio": 2,
    }
    (got,) = apply("PyramidROIAlign_TRT", [given, *maps], **settings)
    assert got.shape == (2, 9, 4, pooled, pooled)
    levels = set()
    for item, k in np.ndindex(2, 9):
        box = boxes[item, k]
        edge = np.sqrt(np.prod(box[2:] - box[:2] + int(normalized)))
        level = int(sum(edge >= least for least in (scale / 2, scale, scale * 2)))
        levels.add(level)
        features = maps[level][item]
        in_map = box * (features.shape[1] / image)
        close(got[item, k], aligned(features, in_map, pooled, 2, 0.5 if mode == 2 else 0.0), 1e-4)
    assert levels == {0, 1, 2, 3}
    wrong = net("PyramidROIAlign_TRT", [given, *maps], legacy=1)
    assert "is not supported" in wrong.fails()


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
