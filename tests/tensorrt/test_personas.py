"""Versions: members, numbers and what argument checks say."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
from lamina.tensorrt import table


@pytest.fixture(autouse=True)
def _back_to_the_default() -> Iterator[None]:
    yield
    trt.use("10")


@pytest.mark.parametrize(
    ("version", "refit", "compatible"), [("8.6", 5, 15), ("10.16", 4, 13), ("11.1", 4, 12)]
)
def test_numbers_are_those_of_the_version(version: str, refit: int, compatible: int) -> None:
    trt.use(version)
    assert trt.__version__.split(".")[0] == version.split(".")[0]
    assert int(trt.BuilderFlag.REFIT) == refit
    assert 1 << int(trt.BuilderFlag.VERSION_COMPATIBLE) == 1 << compatible


def test_names_come_and_go() -> None:
    assert hasattr(trt, "bfloat16") and not hasattr(trt, "ResizeMode")
    assert not hasattr(trt.IConvolutionLayer, "stride")
    assert not hasattr(trt.INetworkDefinition, "add_fully_connected")
    trt.use("8.6")
    assert not hasattr(trt, "bfloat16") and trt.ResizeMode is trt.InterpolationMode
    assert hasattr(trt.IConvolutionLayer, "stride")
    assert hasattr(trt.INetworkDefinition, "add_fully_connected")
    assert hasattr(trt, "CaffeParser") and not hasattr(trt.DataType, "BF16")
    trt.use("11")
    assert not hasattr(trt.BuilderFlag, "FP16") and not hasattr(trt.ILayer, "precision")
    assert hasattr(trt, "CausalMaskKind") and not hasattr(trt, "CaffeParser")
    trt.use("10.16")
    assert hasattr(trt.ILayer, "precision") and hasattr(trt.BuilderFlag, "FP16")


@pytest.mark.parametrize("version", table.VERSIONS)
def test_enumerations_have_the_members_of_the_table(version: str) -> None:
    trt.use(version)
    for name in table.enum_names():
        members = table.enum_members(name, version)
        enum = trt.Logger.Severity if name == "ILogger.Severity" else getattr(trt, name, None)
        if members is None:
            assert enum is None, name
        else:
            assert {m: int(v) for m, v in enum.__members__.items()} == members, name


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(lamina.ConfigError, match=r"no TensorRT persona '4\.0'"):
        trt.use("4.0")


def test_members_behave_as_in_the_bindings() -> None:
    flag = trt.BuilderFlag.FP16
    assert (flag.name, str(flag), repr(flag)) == (
        "FP16",
        "BuilderFlag.FP16",
        "<BuilderFlag.FP16: 0>",
    )
    assert trt.BuilderFlag(0) == flag and flag == 0 and flag != trt.BuilderFlag.INT8
    assert trt.DataType.FLOAT != trt.BuilderFlag.FP16
    assert flag | trt.BuilderFlag.DEBUG == 2
    assert trt.BuilderFlag.__members__["FP16"] is flag
    assert {flag: 1}[trt.BuilderFlag.FP16] == 1
    assert copy.deepcopy(flag) is flag and pickle.loads(pickle.dumps(flag)) == flag
    with pytest.raises(ValueError, match="99 is not a valid BuilderFlag"):
        trt.BuilderFlag(99)
    with pytest.raises(AttributeError):
        trt.BuilderFlag.NONSENSE  # noqa: B018
    assert trt.Logger.WARNING > trt.Logger.ERROR
    trt.use("8.6")
    assert trt.SampleMode.DEFAULT is trt.SampleMode.STRICT_BOUNDS


def test_shapes() -> None:
    dims = trt.Dims([2, 3, 4])
    assert dims == (2, 3, 4) and dims == [2, 3, 4] and dims != (2, 3)
    assert (len(dims), dims[1:], str(dims), trt.volume(dims)) == (3, (3, 4), "(2, 3, 4)", 24)
    assert trt.Dims.MAX_DIMS == 8 and trt.volume(()) == 1
    hw = trt.DimsHW(5, 6)
    hw.h = 7
    assert hw == (7, 6) and trt.Dims4((1, 2, 3, 4))[3] == 4
    with pytest.raises(ValueError, match="expected 3 dimensions, got 2"):
        trt.Dims3(1, 2)
    with pytest.raises(ValueError, match="at most 8"):
        trt.Dims(range(9))


def test_weights() -> None:
    array = np.arange(6, dtype=np.float16)
    weights = trt.Weights(array)
    assert (weights.dtype, weights.size, weights.nbytes, len(weights)) == (trt.float16, 6, 12, 6)
    assert weights.numpy() is array
    shared = trt.Weights(trt.float16, array.ctypes.data, 6)
    array[0] = 9
    assert shared.numpy()[0] == 9
    assert trt.Weights(trt.int8).size == 0
    with pytest.raises(ValueError, match="C-contiguous"):
        trt.Weights(np.zeros((3, 4), np.float32).T)
    with pytest.raises(TypeError):
        trt.Weights(np.zeros(3, np.complex64))


def test_element_types() -> None:
    assert trt.nptype(trt.float32) is np.float32 and trt.nptype(trt.bool) is np.bool_
    assert (trt.int4.itemsize, trt.e8m0.itemsize, trt.int64.itemsize) == (0.5, None, 8)
    with pytest.raises(TypeError):
        trt.nptype(trt.bfloat16)


def test_wrong_arguments_are_type_errors() -> None:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    config, network = builder.create_builder_config(), builder.create_network()
    x = network.add_input("x", trt.float32, (1, 2))
    layer = network.add_activation(x, trt.ActivationType.RELU)

    def set_alpha(value: Any) -> None:
        layer.alpha = value

    for call in (
        lambda: config.set_flag(trt.DataType.FLOAT),
        lambda: config.set_flag(),
        lambda: network.add_input("y", "float", (1,)),
        lambda: network.add_input("y", trt.float32, 5),
        lambda: network.add_concatenation([x, 3]),
        lambda: network.add_convolution_nd(x, 1.5, (3, 3), np.zeros(9, np.float32)),
        lambda: network.mark_output(None),
        lambda: set_alpha("0.5"),
        lambda: trt.Builder("logger"),
    ):
        with pytest.raises(TypeError):
            call()


def test_the_logger_writes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logger = trt.Logger(trt.Logger.INFO)
    logger.log(trt.Logger.INFO, "hello")
    logger.log(trt.Logger.VERBOSE, "quiet")
    out = capsys.readouterr().out
    assert out.endswith("[TRT] [I] hello\n") and "quiet" not in out
