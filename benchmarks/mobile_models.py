"""A MobileNet-v2-like network and a stack of LSTM layers, with seeded weights."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import onnx

from benchmarks.light_models import RECTIFIED_POWER, centred_filters
from benchmarks.network_writer import NetworkWriter

# Rows (expansion, channels, repeats, first stride) of table 2 in M. Sandler et al.,
# "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
MOBILENET_V2_ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# What a residual branch is multiplied by, so that ten sums in a row stay near unit variance.
RESIDUAL_DAMPING = 0.5


@dataclasses.dataclass(frozen=True)
class LstmShape:
    """Sizes of a stack of LSTM layers over ``sequence`` steps."""

    layers: int = 2
    inputs: int = 512
    hidden: int = 512
    sequence: int = 64


def mobilenet_v2(
    batch: int = 1,
    rows: tuple[tuple[int, int, int, int], ...] = MOBILENET_V2_ROWS,
    image: int = 224,
    seed: int = 0,
) -> onnx.ModelProto:
    """Return inverted residuals with separate batch norms and ReLU6 as Clip.

    Input ``image f32[batch, 3, image, image]``, output ``logits f32[batch, 1000]``.
    """
    w = NetworkWriter("mobilenet_v2", seed)
    x = w.input("image", (batch, 3, image, image))
    x, channels = _relu6(w, _conv_norm(w, x, 3, 32, 3, stride=2, power=1.0)), 32
    rectified = True
    for expansion, out, repeats, first_stride in rows:
        for index in range(repeats):
            stride = first_stride if index == 0 else 1
            x = _inverted_residual(w, x, channels, out, expansion, stride, rectified)
            channels, rectified = out, False
    x = _relu6(w, _conv_norm(w, x, channels, 1280, 1, power=1.0))
    x = w.emit("Flatten", w.emit("GlobalAveragePool", x), axis=1)
    weight = w.const(centred_filters(w.rng, (1000, 1280), RECTIFIED_POWER / 1280), "weight")
    return w.finish({"logits": w.emit("Gemm", x, weight, w.normal(1000, std=0.1), transB=1)})


def lstm(batch: int = 1, shape: LstmShape = LstmShape(), seed: int = 0) -> onnx.ModelProto:
    """Return stacked one-directional LSTM layers.

    Input ``x f32[sequence, batch, inputs]``, output ``y f32[sequence, batch, hidden]``.
    """
    w = NetworkWriter("lstm", seed)
    x = w.input("x", (shape.sequence, batch, shape.inputs))
    columns, rows = shape.inputs, 4 * shape.hidden
    for _ in range(shape.layers):
        x = w.emit(
            "LSTM",
            x,
            w.normal(1, rows, columns, std=1 / math.sqrt(columns)),
            w.normal(1, rows, shape.hidden, std=1 / math.sqrt(shape.hidden)),
            w.normal(1, 2 * rows, std=0.1, role="bias"),
            hidden_size=shape.hidden,
        )
        # Drop the axis of directions: [sequence, 1, batch, hidden].
        x = w.emit("Squeeze", x, w.ints(1))
        columns = shape.hidden
    return w.finish({"y": x})


def _inverted_residual(
    w: NetworkWriter, x: str, channels: int, out: int, expansion: int, stride: int, rectified: bool
) -> str:
    """Widen, filter each channel alone, and narrow without an activation."""
    wide, y = channels * expansion, x
    if expansion != 1:
        power = RECTIFIED_POWER if rectified else 1.0
        y = _relu6(w, _conv_norm(w, y, channels, wide, 1, power=power))
    y = _relu6(w, _conv_norm(w, y, wide, wide, 3, stride=stride, groups=wide))
    y = _conv_norm(w, y, wide, out, 1, damping=RESIDUAL_DAMPING if stride == 1 else 1.0)
    return w.emit("Add", x, y) if stride == 1 and channels == out else y


def _conv_norm(
    w: NetworkWriter,
    x: str,
    channels: int,
    out: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    power: float = RECTIFIED_POWER,
    damping: float = 1.0,
) -> str:
    inputs = channels // groups
    filters = centred_filters(w.rng, (out, inputs, size, size), power / (inputs * size * size))
    x = w.emit(
        "Conv",
        x,
        w.const(filters, "weight"),
        strides=[stride, stride],
        pads=[size // 2] * 4,
        group=groups,
        kernel_shape=[size, size],
    )
    scale = damping * (1 + 0.1 * w.rng.standard_normal(out))
    return w.emit(
        "BatchNormalization",
        x,
        w.const(scale.astype(np.float32), "scale"),
        w.normal(out, std=0.1, role="bias"),
        w.normal(out, std=0.1, role="mean"),
        w.uniform(out, low=0.8, high=1.25, role="variance"),
    )


def _relu6(w: NetworkWriter, x: str) -> str:
    return w.emit("Clip", x, w.scalar(0.0), w.scalar(6.0))
