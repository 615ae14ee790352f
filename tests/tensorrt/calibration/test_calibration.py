"""Calibrators: called as TensorRT calls them, caches, ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.tensorrt.calibration import cache
from lamina.tensorrt.calibration.histogram import Histogram
from tests.tensorrt.running import Net, close, random


def with_batches(base: Any, batches: list[Any], kept: bytes | None = None) -> Any:
    class Calibrator(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)
            self.left = list(batches)
            self.cache = kept
            self.names: list[str] = []

        def get_batch_size(self) -> int:
            return len(batches[0])

        def get_batch(self, names: list[str]) -> list[int] | None:
            self.names = names
            if not self.left:
                return None
            self.current = np.ascontiguousarray(self.left.pop(0))
            return [self.current.ctypes.data]

        def read_calibration_cache(self) -> bytes | None:
            return self.cache

        def write_calibration_cache(self, cache: Any) -> None:
            self.cache = bytes(cache)

    return Calibrator()


def network() -> tuple[Net, Any, Any]:
    net, w = Net(), random(8, 4, 3, 3, seed=1) * 0.2
    x = net.network.add_input("x", trt.float32, (2, 4, 8, 8))
    first = net.network.add_convolution_nd(x, 8, (3, 3), w)
    relu = net.network.add_activation(first.get_output(0), trt.ActivationType.RELU)
    second = net.network.add_convolution_nd(
        relu.get_output(0), 4, (3, 3), random(4, 8, 3, 3, seed=2) * 0.2
    )
    first.name, second.name = "first", "second"
    relu.get_output(0).name = "hidden"
    net.output(second.get_output(0))
    return net, x, w


BATCHES = [random(2, 4, 8, 8, seed=s) for s in (10, 11, 12)]


@pytest.mark.parametrize(
    "kind",
    [
        "IInt8EntropyCalibrator2",
        "IInt8EntropyCalibrator",
        "IInt8MinMaxCalibrator",
        "IInt8LegacyCalibrator",
    ],
)
def test_a_network_is_calibrated(kind: str) -> None:
    net, _, _ = network()
    x = random(2, 4, 8, 8)
    exact = net.run(x=x)
    calibrator = with_batches(getattr(trt, kind), BATCHES)
    net.config.set_flag(trt.BuilderFlag.INT8)
    net.config.int8_calibrator = calibrator
    rounded = net.run(x=x)
    noise = np.mean((rounded - exact) ** 2) / np.mean(exact**2)
    assert 0 < noise < 0.01
    assert calibrator.names == ["x"] and calibrator.left == []
    head, *rows = calibrator.cache.decode().splitlines()
    assert head.startswith("TRT-101601-") and {r.split(":")[0] for r in rows} >= {"x", "hidden"}
    again = with_batches(getattr(trt, kind), [], calibrator.cache)
    net.config.int8_calibrator = again
    close(net.run(x=x), rounded)


def test_the_range_of_the_minimum_and_maximum() -> None:
    net, _, _ = network()
    calibrator = with_batches(trt.IInt8MinMaxCalibrator, BATCHES)
    net.config.set_flag(trt.BuilderFlag.INT8)
    net.config.int8_calibrator = calibrator
    net.build()
    ranges = cache.read(calibrator.cache, "MINMAX_CALIBRATION")
    assert ranges is not None
    assert ranges["x"] == pytest.approx(np.abs(BATCHES).max(), rel=1e-6)
    assert ranges["hidden"] > 0


def test_a_cache_of_another_algorithm_is_measured_again() -> None:
    net, _, _ = network()
    old = cache.write({"x": 1.0}, "MINMAX_CALIBRATION", "8.6.1")
    assert old.startswith(b"TRT-8601-MinMaxCalibration\nx: 3c0102")
    calibrator = with_batches(trt.IInt8EntropyCalibrator2, BATCHES, old)
    net.config.set_flag(trt.BuilderFlag.INT8)
    net.config.int8_calibrator = calibrator
    net.build()
    assert calibrator.left == [] and b"EntropyCalibration2" in calibrator.cache
    assert cache.read(b"rubbish", "MINMAX_CALIBRATION") is None
    assert cache.read(old + b"broken", "MINMAX_CALIBRATION") is None


def test_dynamic_shapes_take_the_calibration_profile() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (-1, 16))
    w = net.constant(random(16, 4))
    none = trt.MatrixOperation.NONE
    net.output(net.network.add_matrix_multiply(x, none, w, none).get_output(0))
    net.profile(x=((1, 16), (8, 16), (32, 16)))
    net.config.set_flag(trt.BuilderFlag.INT8)
    net.config.int8_calibrator = with_batches(trt.IInt8MinMaxCalibrator, [random(4, 16)])
    profile = net.builder.create_optimization_profile()
    profile.set_shape("x", (4, 16), (4, 16), (4, 16))
    assert net.config.set_calibration_profile(profile)
    assert net.config.get_calibration_profile() is profile
    y = random(4, 16)
    np.testing.assert_allclose(net.run(x=y), y @ random(16, 4), atol=0.3)


def test_what_a_calibrator_raises_is_told() -> None:
    net, _, _ = network()

    class Broken(trt.IInt8MinMaxCalibrator):
        def get_batch(self, names: list[str]) -> Any:
            raise OSError("the disk is gone")

    net.config.set_flag(trt.BuilderFlag.INT8)
    net.config.int8_calibrator = Broken()
    assert "failed in get_batch: OSError: the disk is gone" in net.fails()
    net.config.int8_calibrator = with_batches(trt.IInt8MinMaxCalibrator, [])
    net.config.int8_calibrator.get_batch_size = lambda: 1
    assert "gave no batch" in net.fails()


def test_outliers_do_not_widen_the_range_of_least_information_loss() -> None:
    histogram = Histogram()
    x = random(20000)
    histogram.add(x[:10000])
    histogram.add(np.append(x[10000:], np.float32(100)))
    assert histogram.range("MINMAX_CALIBRATION") == 100
    assert 2 < histogram.range("ENTROPY_CALIBRATION_2") < 30
    assert 3 < histogram.range("LEGACY_CALIBRATION") < 6
    assert histogram.counts.sum() == 20001


def test_nothing_but_zeros_has_no_range() -> None:
    histogram = Histogram()
    histogram.add(np.zeros(5, np.float32))
    assert histogram.range("ENTROPY_CALIBRATION_2") == 0
