"""Other weights for an engine that exists, without building it again.

Run it with the distribution in compat/tensorrt, or with ``import lamina.tensorrt as trt``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorrt as trt
from buffers import Buffers


def weights(seed: int) -> dict[str, Any]:
    """Return a kernel and a bias."""
    rng = np.random.default_rng(seed)
    return {
        "KERNEL": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "BIAS": rng.standard_normal(8).astype(np.float32),
    }


def build(logger: trt.ILogger, w: dict[str, Any]) -> Any:
    """Return a refittable engine of a convolution and a rectifier, which are fused."""
    builder = trt.Builder(logger)
    network = builder.create_network()
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    config.clear_flag(trt.BuilderFlag.TF32)  # full precision on GPUs too, for the comparison
    x = network.add_input("x", trt.float32, (2, 3, 16, 16))
    layer = network.add_convolution_nd(x, 8, (3, 3), w["KERNEL"], w["BIAS"])
    layer.name = "conv"
    y = network.add_activation(layer.get_output(0), trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)
    plan = builder.build_serialized_network(network, config)
    return trt.Runtime(logger).deserialize_cuda_engine(plan)


def in_numpy(x: Any, w: dict[str, Any]) -> Any:
    """Return what the network means."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    y = np.einsum("nchwij,mcij->nmhw", windows, w["KERNEL"]) + w["BIAS"][:, None, None]
    return np.maximum(y, 0)


def main() -> None:
    """Run with the first weights and, in the same context, with others."""
    logger = trt.Logger(trt.Logger.ERROR)
    engine = build(logger, weights(1))
    refitter = trt.Refitter(engine, logger)
    layers, roles = refitter.get_all()
    print("refittable:", ", ".join(f"{n} {r}" for n, r in zip(layers, roles, strict=True)))
    buffers = Buffers(engine.create_execution_context())
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    for seed in (1, 2):
        w = weights(seed)
        for role, array in w.items():
            assert refitter.set_weights("conv", trt.WeightsRole.__members__[role], array)
        assert refitter.get_missing_weights() == [] and refitter.refit_cuda_engine()
        difference = np.abs(buffers.run({"x": x})["y"] - in_numpy(x, w)).max()
        print(f"weights {seed}: largest difference from NumPy {difference:.1e}")
        assert difference < 1e-2
    wrong = refitter.set_weights("conv", trt.WeightsRole.KERNEL, np.zeros(3, np.float32))
    print("three weights for the kernel are taken:", wrong)
    buffers.free()


if __name__ == "__main__":
    main()
