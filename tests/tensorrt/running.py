"""Builds small networks and runs them through Lamina's own engine."""

from __future__ import annotations

from typing import Any

import numpy as np

import lamina
import lamina.tensorrt as trt
from lamina.tensorrt import platform


class Messages(trt.ILogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[tuple[str, str]] = []

    def log(self, severity: Any, msg: str) -> None:
        self.lines.append((severity.name, msg))

    @property
    def errors(self) -> list[str]:
        return [m for s, m in self.lines if s in ("ERROR", "INTERNAL_ERROR")]


class Net:
    """A network under construction, with its builder and configuration."""

    def __init__(self, flags: int = 0) -> None:
        self.logger = Messages()
        self.builder = trt.Builder(self.logger)
        self.network = self.builder.create_network(flags)
        self.config = self.builder.create_builder_config()
        self.config.builder_optimization_level = 0
        self.config.clear_flag(trt.BuilderFlag.TF32)

    def input(self, name: str, array: Any, shape: Any = None) -> Any:
        dtype = trt.DataType.named(_TYPES[np.asarray(array).dtype.name])
        return self.network.add_input(name, dtype, np.shape(array) if shape is None else shape)

    def constant(self, array: Any) -> Any:
        array = np.asarray(array, order="C")
        return self.network.add_constant(np.shape(array), array.reshape(-1)).get_output(0)

    def output(self, *tensors: Any) -> None:
        for i, tensor in enumerate(tensors):
            tensor.name = f"y{i}"
            self.network.mark_output(tensor)

    def profile(self, **shapes: Any) -> Any:
        profile = self.builder.create_optimization_profile()
        for name, (low, opt, high) in shapes.items():
            profile.set_shape(name, low, opt, high)
        self.config.add_optimization_profile(profile)
        return profile

    def build(self) -> lamina.Engine:
        data = self.builder.build_serialized_network(self.network, self.config)
        assert data is not None, "\n".join(self.logger.errors)
        return lamina.load(bytes(data), device=platform.device())

    def run(self, **inputs: Any) -> Any:
        results = list(self.build().run(inputs).values())
        return results[0] if len(results) == 1 else results

    def fails(self) -> str:
        assert self.builder.build_serialized_network(self.network, self.config) is None
        return self.logger.errors[-1]


_TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int32": "INT32",
    "int64": "INT64",
    "int8": "INT8",
    "bool": "BOOL",
    "uint8": "UINT8",
}


def random(*shape: int, seed: int = 0) -> Any:
    """Return normal numbers in f32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare shape and values; the tolerance is absolute and relative."""
    assert got.shape == np.shape(wanted)
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
