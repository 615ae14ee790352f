"""A plugin made of two decorated functions: what its result is, and how it is computed."""

from __future__ import annotations

import numpy as np
from buffers import Buffers, has_gpu

import lamina.tensorrt as trt
import lamina.tensorrt.plugin as trtp


@trtp.register("example::soft_clip")
def soft_clip_description(x: trtp.TensorDesc, limit: float) -> trtp.TensorDesc:
    """Describe the result: as the operand."""
    return x.like()


@trtp.impl("example::soft_clip")
def soft_clip(x: trtp.Tensor, limit: float, outputs: tuple[trtp.Tensor, ...], stream: int) -> None:
    """Compute ``limit * tanh(x / limit)`` in place of the result."""
    factor = np.float32(limit)
    np.asarray(outputs[0])[...] = factor * np.tanh(np.asarray(x) / factor)


def main() -> None:
    """Build and run."""
    if has_gpu():
        print("engines run on a GPU here: this plugin computes in host memory")
        return
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network()
    x = network.add_input("x", trt.float32, (-1, 3))
    layer = network.add_plugin(trtp.op.example.soft_clip(x, limit=2.0))
    layer.get_output(0).name = "y"
    network.mark_output(layer.get_output(0))
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3), (2, 3), (8, 3))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    context = engine.create_execution_context()
    context.set_input_shape("x", (2, 3))
    buffers = Buffers(context)
    given = np.float32([[0, 1, 2], [4, 8, -16]])
    result = buffers.run({"x": given})["y"]
    print(result)
    np.testing.assert_allclose(result, 2 * np.tanh(given / 2), rtol=1e-6)
    buffers.free()


if __name__ == "__main__":
    main()
