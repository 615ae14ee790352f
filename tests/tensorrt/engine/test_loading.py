"""Engines as bytes, what they say about themselves, and what cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.plan.format import read_plan, write_plan
from tests.tensorrt.engine.models import affine, engine_of, expected, point
from tests.tensorrt.running import Messages, close, random


@pytest.fixture
def _legacy() -> Iterator[None]:
    trt.use("8.6")
    yield
    trt.use("10")


def serialized() -> Any:
    net = affine(batch=2)
    return net.builder.build_serialized_network(net.network, net.config)


def runs(engine: Any) -> None:
    context = engine.create_execution_context()
    x, y = random(2, 3), np.zeros((2, 2), np.float32)
    point(context, x=x, y=y)
    assert context.execute_async_v3(0)
    close(y, expected(x))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_engines_come_from_any_buffer(kind: Any) -> None:
    runs(trt.Runtime(Messages()).deserialize_cuda_engine(kind(serialized())))


def test_serialized_again_it_is_the_same() -> None:
    data = serialized()
    engine = trt.Runtime(Messages()).deserialize_cuda_engine(data)
    assert bytes(engine.serialize()) == bytes(data)
    config = engine.create_serialization_config()
    assert config.set_flag(trt.SerializationFlag.EXCLUDE_LEAN_RUNTIME)
    assert config.flags == 1 << int(trt.SerializationFlag.EXCLUDE_LEAN_RUNTIME)
    smaller = engine.serialize_with_config(config)
    assert len(smaller) < len(data)
    runs(trt.Runtime(Messages()).deserialize_cuda_engine(smaller))


class Reader(trt.IStreamReaderV2):
    def __init__(self, data: bytes) -> None:
        trt.IStreamReaderV2.__init__(self)
        self.data, self.at = data, 0

    def read(self, num_bytes: int, stream: int) -> bytes:
        part = self.data[self.at : self.at + min(num_bytes, 1000)]
        self.at += len(part)
        return part

    def seek(self, offset: int, where: Any) -> bool:
        self.at = offset
        return True


class OldReader(trt.IStreamReader):
    def __init__(self, data: bytes) -> None:
        trt.IStreamReader.__init__(self)
        self.data = data

    def read(self, size: int) -> bytes:
        part, self.data = self.data[:size], self.data[size:]
        return part


@pytest.mark.parametrize("reader", [Reader, OldReader])
def test_engines_come_from_streams(reader: Any) -> None:
    runs(trt.Runtime(Messages()).deserialize_cuda_engine(reader(bytes(serialized()))))


class Empty(trt.IStreamReader):
    def read(self, size: int) -> Any:
        return None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"rubbish" * 20, "not a plan file"),
        (b"ftrt" + bytes(100), "built by NVIDIA TensorRT"),
        (b"ptrt" + bytes(100), "built by NVIDIA TensorRT of an unknown version"),
        (b"ftrt" + bytes(20) + bytes([8, 6, 1, 6]) + bytes(9), "NVIDIA TensorRT 8.6.1.6,"),
        (b"ftrt", "built by NVIDIA TensorRT"),
        (b"", "the engine is empty"),
        (b"\x08\x0a\x12\x04main" + bytes(50), "looks like an ONNX model"),
        (b"PK\x03\x04" + bytes(60), "a zip archive"),
        (b'{"layers": []}', "text in JSON"),
        (b"\x7fELF" + bytes(60), "a shared library"),
        (Empty(), "Empty.read returned NoneType, expected bytes"),
    ],
)
def test_what_is_no_engine_is_reported(data: Any, reason: str) -> None:
    logger = Messages()
    assert trt.Runtime(logger).deserialize_cuda_engine(data) is None
    assert reason in logger.errors[-1]


def test_damage_and_other_formats_are_reported() -> None:
    data, logger = bytearray(serialized()), Messages()
    assert trt.Runtime(logger).deserialize_cuda_engine(data[:-10]) is None
    assert "truncated" in logger.errors[-1]
    data[8] += 1
    assert trt.Runtime(logger).deserialize_cuda_engine(data) is None
    assert "the plan has format 2, this version of Lamina reads format 1" in logger.errors[-1]
    with pytest.raises(TypeError, match="expected bytes or a stream reader, got str"):
        trt.Runtime(logger).deserialize_cuda_engine("engine.plan")


def test_an_engine_of_another_version_runs_with_a_warning(_legacy: None) -> None:
    trt.use("10")
    data, logger = serialized(), Messages()
    trt.use("8.6")
    assert trt.Runtime(logger).deserialize_cuda_engine(data) is not None
    (severity, text) = logger.lines[-1]
    assert severity == "WARNING" and "TensorRT 10.16" in text


def test_any_plan_is_an_engine() -> None:
    net = affine((1, 2, 4))
    plain = write_plan(replace(net.build().plan, notes=()))
    engine = trt.Runtime(Messages()).deserialize_cuda_engine(plain)
    assert [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)] == ["x", "y"]
    assert engine.get_tensor_profile_shape("x", 0) == [(1, 3), (2, 3), (4, 3)]


class Recorder(trt.IErrorRecorder):
    def __init__(self) -> None:
        trt.IErrorRecorder.__init__(self)
        self.found: list[tuple[str, str]] = []

    def report_error(self, code: Any, desc: str) -> bool:
        self.found.append((code.name, desc))
        return True


def test_errors_reach_the_recorder() -> None:
    runtime, recorder = trt.Runtime(Messages()), Recorder()
    runtime.error_recorder = recorder
    assert runtime.deserialize_cuda_engine(b"nothing") is None
    assert recorder.found[0][0] == "INVALID_ARGUMENT" and "not a plan" in recorder.found[0][1]
    context = runtime.deserialize_cuda_engine(serialized()).create_execution_context()
    assert context.error_recorder is recorder
    assert not context.execute_async_v3(0) and len(recorder.found) == 2


def test_the_engine_describes_itself() -> None:
    engine = engine_of(affine((1, 2, 4)))
    assert list(engine) == ["x", "y"] and engine[1] == "y"
    assert engine.get_tensor_mode("x") == trt.TensorIOMode.INPUT
    assert engine.get_tensor_mode("z") == trt.TensorIOMode.NONE
    assert engine.get_tensor_shape("y") == (-1, 2) and engine.get_tensor_dtype("y") == trt.float32
    assert engine.get_tensor_format("x") == trt.TensorFormat.LINEAR
    assert engine.get_tensor_format_desc("x") == "Row major linear FP32 format (kLINEAR)"
    assert engine.get_tensor_bytes_per_component("x") == -1
    assert engine.get_tensor_vectorized_dim("x") == -1 and not engine.is_shape_inference_io("x")
    assert engine.num_layers >= 1 and engine.device_memory_size_v2 >= 0
    assert engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE) > 0
    assert not engine.refittable and engine.engine_capability == trt.EngineCapability.STANDARD
    with pytest.raises(IndexError):
        engine[2]


def test_the_inspector_tells_as_much_as_the_verbosity_allows() -> None:
    net = affine(batch=2)
    inspector = engine_of(net).create_engine_inspector()
    short = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    assert short["Bindings"] == ["x", "y"] and "total" in short["Layers"][0]
    net.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    engine = engine_of(net)
    inspector = engine.create_engine_inspector()
    first = json.loads(inspector.get_layer_information(0, trt.LayerInformationFormat.JSON))
    assert first["Name"] == short["Layers"][0] and first["TacticName"]
    assert first["Inputs"][0]["Dimensions"] == [2, 3] and "block 1" in first["Metadata"]
    assert first["Name"] in inspector.get_engine_information(trt.LayerInformationFormat.ONELINE)
    assert inspector.get_layer_information(99, trt.LayerInformationFormat.JSON) == ""
    assert "there is no layer 99" in net.logger.errors[-1]


def test_an_engine_of_another_machine_is_compiled_again_and_says_so() -> None:
    plan = read_plan(bytes(serialized()))
    (section,) = plan.sections
    target = {**dict(section.target), "features": "avx1024"}
    other = replace(plan, sections=(replace(section, target=tuple(sorted(target.items()))),))
    logger = Messages()
    runs(trt.Runtime(logger).deserialize_cuda_engine(write_plan(other)))
    (message,) = (m for s, m in logger.lines if s == "WARNING")
    assert "was built for cpu avx1024 and does not fit cpu: it was compiled again" in message
