"""Engines are loaded on the GPU that is current, as ``cudaSetDevice`` and its like choose it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lamina.tensorrt as trt
from lamina.tensorrt import platform
from tests.tensorrt.running import Messages
from tests.tensorrt.test_on_a_gpu import TOLERANCE, Memory, X, built, convolution, good, populate

pytestmark = pytest.mark.gpu


@pytest.fixture
def cuda() -> Iterator[Any]:
    if platform.device() != "cuda":
        pytest.skip("there is no GPU")
    from cuda.bindings import runtime

    if good(runtime.cudaGetDeviceCount()) < 2:
        pytest.skip("there is one GPU")
    yield runtime
    good(runtime.cudaSetDevice(0))


def test_the_current_gpu_is_taken(cuda: Any) -> None:
    data, wanted = built(populate)[0].serialize(), convolution(X)
    for number in (1, 0, 1):
        good(cuda.cudaSetDevice(number))
        logger = Messages()
        engine = trt.Runtime(logger).deserialize_cuda_engine(data)
        assert engine is not None and engine._engine.driver.name == f"cuda:{number}"
        context = engine.create_execution_context()
        x, y = Memory(cuda, X), Memory(cuda, np.zeros_like(wanted))
        stream = good(cuda.cudaStreamCreate())
        context.set_tensor_address("x", x.address), context.set_tensor_address("y", y.address)
        for _ in range(3):
            assert context.execute_async_v3(int(stream)), logger.errors
        good(cuda.cudaStreamSynchronize(stream))
        np.testing.assert_allclose(y.get(), wanted, **TOLERANCE)
        assert good(cuda.cudaGetDevice()) == number, "the program's choice stays"
