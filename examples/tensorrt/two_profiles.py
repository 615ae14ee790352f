"""Dynamic shapes with two optimization profiles: single items, and large batches."""

from __future__ import annotations

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt


def main() -> None:
    """Build, then run with each profile; a shape outside of a profile is refused."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network()
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # full precision on GPUs too, for the comparison
    x = network.add_input("x", trt.float32, (-1, 16))
    rng = np.random.default_rng(0)
    w = rng.standard_normal((16, 4)).astype(np.float32)
    weights = network.add_constant((16, 4), w).get_output(0)
    none = trt.MatrixOperation.NONE
    y = network.add_matrix_multiply(x, none, weights, none).get_output(0)
    y.name = "y"
    network.mark_output(y)
    for low, opt, high in ((1, 1, 4), (32, 64, 128)):
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (low, 16), (opt, 16), (high, 16))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    for index, batch in ((0, 2), (1, 100)):
        assert context.set_optimization_profile_async(index, 0)
        low, _, high = engine.get_tensor_profile_shape("x", index)
        assert context.set_input_shape("x", (batch, 16))
        values = rng.standard_normal((batch, 16)).astype(np.float32)
        buffers = Buffers(context)
        result = buffers.run({"x": values})["y"]
        print(f"profile {index} allows {low} to {high}: {values.shape} -> {result.shape}")
        np.testing.assert_allclose(result, values @ w, rtol=1e-3, atol=1e-4)
        buffers.free()
    print("a batch of 2 in profile 1 is allowed:", context.set_input_shape("x", (2, 16)))


if __name__ == "__main__":
    main()
