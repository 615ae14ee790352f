"""Quantization layers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import lamina.tensorrt as trt
from tests.tensorrt.running import Net, close, random


def rounded(x: Any, scale: Any) -> Any:
    return np.rint(x / scale).clip(-128, 127)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_scales_for_all_for_channels_and_for_blocks(shape: tuple[int, ...]) -> None:
    net, x = Net(), random(8, 3) if len(shape) == 2 else random(4, 3, 5)
    scale = abs(random(*shape, seed=1)) * 0.01 + 0.01
    q = net.network.add_quantize(net.input("x", x), net.constant(scale))
    back = net.network.add_dequantize(q.get_output(0), net.constant(scale))
    if len(shape) == 1:
        q.axis = back.axis = 1
    assert q.get_output(0).dtype == trt.int8
    net.output(q.get_output(0), back.get_output(0))
    got = net.run(x=x)
    wide = {0: scale, 1: np.reshape(scale, (-1, 1) if shape else ()), 2: None}[len(shape)]
    wide = np.repeat(scale, 4, axis=0) if wide is None else wide
    np.testing.assert_array_equal(got[0], rounded(x, wide))
    close(got[1], rounded(x, wide) * wide)


def test_a_zero_point() -> None:
    net, x = Net(), random(4, 3)
    scale, zero = net.constant(np.float32(0.02)), net.constant(np.int8(5))
    q = net.network.add_quantize(net.input("x", x), scale)
    q.set_input(2, zero)
    net.output(q.get_output(0))
    np.testing.assert_array_equal(net.run(x=x), (np.rint(x / np.float32(0.02)) + 5).clip(-128, 127))


def test_eight_bit_floats() -> None:
    net, x = Net(), random(4, 3)
    scale = net.constant(np.float32(0.5))
    q = net.network.add_quantize(net.input("x", x), scale, trt.fp8)
    back = net.network.add_dequantize(q.get_output(0), scale, trt.float32)
    net.output(back.get_output(0))
    close(net.run(x=x), (x / 0.5).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.5)


@pytest.mark.parametrize("v2", [False, True])
def test_scales_computed_for_blocks(v2: bool) -> None:
    net, x = Net(), random(2, 32)
    tensor = net.input("x", x)
    if v2:
        layer = net.network.add_dynamic_quantize_v2(tensor, (1, 16), trt.fp8, trt.float32)
    else:
        layer = net.network.add_dynamic_quantize(tensor, 1, 16, trt.fp8, trt.float32)
    q, scale = layer.get_output(0), layer.get_output(1)
    assert scale.shape == (2, 2) and q.dtype == trt.fp8
    net.output(net.network.add_dequantize(q, scale).get_output(0), scale)
    back, scales = net.run(x=x)
    amax = np.abs(x.reshape(2, 2, 16)).max(2)
    close(scales, amax / 448, 1e-6)
    np.testing.assert_allclose(back, x, atol=float(amax.max()) / 15)


def test_powers_of_two_as_scales() -> None:
    net, x = Net(), random(1, 64)
    layer = net.network.add_dynamic_quantize(net.input("x", x), 1, 32, trt.fp8, trt.e8m0)
    real = net.network.add_cast(layer.get_output(1), trt.float32).get_output(0)
    net.output(real)
    amax = np.abs(x.reshape(2, 32)).max(1)
    got = net.run(x=x)
    np.testing.assert_array_equal(got[0], 2.0 ** np.ceil(np.log2(amax / 448)))
