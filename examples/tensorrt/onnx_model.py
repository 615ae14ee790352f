"""An ONNX model: parse, build, save, load, run with a dynamic batch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from buffers import Buffers
from onnx import TensorProto, helper, numpy_helper

import lamina.tensorrt as trt


def model() -> onnx.ModelProto:
    """Return two matrices with a rectifier between them."""
    rng = np.random.default_rng(0)
    sizes = {"w1": (8, 32), "b1": (32,), "w2": (32, 4), "b2": (4,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in sizes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def main() -> None:
    """Do all of it."""
    logger = trt.Logger(trt.Logger.WARNING)
    proto = model()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "model.onnx", Path(folder) / "model.engine"
        onnx.save(proto, source)
        builder = trt.Builder(logger)
        network = builder.create_network()
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(source)):
            raise SystemExit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # full precision on GPUs too, for the comparison
        profile = builder.create_optimization_profile()
        profile.set_shape("x", (1, 8), (4, 8), (16, 8))
        config.add_optimization_profile(profile)
        target.write_bytes(builder.build_serialized_network(network, config))
        engine = trt.Runtime(logger).deserialize_cuda_engine(target.read_bytes())
    context = engine.create_execution_context()
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    assert context.set_input_shape("x", x.shape)
    buffers = Buffers(context)
    y = buffers.run({"x": x})["y"]
    w1, b1, w2, b2 = (numpy_helper.to_array(t) for t in proto.graph.initializer)
    wanted = np.maximum(x @ w1 + b1, 0) @ w2 + b2
    print(f"{x.shape} -> {y.shape}, largest difference from NumPy {np.abs(y - wanted).max():.1e}")
    np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-3)
    buffers.free()


if __name__ == "__main__":
    main()
