"""Each way in which a header can contradict itself is found before anything runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import lamina
from lamina.errors import PlanError
from lamina.ir.types import DType, TensorType
from lamina.plan.check import check_plan, check_sizes
from lamina.plan.checksum import checksum
from lamina.plan.plan import Place, Port, Program, Step, StepKind, Tensor
from tests.plan.plans import KINDS, edited, engine

TENSOR = {f.name: i for i, f in enumerate(dataclasses.fields(Tensor))}
STEP = {f.name: i for i, f in enumerate(dataclasses.fields(Step))}
PROGRAM = {f.name: i for i, f in enumerate(dataclasses.fields(Program))}
PORT = {f.name: i for i, f in enumerate(dataclasses.fields(Port))}


def _part(header: dict[str, Any], part: str, number: int) -> list[Any]:
    found = header["sections"][0]["program"][PROGRAM[part]][number]
    assert isinstance(found, list)
    return found


def _refused(kind: str, part: str, number: int, field: int, value: object, message: str) -> None:
    def edit(header: dict[str, Any]) -> None:
        _part(header, part, number)[field] = value

    with pytest.raises(PlanError, match=message):
        lamina.load(edited(kind, edit))


def _number(kind: str, place: Place) -> int:
    tensors = engine(kind).plan.sections[0].program.tensors
    return next(i for i, t in enumerate(tensors) if t.place is place)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_builder_makes_is_accepted(kind: str) -> None:
    check_plan(engine(kind).plan)


@pytest.mark.parametrize(
    ("place", "field", "value", "message"),
    [
        (Place.INPUT, "index", 7, "input 0 of type|input x is number 0"),
        (Place.INPUT, "size_bytes", 4, "its type f32.* needs 768"),
        (Place.INPUT, "size_bytes", 1 << 20, "its type f32.* needs 768"),
        (Place.CONSTANT, "index", 99, "blob 99 of"),
        (Place.CONSTANT, "index", -1, "blob -1 of"),
        (Place.CONSTANT, "size_bytes", 1 << 30, "its blob"),
        (Place.CONSTANT, "size_bytes", "b", "a constant of type"),
        (Place.ARENA, "size_bytes", 0, "needs"),
        (Place.ARENA, "size_bytes", 1 << 60, "needs"),
        (Place.ARENA, "type", "f32[1,16,-8,8]", "negative"),
        (Place.ARENA, "place", "output", "in result 0, which is another"),
        (Place.ARENA, "place", "view", "view|bytes"),
        (Place.OUTPUT, "size_bytes", 128, "128 bytes"),
        (Place.OUTPUT, "place", "host", "host object"),
    ],
)
def test_a_tensor_that_is_not_where_it_says(
    place: Place, field: str, value: object, message: str
) -> None:
    number = _number("convolution", place)
    _refused("convolution", "tensors", number, TENSOR[field], value, message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reads", [77], "tensor 77 of"),
        ("writes", [-1], "tensor -1 of"),
        ("writes", [0], "may only be read"),
        ("arguments", [0], "arguments"),
        ("names", ["src"], "have 1 names"),
        ("threads", 0, "0 threads"),
        ("workspace_bytes", -8, "workspace of -8"),
        ("kind", "kernel", "names no function"),
        ("kind", "if", "0 programs"),
        ("kind", "nothing", "not a StepKind"),
        ("symbols", ["missing"], "no function missing"),
    ],
)
def test_a_step_that_cannot_be_run(field: str, value: object, message: str) -> None:
    _refused("convolution", "steps", 0, STEP[field], value, message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("defines", [], "0 sizes"),
        ("defines", ["n"], "it decides n, its result"),
        ("parameters", [], "1 sizes of 1 results"),
        ("kind", "kernel", "arguments"),
        ("symbols", [], "names no function"),
    ],
)
def test_a_counted_step_decides_one_size_of_its_result(
    field: str, value: object, message: str
) -> None:
    steps = engine("host").plan.sections[0].program.steps
    number = next(i for i, s in enumerate(steps) if s.kind is StepKind.COUNTED)
    _refused("host", "steps", number, STEP[field], value, message)


@pytest.mark.parametrize(
    ("number", "field", "value", "message"),
    [
        (0, "programs", [], "0 programs, expected 2"),
        (1, "programs", [], "0 programs, expected 1"),
        (1, "spec", "3", "'3' of 3 operands are carried"),
        (1, "spec", "-1", "carried"),
        (0, "reads", [1], "operands and results"),
        (0, "reads", [1, 0], "a program reads f32"),
        (1, "reads", [0, 1, 0], "a program reads f32"),
    ],
)
def test_control_flow_that_does_not_fit(
    number: int, field: str, value: object, message: str
) -> None:
    _refused("control", "steps", number, STEP[field], value, message)


def test_ports_that_do_not_fit() -> None:
    _refused("dynamic", "inputs", 0, PORT["tensor"], 1, "its tensor differs")
    _refused("dynamic", "inputs", 0, PORT["type"], "f32[b,13]", "its tensor differs")
    _refused("dynamic", "outputs", 0, PORT["tensor"], 1000, "tensor 1000 of")
    _refused("dynamic", "outputs", 0, PORT["type"], "seq<f32[b]>", "result y is seq")


def test_other_parts_of_the_header() -> None:
    edits = {
        "the range of b is 1, 9, 4": lambda h: h.update(ranges=[["b", 1, 9, 4]]),
        "there is no blob 50": lambda h: h.update(weights={"a": 50}),
        "blob 50 of": lambda h: h["sections"][0].update(code=50),
        "lies at offset -4": lambda h: h["sections"][0]["symbols"].update(lamina_run=-4),
        "blob 0 is stored in half": lambda h: h["sections"][0].update(halves=[0]),
        "blob 9 of": lambda h: h["sections"][0].update(halves=[9]),
        "is not text": lambda h: h.update(graph=4),
        "it needs": lambda h: h["blobs"][0].update(bytes=1 << 40),
        "has the sizes": lambda h: h["blobs"][0].update(shape=[-1]),
    }
    for message, edit in edits.items():
        with pytest.raises(PlanError, match=message):
            lamina.load(edited("dynamic", edit))


def _program(*tensors: Tensor) -> Program:
    return Program(inputs=(), outputs=(), tensors=tensors, steps=())


def _tensor(place: Place, size: Any, index: int = 0, offset: Any = 0) -> Tensor:
    type = TensorType(DType.U8, (size,))
    return Tensor(
        name="t",
        type=type,
        layout="plain",
        place=place,
        index=index,
        offset=offset,
        size_bytes=size,
    )


def test_views_must_lie_inside_what_they_view() -> None:
    check_sizes(_program(_tensor(Place.ARENA, 8), _tensor(Place.VIEW, 4, 0, 4)), {})
    check_sizes(_program(_tensor(Place.ARENA, 0), _tensor(Place.VIEW, 0, 0, 4)), {})
    for size, offset in ((4, 5), (9, 0), (4, -1)):
        with pytest.raises(PlanError, match=f"bytes {offset} to {offset + size} of 8"):
            check_sizes(_program(_tensor(Place.ARENA, 8), _tensor(Place.VIEW, size, 0, offset)), {})


def test_sizes_with_symbols_are_compared_when_they_are_known() -> None:
    from lamina.ir.dims import sym

    b = sym("b")
    program = _program(_tensor(Place.ARENA, b * 4), _tensor(Place.VIEW, b * 2, 0, b + 3))
    check_sizes(program, {})
    check_sizes(program, {"b": 3})
    with pytest.raises(PlanError, match="bytes 5 to 9 of 8"):
        check_sizes(program, {"b": 2})


def test_views_in_a_circle_are_found() -> None:
    def edit(header: dict[str, Any]) -> None:
        number = _number("convolution", Place.ARENA)
        tensor = _part(header, "tensors", number)
        tensor[TENSOR["place"]], tensor[TENSOR["index"]] = "view", number

    with pytest.raises(PlanError, match="view of itself"):
        lamina.load(edited("convolution", edit))


def test_the_library_gets_no_buffer_that_is_too_small() -> None:
    def edit(header: dict[str, Any]) -> None:
        step = _part(header, "steps", 0)
        assert "[1, 3, 8, 8]" in step[STEP["spec"]]
        step[STEP["spec"]] = step[STEP["spec"]].replace("[1, 3, 8, 8]", "[100, 3, 8, 8]")
        step[STEP["spec"]] = step[STEP["spec"]].replace("[1, 16, 8, 8]", "[100, 16, 8, 8]")

    loaded = lamina.load(edited("convolution", edit))
    with pytest.raises(PlanError, match="bytes are needed|are needed"):
        loaded(np.ones((1, 3, 8, 8), np.float32))


@pytest.mark.parametrize("size", [0, 1, 8, 4096, 4097, 300_000, 3_000_001])
def test_the_checksum_sees_changes_and_moves(size: int) -> None:
    rng = np.random.default_rng(size)
    data = rng.integers(0, 256, size, dtype=np.uint8)
    wanted = checksum(data)
    assert checksum(data.copy()) == wanted
    assert checksum(np.concatenate([data, np.zeros(1, np.uint8)])) != wanted
    unaligned = np.zeros(size + 3, np.uint8)[3:]
    unaligned[:] = data
    assert checksum(unaligned) == wanted
    for _ in range(20 if size > 1 else 0):
        changed = data.copy()
        i, j = rng.integers(0, size, 2)
        changed[i] ^= 1 << rng.integers(8)
        assert checksum(changed) != wanted
        moved = np.roll(data, 8 * int(rng.integers(1, 99)))
        assert (checksum(moved) != wanted) is not np.array_equal(moved, data)
        swapped = data.copy()
        swapped[[i, j]] = swapped[[j, i]]
        assert (checksum(swapped) != wanted) is not np.array_equal(swapped, data)
