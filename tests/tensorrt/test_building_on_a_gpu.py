"""What a configuration decides about engines for a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina
import lamina.tensorrt as trt
from lamina.plan.plan import StepKind
from lamina.tensorrt import platform
from tests.tensorrt.running import Net, random

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(platform.device() != "cuda", reason="there is no GPU"),
]
X = random(4, 32, 12, 12).astype(np.float16)
KERNEL = random(32, 32, 3, 3, seed=1) / 16


def convolution() -> Net:
    """Return a convolution with an activation, in f16."""
    net = Net()
    net.config.set_flag(trt.BuilderFlag.FP16)
    net.config.builder_optimization_level = 1
    x = net.network.add_input("x", trt.float16, X.shape)
    layer = net.network.add_convolution_nd(x, 32, (3, 3), KERNEL)
    layer.padding_nd = (1, 1)
    layer.name = "conv"
    relu = net.network.add_activation(layer.get_output(0), trt.ActivationType.RELU)
    relu.name = "relu"
    relu.get_output(0).dtype = trt.float16
    net.output(relu.get_output(0))
    return net


@pytest.fixture(scope="module")
def expected() -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(X.astype(np.float32), ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3)
    )
    return np.maximum(np.einsum("nchwij,mcij->nmhw", windows, KERNEL, optimize=True), 0)


def check(engine: lamina.Engine, expected: Any, x: Any = X) -> Any:
    got = np.asarray(engine(x))
    if got.shape == expected.shape:
        np.testing.assert_allclose(got.astype(np.float32), expected, rtol=2e-2, atol=2e-2)
    return got


def tactics(engine: lamina.Engine) -> set[str]:
    steps = engine.section.program.steps
    return {m.tactic.split(" ")[0] for s in steps for m in s.tried}


def test_channels_last_are_read_and_written_as_they_are(expected: Any) -> None:
    net = convolution()
    net.config.set_flag(trt.BuilderFlag.DIRECT_IO)
    for tensor in (net.network.get_input(0), net.network.get_output(0)):
        tensor.allowed_formats = 1 << int(trt.TensorFormat.HWC)
    engine = net.build()
    assert [s.name for s in engine.section.program.steps] == ["convolution"]
    got = check(engine, expected, np.ascontiguousarray(X.transpose(0, 2, 3, 1)))
    wanted = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got.astype(np.float32), wanted, rtol=2e-2, atol=2e-2)


def test_tactic_sources_and_workspaces(expected: Any) -> None:
    net = convolution()
    net.config.set_tactic_sources(0)
    engine = net.build()
    assert not {t for t in tactics(engine) if t.startswith(("cudnn", "cublas"))}
    check(engine, expected)
    net.config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 0)
    engine = net.build()
    assert {s.workspace_bytes for s in engine.section.program.steps} == {0}
    check(engine, expected)


def test_a_layer_on_the_host(expected: Any) -> None:
    net = convolution()
    net.config.set_layer_on_host(net.network.get_layer(1), True)
    engine = net.build()
    assert StepKind.HOST in {s.kind for s in engine.section.program.steps}
    check(engine, expected)


def test_a_float_layer(expected: Any) -> None:
    net = convolution()
    net.network.get_layer(0).precision = trt.float32
    exact = check(net.build(), expected).astype(np.float32)
    np.testing.assert_allclose(exact, expected, rtol=4e-3, atol=4e-3)


def test_profiles_far_apart_have_programs_of_their_own() -> None:
    net, w = Net(), random(64, 32)
    x = net.network.add_input("x", trt.float32, (-1, 64))
    product = net.network.add_matrix_multiply(
        x, trt.MatrixOperation.NONE, net.constant(w), trt.MatrixOperation.NONE
    )
    net.output(product.get_output(0))
    for low, opt, high in ((1, 1, 4), (256, 256, 256)):
        net.profile(x=((low, 64), (opt, 64), (high, 64)))
    engine = net.build()
    assert engine.section_of(1) is not engine.section
    context = engine.create_context()
    for profile, rows in ((0, 3), (1, 256), (0, 2)):
        engine.use_profile(context, profile)
        values = random(rows, 64)
        got = np.asarray(context.run({"x": values})["y0"])
        np.testing.assert_allclose(got, values @ w, rtol=1e-3, atol=1e-3)


def test_an_assertion_about_data() -> None:
    net = Net()
    x = net.network.add_input("x", trt.float32, (3,))
    zero = net.constant(np.zeros(3, np.float32))
    above = net.network.add_elementwise(x, zero, trt.ElementWiseOperation.GREATER)
    net.network.add_assertion(above.get_output(0), "elements are positive")
    net.output(net.network.add_activation(x, trt.ActivationType.RELU).get_output(0))
    engine = net.build()
    np.testing.assert_array_equal(np.asarray(engine(np.float32([1, 2, 3]))), [1, 2, 3])
    with pytest.raises(lamina.ExecutionError, match="elements are positive"):
        engine(np.float32([1, -2, 3]))
