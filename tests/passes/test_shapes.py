"""What symbols become: numbers, ranges, and the sizes that kernels are tuned for."""

from __future__ import annotations

import numpy as np
import pytest

import lamina
from lamina.errors import ConfigError, InputError
from lamina.ir.interpret import interpret
from lamina.passes.shapes import apply_shapes
from tests.passes.checking import parse

POOLED = """graph(%x: f32[n,3,h,w]) {
  %w = const() type=f32[8,3,7,7] seed=1
  %c = convolution(%x, %w) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  %y = pool(%c) kind=max kernel=(KERNEL) strides=(2,2) dilations=(1,1) pads_begin=(0,0) pads_end=(0,0)
  return %y
}"""  # noqa: E501


def _pooled(kernel: int) -> lamina.Graph:
    return parse(POOLED.replace("KERNEL", f"{kernel},{kernel}"))


def _likely(inputs: str) -> dict[str, int]:
    names = [i.split(":")[0] for i in inputs.split(", ")]
    _, rows = apply_shapes(parse(f"graph({inputs}) {{\n  return {', '.join(names)}\n}}"), {})
    assert all((low, high) == (1, 2**31 - 1) for _, low, _, high in rows)
    return {name: likely for name, _, likely, _ in rows}


@pytest.mark.parametrize(
    ("inputs", "likely"),
    [
        ("%x: f32[n,3,h,w]", {"n": 1, "h": 224, "w": 224}),
        ("%x: u8[n,h,w,3]", {"n": 1, "h": 224, "w": 224}),
        ("%x: f32[n,1,d,h,w]", {"n": 1, "d": 64, "h": 64, "w": 64}),
        ("%x: i64[b,s], %m: bool[b,s]", {"b": 1, "s": 128}),
        ("%x: f32[b,8,past,64], %l: i64[b]", {"b": 1, "past": 128}),
        ("%x: f32[4,n], %y: f32[n,4]", {"n": 1}),
    ],
)
def test_guesses(inputs: str, likely: dict[str, int]) -> None:
    assert _likely(inputs) == likely


def test_guesses_grow_until_no_tensor_is_empty() -> None:
    _, rows = apply_shapes(_pooled(150), {})
    assert {name: likely for name, _, likely, _ in rows} == {"n": 1, "h": 448, "w": 448}


def test_likeliest_sizes_that_are_too_small_are_refused() -> None:
    low, high = (1, 3, 8, 8), (1, 3, 64, 64)
    with pytest.raises(ConfigError, match=r"sizes h=8, w=8 an axis would have -\d elements, at"):
        apply_shapes(_pooled(9), {"x": (low, low, high)})


def test_images_of_any_size_run_without_shapes() -> None:
    graph = _pooled(3)
    engine = lamina.build(graph, timing_cache="", optimization_level=0)
    assert not engine.plan.fallbacks
    for shape in ((1, 3, 40, 33), (2, 3, 11, 64)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(engine(x), interpret(graph, [x])[0], rtol=0, atol=1e-4)
    with pytest.raises(InputError, match="h = 5, n = 1, w = 5 a tensor of the model would have"):
        engine(np.zeros((1, 3, 5, 5), np.float32))
    with pytest.raises(InputError, match="may allow a smallest n of 0"):
        engine(np.zeros((0, 3, 64, 64), np.float32))
