"""Tensor maps: what the driver is asked for, what a launch passes, and what a plan remembers."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace

import numpy as np
import pytest
from tests.backends.cuda.simulation import plain_box, simulated
from tests.samples.sample import normal

from lamina import ops
from lamina.backends.cuda import compiler as compiler_of_cuda
from lamina.backends.cuda.code import complete, encode
from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.launches import BoxesArgument, read_step
from lamina.backends.cuda.request import Boxes, CudaDraft, KernelRequest, Launch
from lamina.backends.cuda.tactics.boxed import TritonMatmulBoxed
from lamina.backends.cuda.tactics.generated import Generated
from lamina.backends.cuda.tensor_maps import (
    EncodedMap,
    EncodeFunction,
    Encoder,
    TensorMap,
    checked,
    passed,
)
from lamina.errors import PlanError
from lamina.ir.dims import sym
from lamina.ir.interpret import interpret
from lamina.ir.text import parse_graph
from lamina.ir.types import DType
from lamina.plan.plan import Program, Step, StepKind
from lamina.tactics.candidate import Read, Scratch

PIXELS = TensorMap(
    element="bf16",
    sizes=(5, 9, 2, 7, 128),
    strides=(2 * 9 * 7 * 128, 2 * 7 * 128, 7 * 128, 128, 1),
    box=(1, 4, 1, 8, 64),
    swizzle=128,
)


class Driver:
    """Stands for the driver's function: notes what it is asked for."""

    def __init__(self, error=0):
        self.error = error
        self.function = EncodeFunction(self._encode)
        self.address = ctypes.cast(self.function, ctypes.c_void_p).value

    def _encode(self, at, kind, rank, address, sizes, strides, box, steps, *how):
        assert at % 64 == 0, "the driver takes no other place"
        self.asked = kind, rank, address, sizes[:rank], strides[: rank - 1], box[:rank]
        self.steps, self.how = steps[:rank], how
        ctypes.memset(at, 7, 128)
        return self.error


def test_the_driver_is_told_axes_from_the_fastest_on():
    driver = Driver()
    error, encoded = Encoder(driver.address)(PIXELS, 4096)
    assert error == 0 and bytes(encoded) == bytes([7]) * 128
    strides = [128 * 2, 7 * 128 * 2, 2 * 7 * 128 * 2, 2 * 9 * 7 * 128 * 2]
    assert driver.asked == (9, 5, 4096, [128, 7, 2, 9, 5], strides, [64, 8, 1, 4, 1])
    assert driver.steps == [1] * 5
    assert driver.how == (0, 3, 2, 0)  # not interleaved, swizzled, promoted to 128 bytes, zeros


@pytest.mark.parametrize(
    "element, kind, size",
    [("u8", 0, 1), ("i8", 0, 1), ("i32", 3, 4), ("f16", 6, 2), ("f32", 7, 4), ("tf32", 11, 4)],
)
@pytest.mark.parametrize("swizzle, number", [(0, 0), (32, 1), (64, 2), (128, 3)])
def test_types_and_swizzles_have_numbers(element, kind, size, swizzle, number):
    driver = Driver()
    row = TensorMap(element=element, sizes=(3, 32), strides=(64, 1), box=(2, 16), swizzle=swizzle)
    Encoder(driver.address)(checked(row), 512)
    assert driver.asked == (kind, 2, 512, [32, 3], [64 * size], [16, 2])
    assert driver.how[1] == number


def test_errors_and_empty_axes():
    driver = Driver(error=1)
    empty = replace(PIXELS, sizes=(5, 9, 2, 0, 128))
    assert Encoder(driver.address)(empty, 4096)[0] == 1
    assert driver.asked[3] == [128, 1, 2, 9, 5]


def test_the_shape_follows_the_map():
    encoded = EncodedMap()
    values, types = zip(
        *passed(replace(PIXELS, sizes=(3, 8), strides=(16, 1)), encoded), strict=True
    )
    assert values == (encoded, 3, 8, 16, 1)
    assert types == (None, *[ctypes.c_int32] * 2, *[ctypes.c_int64] * 2)


@pytest.mark.parametrize(
    "change, why",
    [
        ({"element": "f64"}, "no tensor map is of f64"),
        ({"swizzle": 16}, "swizzled in 16 bytes"),
        ({"sizes": (1,)}, "1 axes and a box of 5"),
        ({"sizes": (1 << 31, 9, 2, 7, 128)}, "too large"),
        ({"strides": (1 << 40, 1792, 896, 128, 1)}, "too large"),
        ({"strides": (32256, 3584, 896, 129, 1)}, "takes no strides"),
        ({"strides": (32256, 3584, 896, 128, 2)}, "takes no strides"),
    ],
)
def test_what_no_gpu_takes(change, why):
    assert checked(PIXELS) is PIXELS
    with pytest.raises(PlanError, match=why):
        checked(replace(PIXELS, **change))


def test_a_plan_remembers_what_the_compiler_chose():
    n = sym("n")
    kernel = KernelRequest(
        function="copy",
        source="",
        parameters=(("x", "tensordesc<fp16[64,32]>"), ("y", "tensordesc<fp32[8]>")),
    )
    x = Boxes(Read(1), DType.F16, (n, 40), (n * 8, 1))
    y = Boxes(Scratch(), DType.F32, (n * 40,), (1,), rounded=True)
    draft = encode(CudaDraft(launches=(Launch(kernel=kernel, grid=(n, 1, 1), arguments=(x, y)),)))
    assert draft.arguments == (Read(1),)
    boxes = tuple(plain_box(t) for _, t in kernel.parameters)
    boxes = (((64, 32), 64), boxes[1])
    code = MachineCode(b"", "copy", 4, 0, 0, 1, boxes=boxes)
    step = Step(
        kind=StepKind.KERNEL,
        name="copy",
        tactic="",
        loc="",
        reads=(6,),
        writes=(),
        arguments=(6,),
        symbols=draft.symbols,
        parameters=draft.parameters,
        spec=draft.spec,
    )
    program = complete(
        Program(inputs=(), outputs=(), tensors=(), steps=(step,)), {kernel.digest(): code}
    )
    first, second = read_step(program.steps[0]).launches[0].arguments
    assert isinstance(first, BoxesArgument) and (first.number, second.number) == (6, -1)
    assert first.map({"n": 5}) == TensorMap(
        element="f16", sizes=(5, 40), strides=(40, 1), box=(64, 32), swizzle=64
    )
    assert second.map({"n": 2}) == TensorMap(
        element="tf32", sizes=(80,), strides=(1,), box=(8,), swizzle=0
    )
    damaged = json.loads(program.steps[0].spec)
    damaged["launches"][0]["arguments"][0]["tensor"] = "c0:1"
    with pytest.raises(PlanError, match="no tensor"):
        read_step(replace(program.steps[0], spec=json.dumps(damaged)))


PRODUCTS = """graph(%x: f16[n,96]) {
  %w = const() type=f16[96,128] seed=1
  %v = const() type=f16[128,64] seed=2
  %h = matmul(%x, %w)
  %y = matmul(%h, %v)
  return %y
}"""


def test_an_engine_for_any_number_of_rows(monkeypatch):
    monkeypatch.setattr(compiler_of_cuda, "TACTICS", (TritonMatmulBoxed(), Generated()))
    shapes = {"x": [(1, 96), (40, 96), (200, 96)]}
    engine = simulated(parse_graph(PRODUCTS, ops.BY_NAME), shapes=shapes)
    steps = engine.plan.sections[0].program.steps
    assert all(TritonMatmulBoxed.name in s.tactic and '"sizes"' in s.spec for s in steps)
    for n in (40, 3, 200, 40):
        x = normal(n, 96, seed=n, dtype=np.float16)
        (wanted,) = interpret(parse_graph(PRODUCTS, ops.BY_NAME), [x])
        error = np.linalg.norm(engine(x).astype("d") - wanted) / np.linalg.norm(wanted.astype("d"))
        assert error < 1e-3
