"""Standard plugins that move, sample or convolve mean what their NumPy forms say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tensorrt.plugins.applying import apply, net
from tests.tensorrt.running import close, random

X = random(2, 8, 4, 6)


def test_split() -> None:
    parts = apply("Split", [X], axis=1, output_lengths=[3, 4, 1])
    for got, wanted in zip(parts, np.split(X, [3, 7], 1), strict=True):
        assert (got == wanted).all()


def test_reorg() -> None:
    (got,) = apply("Reorg_TRT", [X], "2", stride=2)
    n, c, h, w = X.shape
    flat = np.empty(X.size, np.float32)
    for out in range(X.size):  # darknet's loop over outputs
        i, column = divmod(out, w)
        i, row = divmod(i, h)
        item, channel = divmod(i, c)
        offset, inner = divmod(channel, c // 4)
        y, x = row * 2 + offset // 2, column * 2 + offset % 2
        flat[out] = X.reshape(-1)[x + 2 * w * (y + 2 * h * (inner + c // 4 * item))]
    assert (got == flat.reshape(n, c * 4, h // 2, w // 2)).all()
    assert "cannot be reorganized by 3" in net("Reorg_TRT", [X], stride=3).fails()


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scattered_elements(reduction: str) -> None:
    rng = np.random.default_rng(0)
    data, updates = random(3, 5), random(3, 4, seed=1)
    places = np.stack([rng.permutation(5)[:4] for _ in range(3)]).astype(np.int64)
    (got,) = apply("ScatterElements", [data, places, updates], axis=1, reduction=reduction)
    wanted = data.copy()
    for i, j in np.ndindex(3, 4):
        old, new = wanted[i, places[i, j]], updates[i, j]
        join = {"none": new, "add": old + new, "max": max(old, new)}
        wanted[i, places[i, j]] = join[reduction]
    close(got, wanted, 1e-6)
    made = net("ScatterElements", [data, places, updates], axis=1, reduction="mean")
    assert "cannot reduce by 'mean'" in made.fails()


def test_nearest_and_tiles() -> None:
    (got,) = apply("ResizeNearest_TRT", [X], scale=2.0)
    assert (got == X.repeat(2, 2).repeat(2, 3)).all()
    (got,) = apply("BatchTilePlugin_TRT", [np.zeros((3, 1), np.float32), X[:1]])
    assert (got == np.tile(X[:1], (3, 1, 1, 1))).all()


@pytest.mark.parametrize("crop", [(3, 4), (1, 1)])
def test_crop_and_resize(crop: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    low, size = rng.uniform(-0.1, 0.6, (2, 5, 2)), rng.uniform(0.1, 0.6, (2, 5, 2))
    regions = np.concatenate([low, low + size], -1).astype(np.float32)
    (got,) = apply(
        "CropAndResizeDynamic",
        [X, regions[..., None]],
        crop_height=crop[0],
        crop_width=crop[1],
    )
    wanted = np.zeros((2, 5, 8, *crop))
    for item, box, i, j in np.ndindex(2, 5, *crop):
        y1, x1, y2, x2 = regions[item, box].astype(np.float64)
        y = _place(y1, y2, i, crop[0]) * (X.shape[2] - 1)
        x = _place(x1, x2, j, crop[1]) * (X.shape[3] - 1)
        if 0 <= y <= X.shape[2] - 1 and 0 <= x <= X.shape[3] - 1:
            top, left = int(np.floor(y)), int(np.floor(x))
            bottom, right = int(np.ceil(y)), int(np.ceil(x))
            a, b = y - top, x - left
            rows = [X[item, :, r, left] * (1 - b) + X[item, :, r, right] * b for r in (top, bottom)]
            wanted[item, box, :, i, j] = rows[0] * (1 - a) + rows[1] * a
    close(got, wanted, 1e-5)


def _place(low: float, high: float, i: int, count: int) -> float:
    return low + (high - low) * i / (count - 1) if count > 1 else (low + high) / 2


@pytest.mark.parametrize("bias", [False, True])
def test_modulated_deformable_convolution(bias: bool) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 4, 6, 7)).astype(np.float32)
    weight = rng.standard_normal((3, 4, 3, 3)).astype(np.float32)
    high, wide = 3, 4
    offset = rng.uniform(-1.5, 1.5, (2, 2 * 2 * 9, high, wide)).astype(np.float32)
    mask = rng.uniform(0, 1, (2, 2 * 9, high, wide)).astype(np.float32)
    inputs: list[Any] = [x, offset, mask, weight]
    add = rng.standard_normal(3).astype(np.float32)
    if bias:
        inputs.append(add)
    (got,) = apply(
        "ModulatedDeformConv2d",
        inputs,
        stride=[2, 2],
        padding=[1, 1],
        dilation=[1, 1],
        group=1,
        deformable_group=2,
    )
    wanted = np.zeros((2, 3, high, wide))
    for n, o, i, j in np.ndindex(*wanted.shape):
        total = add[o] if bias else 0.0
        for c, u, v in np.ndindex(4, 3, 3):
            group, tap = c // 2, u * 3 + v
            base = group * 18 + 2 * tap
            y = 2 * i - 1 + u + offset[n, base, i, j]
            z = 2 * j - 1 + v + offset[n, base + 1, i, j]
            weighted = weight[o, c, u, v] * mask[n, group * 9 + tap, i, j]
            total += weighted * _bilinear(x[n, c], float(y), float(z))
        wanted[n, o, i, j] = total
    close(got, wanted, 1e-4)


def _bilinear(image: Any, y: float, x: float) -> float:
    top, left = int(np.floor(y)), int(np.floor(x))
    total = 0.0
    for row, a in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, b in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += a * b * float(image[row, column])
    return total
