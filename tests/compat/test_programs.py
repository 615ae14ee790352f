"""Programs as TensorRT's users write them: one source for versions 8 and 10."""

from __future__ import annotations

import pytest

from tests.compat.conftest import Program

SETUP = """
import json
import numpy as np
import onnx
import pycuda.autoinit
import pycuda.driver as cuda
import tensorrt as trt

logger = trt.Logger(trt.Logger.WARNING)
is_10 = int(trt.__version__.split(".")[0]) >= 10
flag = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
rng = np.random.default_rng(0)
w, b = (rng.standard_normal(s).astype(np.float32) for s in ((6, 12), (6,)))
model = onnx.parser.parse_model('''
<ir_version: 8, opset_import: ["" : 13]>
net (float[batch, 3, 2, 2] images) => (float[batch, 6] logits) {
    rectified = Relu(images)
    flat = Flatten(rectified)
    logits = Gemm<transB = 1>(flat, w, b)
}''')
model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in (("w", w), ("b", b)))
builder = trt.Builder(logger)
network = builder.create_network(flag)
parser = trt.OnnxParser(network, logger)
assert parser.parse(model.SerializeToString()), parser.get_error(0)
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("images", (1, 3, 2, 2), (2, 3, 2, 2), (4, 3, 2, 2))
config.add_optimization_profile(profile)
x = rng.standard_normal((3, 3, 2, 2)).astype(np.float32)
expected = np.maximum(x, 0).reshape(3, 12) @ w.T + b
"""


@pytest.mark.parametrize("version", ["8.6", "10.16"])
def test_metadata_may_stand_in_front_of_an_engine(program: Program, version: str) -> None:
    text = """
with open("net.engine", "wb") as f:
    about = json.dumps({"names": {0: "a"}}).encode()
    f.write(len(about).to_bytes(4, "little", signed=True))
    f.write(about)
    if is_10:
        f.write(builder.build_serialized_network(network, config))
    else:
        f.write(builder.build_engine(network, config).serialize())
with open("net.engine", "rb") as f, trt.Runtime(logger) as runtime:
    size = int.from_bytes(f.read(4), "little")
    assert json.loads(f.read(size))["names"] == {"0": "a"}
    engine = runtime.deserialize_cuda_engine(f.read())
context = engine.create_execution_context()
memory = {}
for i in range(engine.num_io_tensors if is_10 else engine.num_bindings):
    if is_10:
        name = engine.get_tensor_name(i)
        dtype = trt.nptype(engine.get_tensor_dtype(name))
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            assert context.set_input_shape(name, x.shape)
        shape = context.get_tensor_shape(name)
    else:
        name, dtype = engine.get_binding_name(i), trt.nptype(engine.get_binding_dtype(i))
        if engine.binding_is_input(i):
            assert context.set_binding_shape(i, x.shape)
        shape = context.get_binding_shape(i)
    host = cuda.pagelocked_empty(trt.volume(shape), dtype)
    memory[name] = host, cuda.mem_alloc(host.nbytes)
stream = cuda.Stream()
np.copyto(memory["images"][0], x.ravel())
cuda.memcpy_htod_async(memory["images"][1], memory["images"][0], stream)
addresses = [int(device) for _, device in memory.values()]
if is_10:
    for name, address in zip(memory, addresses):
        context.set_tensor_address(name, address)
    assert context.execute_async_v3(stream_handle=stream.handle)
else:
    assert context.execute_async_v2(bindings=addresses, stream_handle=stream.handle)
cuda.memcpy_dtoh_async(*memory["logits"], stream)
stream.synchronize()
np.testing.assert_allclose(memory["logits"][0].reshape(3, 6), expected, 1e-4, 1e-4)
"""
    program(SETUP + text, LAMINA_TENSORRT_VERSION=version)


@pytest.mark.parametrize("version", ["8.6", "10.16"])
def test_a_parsed_network_gets_another_end(program: Program, version: str) -> None:
    text = """
logits = network.get_output(0)
network.unmark_output(logits)
softmax = network.add_softmax(logits)
softmax.axes = 1 << 1
first = network.add_slice(softmax.get_output(0), (0, 0), (1, 6), (1, 1))
best = network.add_topk(softmax.get_output(0), trt.TopKOperation.MAX, 2, 1 << 1)
tensors = [best.get_output(0), best.get_output(1), first.get_output(0)]
for tensor, name in zip(tensors, ("values", "indices", "first")):
    tensor.name = name
    network.mark_output(tensor)
for layer in network:
    if layer.type == trt.LayerType.ACTIVATION:
        layer.__class__ = trt.IActivationLayer
        assert layer.type == trt.ActivationType.RELU
engine = trt.Runtime(logger).deserialize_cuda_engine(
    builder.build_serialized_network(network, config)
)
context = engine.create_execution_context()
context.set_input_shape("images", x.shape)
arrays = {"images": x}
for name in list(engine)[1:]:
    kind = trt.nptype(engine.get_tensor_dtype(name))
    arrays[name] = np.empty(tuple(context.get_tensor_shape(name)), kind)
for name, array in arrays.items():
    assert context.set_tensor_address(name, array.ctypes.data)
assert context.execute_async_v3(0)
order = np.argsort(-expected, axis=1)[:, :2]
shares = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
np.testing.assert_array_equal(arrays["indices"], order)
np.testing.assert_allclose(arrays["values"], np.take_along_axis(shares, order, 1), 1e-4)
np.testing.assert_allclose(arrays["first"], shares[:1], 1e-4)
"""
    program(SETUP + text, LAMINA_TENSORRT_VERSION=version)
