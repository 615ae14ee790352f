"""A selector that takes the tactic with the least workspace, and images with channels last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from buffers import Buffers

import lamina.tensorrt as trt


class LeastWorkspace(trt.IAlgorithmSelector):
    """Chooses one tactic for each node and prints what the engine got."""

    def __init__(self) -> None:
        trt.IAlgorithmSelector.__init__(self)

    def select_algorithms(
        self, context: trt.IAlgorithmContext, choices: Sequence[trt.IAlgorithm]
    ) -> list[int]:
        """Return the number of the tactic that needs the least scratch memory."""
        return [min(range(len(choices)), key=lambda i: choices[i].workspace_size)]

    def report_algorithms(
        self, contexts: Sequence[trt.IAlgorithmContext], choices: Sequence[trt.IAlgorithm]
    ) -> None:
        """Print the choice of each node."""
        for context, choice in zip(contexts, choices, strict=True):
            print(f"{context.name}: {choice.workspace_size} bytes of workspace")


def main() -> None:
    """Build a convolution whose input and output have channels last, and run it."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network()
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # full precision on GPUs too, for the comparison
    config.algorithm_selector = LeastWorkspace()
    x = network.add_input("x", trt.float32, (1, 32, 8, 8))
    rng = np.random.default_rng(0)
    w = rng.standard_normal((32, 32, 1, 1)).astype(np.float32)
    layer = network.add_convolution_nd(x, 32, (1, 1), w)
    layer.name = "conv"
    y = layer.get_output(0)
    y.name = "y"
    network.mark_output(y)
    x.allowed_formats = y.allowed_formats = 1 << int(trt.TensorFormat.HWC)
    plan = builder.build_serialized_network(network, config)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    print("x:", engine.get_tensor_format_desc("x"))
    context = engine.create_execution_context()
    print("strides:", context.get_tensor_strides("x"))
    image = rng.standard_normal((1, 8, 8, 32)).astype(np.float32)
    buffers = Buffers(context)
    result = buffers.run({"x": image.reshape(1, 32, 8, 8)})["y"].reshape(image.shape)
    np.testing.assert_allclose(result, image @ w[:, :, 0, 0].T, rtol=1e-3, atol=1e-3)
    buffers.free()


if __name__ == "__main__":
    main()
