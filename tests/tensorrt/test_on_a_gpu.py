"""TensorRT's API on a GPU: memory, streams and graphs of CUDA's own, torch's and CuPy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.tensorrt import platform
from tests.tensorrt.running import Messages

pytestmark = pytest.mark.gpu
SHAPE = (4, 8, 16, 16)
X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
KERNEL = np.random.default_rng(1).standard_normal((8, 8, 3, 3)).astype(np.float32) / 8
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
"""Sums of 72 products in f32: 72 ulp of numbers around one."""


@pytest.fixture(scope="module")
def cuda() -> Iterator[Any]:
    if platform.device() != "cuda":
        pytest.skip("there is no GPU")
    from cuda.bindings import runtime

    yield runtime


def good(result: Any) -> Any:
    """Return the results of a call of CUDA, which must succeed."""
    error, *values = result
    assert int(error) == 0, error
    return values[0] if values else None


class Memory:
    """Device memory with a copy of an array."""

    def __init__(self, cuda: Any, array: np.ndarray) -> None:
        self.cuda, self.like = cuda, array
        self.address = int(good(cuda.cudaMalloc(max(array.nbytes, 1))))
        self.set(array)

    def set(self, array: np.ndarray) -> None:
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        good(self.cuda.cudaMemcpy(self.address, array.ctypes.data, array.nbytes, kind))

    def get(self) -> np.ndarray:
        found = np.empty_like(self.like)
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        good(self.cuda.cudaMemcpy(found.ctypes.data, self.address, found.nbytes, kind))
        return found


def convolution(x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    sums = np.einsum("nchwij,mcij->nmhw", windows, KERNEL, optimize=True)
    return np.ascontiguousarray(np.maximum(sums, 0))


def built(
    populate: Any, shapes: Any = None, *, flags: Any = (), weights: Any = None
) -> tuple[trt.ICudaEngine, Messages]:
    """Build, serialize and load an engine; ``shapes`` are the profile of input "x"."""
    logger = Messages()
    builder = trt.Builder(logger)
    network = builder.create_network()
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    for flag in flags:
        config.set_flag(flag)
    populate(network)
    if shapes:
        profile = builder.create_optimization_profile()
        profile.set_shape("x", *shapes)
        config.add_optimization_profile(profile)
    data = builder.build_serialized_network(network, config)
    assert data is not None, logger.errors
    engine = trt.Runtime(logger).deserialize_cuda_engine(data)
    assert engine is not None, logger.errors
    return engine, logger


def populate(network: trt.INetworkDefinition, shape: Any = SHAPE) -> None:
    x = network.add_input("x", trt.float32, shape)
    conv = network.add_convolution_nd(x, 8, (3, 3), KERNEL)
    y = network.add_activation(conv.get_output(0), trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)


def dynamic(network: trt.INetworkDefinition) -> None:
    populate(network, (-1, *SHAPE[1:]))


@pytest.fixture(scope="module")
def static(cuda: Any) -> tuple[trt.ICudaEngine, Messages]:
    return built(populate)


def addressed(engine: trt.ICudaEngine, x: Memory, y: Memory) -> trt.IExecutionContext:
    context = engine.create_execution_context()
    assert context.set_tensor_address("x", x.address) and context.set_tensor_address("y", y.address)
    return context


def test_streams_of_cuda(cuda: Any, static: Any) -> None:
    engine, logger = static
    wanted = convolution(X)
    x, y = Memory(cuda, X), Memory(cuda, np.zeros_like(wanted))
    context = addressed(engine, x, y)
    streams = [0, good(cuda.cudaStreamCreate())]
    streams.append(good(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)))
    for stream in streams:
        for factor in (1, 2, 3):
            x.set(X * np.float32(factor))
            y.set(np.zeros_like(wanted))
            good(cuda.cudaDeviceSynchronize())  # a stream may not wait for the default stream
            assert context.execute_async_v3(int(stream)), logger.errors
            good(cuda.cudaStreamSynchronize(stream))
            np.testing.assert_allclose(y.get(), wanted * factor, **TOLERANCE)
    assert context.execute_v2([x.address, y.address])
    np.testing.assert_allclose(y.get(), wanted * 3, **TOLERANCE)


def test_contexts_on_streams_side_by_side(cuda: Any, static: Any) -> None:
    engine, _ = static
    wanted = convolution(X)
    parts = []
    for number in range(1, 5):
        x = Memory(cuda, X * np.float32(number))
        y = Memory(cuda, np.zeros_like(wanted))
        parts.append((addressed(engine, x, y), good(cuda.cudaStreamCreate()), x, y))
    for _ in range(20):
        for context, stream, _, _ in parts:
            assert context.execute_async_v3(int(stream))
    good(cuda.cudaDeviceSynchronize())
    for number, (_, _, _, y) in enumerate(parts, 1):
        np.testing.assert_allclose(y.get(), wanted * number, rtol=1e-4, atol=4e-4)


@pytest.mark.parametrize("warm_runs", [1, 2, 3])
def test_a_graph_of_the_programs_own(cuda: Any, static: Any, warm_runs: int) -> None:
    engine, logger = static
    wanted = convolution(X)
    x, y = Memory(cuda, X), Memory(cuda, np.zeros_like(wanted))
    context = addressed(engine, x, y)
    stream = good(cuda.cudaStreamCreate())
    for _ in range(warm_runs):
        assert context.execute_async_v3(int(stream))
    good(cuda.cudaStreamSynchronize(stream))
    modes = cuda.cudaStreamCaptureMode
    good(cuda.cudaStreamBeginCapture(stream, modes.cudaStreamCaptureModeGlobal))
    assert context.execute_async_v3(int(stream)), logger.errors
    graph = good(cuda.cudaStreamEndCapture(stream))
    executable = good(cuda.cudaGraphInstantiate(graph, 0))
    for factor in (5, 6):
        x.set(X * np.float32(factor))
        good(cuda.cudaDeviceSynchronize())
        good(cuda.cudaGraphLaunch(executable, stream))
        good(cuda.cudaStreamSynchronize(stream))
        np.testing.assert_allclose(y.get(), wanted * factor, rtol=1e-4, atol=1e-3)
    assert context.execute_async_v3(int(stream)) and context.execute_async_v3(0)


def test_a_graph_cannot_be_recorded_before_a_run(cuda: Any, static: Any) -> None:
    engine, logger = static
    x, y = Memory(cuda, X), Memory(cuda, convolution(X))
    context = addressed(engine, x, y)
    stream = good(cuda.cudaStreamCreate())
    modes = cuda.cudaStreamCaptureMode
    good(cuda.cudaStreamBeginCapture(stream, modes.cudaStreamCaptureModeGlobal))
    assert not context.execute_async_v3(int(stream))
    good(cuda.cudaStreamEndCapture(stream))
    assert "have not run yet" in logger.errors[-1]
    assert context.execute_async_v3(int(stream))
    good(cuda.cudaStreamSynchronize(stream))


def test_tensors_and_graphs_of_torch(cuda: Any, static: Any) -> None:
    torch = pytest.importorskip("torch")
    engine, logger = static
    wanted = torch.relu(torch.nn.functional.conv2d(torch.tensor(X), torch.tensor(KERNEL))).numpy()
    x, y = torch.tensor(X, device="cuda"), torch.zeros(wanted.shape, device="cuda")
    context = engine.create_execution_context()
    context.set_tensor_address("x", x.data_ptr())
    context.set_tensor_address("y", y.data_ptr())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            x.copy_(torch.tensor(X))
            assert context.execute_async_v3(stream.cuda_stream), logger.errors
            doubled = y * 2
    stream.synchronize()
    np.testing.assert_allclose(doubled.cpu().numpy(), 2 * wanted, **TOLERANCE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream), logger.errors
    x.copy_(torch.tensor(-X))
    graph.replay()
    torch.cuda.synchronize()
    np.testing.assert_allclose(y.cpu().numpy(), convolution(-X), **TOLERANCE)


def test_arrays_of_cupy(cuda: Any, static: Any) -> None:
    cupy = pytest.importorskip("cupy")
    engine, logger = static
    wanted = convolution(X)
    x, y = cupy.asarray(X), cupy.zeros(wanted.shape, cupy.float32)
    context = engine.create_execution_context()
    context.set_tensor_address("x", x.data.ptr)
    context.set_tensor_address("y", y.data.ptr)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    assert context.execute_async_v3(stream.ptr), logger.errors
    stream.synchronize()
    np.testing.assert_allclose(cupy.asnumpy(y), wanted, **TOLERANCE)


class Output(trt.IOutputAllocator):
    """Gives memory of the size that is asked for."""

    def __init__(self, cuda: Any) -> None:
        trt.IOutputAllocator.__init__(self)
        self.cuda, self.shape, self.streams = cuda, (), []
        self.address = 0

    def reallocate_output_async(
        self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
    ) -> int:
        self.streams.append(stream)
        self.address = int(good(self.cuda.cudaMalloc(max(size, 1))))
        return self.address

    def notify_shape(self, tensor_name: str, shape: Any) -> None:
        self.shape = tuple(shape)


def find(network: trt.INetworkDefinition) -> None:
    x = network.add_input("x", trt.float32, (-1, 32))
    found = network.add_non_zero(x).get_output(0)
    found.name = "found"
    network.mark_output(found)


def test_sizes_that_data_decides(cuda: Any) -> None:
    engine, logger = built(find, ((1, 32), (8, 32), (64, 32)))
    context, output = engine.create_execution_context(), Output(cuda)
    assert context.set_output_allocator("found", output)
    stream = int(good(cuda.cudaStreamCreate()))
    for rows in (8, 64, 3):
        data = (np.random.default_rng(rows).random((rows, 32)) > 0.5).astype(np.float32)
        x = Memory(cuda, data)
        assert context.set_input_shape("x", data.shape)
        context.set_tensor_address("x", x.address)
        assert context.execute_async_v3(stream), logger.errors
        good(cuda.cudaStreamSynchronize(stream))
        wanted = np.array(np.nonzero(data))
        assert output.shape == wanted.shape and output.streams[-1] == stream
        found = np.empty(wanted.shape, trt.nptype(engine.get_tensor_dtype("found")))
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        good(cuda.cudaMemcpy(found.ctypes.data, output.address, found.nbytes, kind))
        np.testing.assert_array_equal(found, wanted)


def test_profiles_and_shapes(cuda: Any) -> None:
    engine, logger = built(dynamic, ((1, *SHAPE[1:]), SHAPE, (16, *SHAPE[1:])))
    context = engine.create_execution_context()
    for batch in (4, 1, 16, 7, 4):
        data = np.random.default_rng(batch).standard_normal((batch, *SHAPE[1:]), np.float32)
        wanted = convolution(data)
        x, y = Memory(cuda, data), Memory(cuda, np.zeros_like(wanted))
        assert context.set_input_shape("x", data.shape)
        context.set_tensor_address("x", x.address), context.set_tensor_address("y", y.address)
        assert tuple(context.get_tensor_shape("y")) == wanted.shape
        assert context.execute_async_v3(0), logger.errors
        np.testing.assert_allclose(y.get(), wanted, **TOLERANCE)
    assert not context.set_input_shape("x", (17, *SHAPE[1:]))
    assert "does not satisfy optimization profile 0" in logger.errors[-1]


class Allocator(trt.IGpuAsyncAllocator):
    """Passes requests on and knows what is out."""

    def __init__(self, cuda: Any) -> None:
        trt.IGpuAsyncAllocator.__init__(self)
        self.cuda, self.out, self.most = cuda, dict[int, int](), 0

    def allocate_async(self, size: int, alignment: int, flags: int, stream: int) -> int:
        address = int(good(self.cuda.cudaMallocAsync(size, stream)))
        self.out[address] = size
        self.most = max(self.most, sum(self.out.values()))
        return address

    def deallocate_async(self, memory: int, stream: int) -> bool:
        del self.out[memory]
        good(self.cuda.cudaFreeAsync(memory, stream))
        return True


def test_an_allocator_gives_all_memory(cuda: Any, static: Any) -> None:
    logger, allocator = Messages(), Allocator(cuda)
    runtime = trt.Runtime(logger)
    runtime.gpu_allocator = allocator
    engine = runtime.deserialize_cuda_engine(static[0].serialize())
    assert engine is not None and allocator.most >= KERNEL.nbytes
    x, y = Memory(cuda, X), Memory(cuda, convolution(X))
    context = addressed(engine, x, y)
    assert context.execute_v2([x.address, y.address]), logger.errors
    np.testing.assert_allclose(y.get(), convolution(X), **TOLERANCE)
    del context, engine
    assert not allocator.out


class Shown(trt.IDebugListener):
    """Copies what it is shown."""

    def __init__(self, cuda: Any) -> None:
        trt.IDebugListener.__init__(self)
        self.cuda, self.seen = cuda, dict[str, np.ndarray]()

    def process_debug_tensor(
        self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int
    ) -> bool:
        assert location == trt.TensorLocation.DEVICE
        good(self.cuda.cudaStreamSynchronize(stream))
        array = np.empty(tuple(shape), trt.nptype(type))
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        good(self.cuda.cudaMemcpy(array.ctypes.data, addr, array.nbytes, kind))
        self.seen[name] = array
        return True


def debugged(network: trt.INetworkDefinition) -> None:
    x = network.add_input("x", trt.float32, SHAPE)
    conv = network.add_convolution_nd(x, 8, (3, 3), KERNEL).get_output(0)
    conv.name = "conv"
    assert network.mark_debug(conv)
    y = network.add_activation(conv, trt.ActivationType.RELU).get_output(0)
    y.name = "y"
    network.mark_output(y)


def test_debug_tensors_and_times_of_layers(cuda: Any) -> None:
    engine, logger = built(debugged)
    wanted = convolution(X)
    x, y = Memory(cuda, X), Memory(cuda, np.zeros_like(wanted))
    context, listener = addressed(engine, x, y), Shown(cuda)
    assert context.set_debug_listener(listener) and context.set_all_tensors_debug_state(True)
    stream = int(good(cuda.cudaStreamCreate()))
    for _ in range(3):
        assert context.execute_async_v3(stream), logger.errors
    np.testing.assert_allclose(np.maximum(listener.seen["conv"], 0), wanted, **TOLERANCE)
    assert listener.seen["conv"].min() < 0
    times: dict[str, float] = {}

    class Times(trt.IProfiler):
        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name] = ms

    context.profiler = Times()
    assert context.execute_async_v3(stream), logger.errors
    assert len(times) == engine.num_layers and sum(times.values()) > 0
    np.testing.assert_allclose(y.get(), wanted, **TOLERANCE)


def test_events_tell_when_inputs_are_consumed(cuda: Any, static: Any) -> None:
    engine, _ = static
    x, y = Memory(cuda, X), Memory(cuda, convolution(X))
    context = addressed(engine, x, y)
    event, stream = good(cuda.cudaEventCreate()), good(cuda.cudaStreamCreate())
    assert context.set_input_consumed_event(int(event))
    assert context.execute_async_v3(int(stream))
    good(cuda.cudaEventSynchronize(event))
    x.set(np.zeros_like(X))
    good(cuda.cudaStreamSynchronize(stream))
    np.testing.assert_allclose(y.get(), convolution(X), **TOLERANCE)


def test_an_address_of_host_memory_is_refused_before_it_is_read(cuda: Any, static: Any) -> None:
    engine, logger = static
    y = Memory(cuda, convolution(X))
    context = engine.create_execution_context()
    context.set_tensor_address("x", X.ctypes.data), context.set_tensor_address("y", y.address)
    if not context.execute_async_v3(0):  # a few machines share the host's memory with their GPU
        assert "cannot reach the address" in logger.errors[-1]
    pinned = int(good(cuda.cudaMallocHost(X.nbytes)))
    good(cuda.cudaMemcpy(pinned, X.ctypes.data, X.nbytes, 0))
    context.set_tensor_address("x", pinned)
    assert context.execute_v2([pinned, y.address]), logger.errors
    np.testing.assert_allclose(y.get(), convolution(X), **TOLERANCE)
    good(cuda.cudaFreeHost(pinned))


def test_too_little_memory_is_reported_and_survived(cuda: Any, static: Any) -> None:
    def huge(network: trt.INetworkDefinition) -> None:
        x = network.add_input("x", trt.float32, (-1, 1 << 20))
        y = network.add_softmax(network.add_softmax(x).get_output(0)).get_output(0)
        z = network.add_reduce(y, trt.ReduceOperation.SUM, 1, False).get_output(0)
        z.name = "z"
        network.mark_output(z)

    engine, logger = built(huge, ((1, 1 << 20), (2, 1 << 20), (1 << 19, 1 << 20)))
    context = engine.create_execution_context()
    z = Memory(cuda, np.zeros(1 << 20, np.float32))
    context.set_input_shape("x", (1 << 19, 1 << 20))
    assert not context.execute_v2([z.address, z.address])
    assert "no " in logger.errors[-1] and "bytes for the arena" in logger.errors[-1]
    x = Memory(cuda, np.zeros((2, 1 << 20), np.float32))
    context.set_input_shape("x", (2, 1 << 20))
    assert context.execute_v2([x.address, z.address]), logger.errors
    np.testing.assert_allclose(z.get(), 1, rtol=1e-3)  # a softmax along the first axis, summed up


def layers(network: trt.INetworkDefinition) -> None:
    x = network.add_input("x", trt.float32, (-1, 512))
    generator = np.random.default_rng(2)
    for _ in range(4):
        w = generator.standard_normal((512, 512)).astype(np.float32) / 16
        none = trt.MatrixOperation.NONE
        weights = network.add_constant(w.shape, w).get_output(0)
        product = network.add_matrix_multiply(x, none, weights, none).get_output(0)
        x = network.add_activation(product, trt.ActivationType.RELU).get_output(0)
    x.name = "y"
    network.mark_output(x)


ROWS = ((1, 512), (64, 512), (256, 512))


def multiplied(x: np.ndarray) -> np.ndarray:
    generator = np.random.default_rng(2)
    for _ in range(4):
        x = np.maximum(x @ (generator.standard_normal((512, 512)).astype(np.float32) / 16), 0)
    return x


def test_activations_in_memory_of_the_programs_own(cuda: Any) -> None:
    engine, logger = built(layers, ROWS)
    size = engine.device_memory_size_v2
    assert size >= 2 * 256 * 512 * 4
    context = engine.create_execution_context_without_device_memory()
    data = np.random.default_rng(5).standard_normal((200, 512)).astype(np.float32)
    wanted = multiplied(data)
    x, y = Memory(cuda, data), Memory(cuda, np.zeros_like(wanted))
    context.set_input_shape("x", data.shape)
    assert 0 < context.update_device_memory_size_for_shapes() <= size
    context.set_tensor_address("x", x.address), context.set_tensor_address("y", y.address)
    assert not context.execute_async_v3(0) and "was given 0" in logger.errors[-1]
    for _ in range(2):
        memory = Memory(cuda, np.zeros(size, np.uint8))
        context.set_device_memory(memory.address, size)
        for _ in range(3):
            y.set(np.zeros_like(wanted))
            assert context.execute_async_v3(0), logger.errors
            np.testing.assert_allclose(y.get(), wanted, rtol=1e-4, atol=1e-3)
        assert memory.get().any(), "the activations were there"


@pytest.mark.parametrize("precision", ["FP16", "TF32"])
def test_weights_that_stay_on_the_host(cuda: Any, precision: str) -> None:
    flags = [trt.BuilderFlag.named(precision), trt.BuilderFlag.named("WEIGHT_STREAMING")]
    engine, logger = built(layers, ROWS, flags=flags)
    everything = engine.streamable_weights_size
    assert everything >= 4 * 512 * 512 * 2
    assert engine.get_weight_streaming_automatic_budget() == everything
    context = engine.create_execution_context()
    data = np.random.default_rng(5).standard_normal((64, 512)).astype(np.float32)
    x, y = Memory(cuda, data), Memory(cuda, np.zeros_like(data))
    context.set_input_shape("x", data.shape)
    context.set_tensor_address("x", x.address), context.set_tensor_address("y", y.address)
    results = []
    for budget in (everything, 0, everything // 2, everything):
        engine.weight_streaming_budget_v2 = budget
        assert engine.weight_streaming_budget_v2 == budget, logger.errors
        assert engine._engine._loaded.resources.constant_bytes <= budget
        for _ in range(3):
            y.set(np.zeros_like(data))
            assert context.execute_async_v3(0), logger.errors
            results.append(y.get())
    scale = np.abs(multiplied(data)).max()
    np.testing.assert_allclose(results[0], multiplied(data), rtol=0.02, atol=0.02 * scale)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
