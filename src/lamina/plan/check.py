"""Consistency of a plan: what must hold before its native code may be given any memory.

The header of a plan says which bytes each step reads and writes.  A header that was made by a
faulty tool, or edited together with its checksum, must end in a PlanError and not in a read or
write outside a buffer.  Machine code itself is trusted once its checksum fits.

Sizes with symbols are compared when the symbols have numbers: :func:`check_sizes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Final, NoReturn

import numpy as np

from lamina.errors import GraphError, InputError, PlanError, where
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim, Expr, evaluate
from lamina.ir.types import DType, TensorType
from lamina.plan.plan import (
    COUNT,
    WORKSPACE,
    Place,
    Plan,
    Program,
    Section,
    Step,
    StepKind,
    Tensor,
)

_NATIVE: Final = (StepKind.KERNEL, StepKind.COUNTED, StepKind.PRIMITIVE)
_LARGEST_PADDING: Final = 16
"""A layout takes at most this many times the bytes of its elements (blocks of 16 channels)."""


def check_plan(plan: Plan) -> None:
    """Raise PlanError unless every number in the plan refers to something that exists and fits."""
    for name, low, likely, high in plan.ranges:
        if not 0 <= low <= likely <= high:
            _fail(f"the range of {name} is {low}, {likely}, {high}")
    for section in plan.sections:
        _check_image(section)
        _check_halves(section)
        if len(section.operations) not in (0, len(section.program.steps)):
            _fail(
                f"operations are counted for {len(section.operations)} of "
                f"{len(section.program.steps)} steps"
            )
        _check_program(section, section.program)


def check_sizes(program: Program, env: Mapping[str, int]) -> None:
    """Raise PlanError unless every tensor whose size ``env`` tells lies inside its memory.

    Raises InputError where sizes that ``env`` gives leave a tensor with less than no elements.
    Tensors with symbols that ``env`` lacks (sizes that data decides) are left out.
    """
    sizes: dict[int, int] = {}
    for number, t in enumerate(program.tensors):
        if _known(t.size_bytes, env) and (
            not isinstance(t.type, TensorType) or _known(t.type, env)
        ):
            sizes[number] = _check_size(t, env)
    for number, size in sizes.items():
        t = program.tensors[number]
        if t.place is Place.VIEW and t.index in sizes and _known(t.offset, env):
            offset, whole = _evaluated(t.offset, env), sizes[t.index]
            if offset < 0 or (size and offset + size > whole):
                _fail(f"{t.name} lies at bytes {offset} to {offset + size} of {whole}")
        elif t.place is Place.OUTPUT:
            type = program.outputs[t.index].type
            if _known(type, env) and size != _dense_bytes(type, env):
                _fail(f"result {t.name} has {size} bytes, its array has {_dense_bytes(type, env)}")


def _check_image(section: Section) -> None:
    image = section.image
    for name, offset in (*image.symbols.items(), *image.externals):
        if not 0 <= offset < len(image.code):
            _fail(f"{name} lies at offset {offset} of {len(image.code)} bytes of code")


def _check_halves(section: Section) -> None:
    for number in section.halves:
        if not 0 <= number < len(section.blobs):
            _fail(f"blob {number} of {len(section.blobs)} is stored in half the space")
        if section.blobs[number].dtype != np.float16:
            _fail(f"blob {number} is stored in half the space, but it is not f16")


def _check_program(section: Section, program: Program) -> None:
    _check_ports(program)
    for number, tensor in enumerate(program.tensors):
        with where(f"in tensor {number} ({tensor.name})"):
            _check_place(section, program, number, tensor)
    check_sizes(program, {})
    for number, step in enumerate(program.steps):
        with where(f"in step {number} ({step.name} from {step.loc})"):
            _check_step(section, program, step)
            for nested in step.programs:
                _check_program(section, nested)


def _check_ports(program: Program) -> None:
    for i, port in enumerate(program.inputs):
        t = _tensor(program, port.tensor)
        if t.place is not Place.INPUT or t.index != i or t.type != port.type:
            _fail(f"input {port.name} is number {i} of type {port.type}, its tensor differs")
    for port in program.outputs:
        t = _tensor(program, port.tensor)
        if isinstance(t.type, TensorType) is not isinstance(port.type, TensorType):
            _fail(f"result {port.name} is {port.type}, its tensor {t.type}")


def _check_place(section: Section, program: Program, number: int, t: Tensor) -> None:
    if t.place is Place.INPUT:
        if not 0 <= t.index < len(program.inputs) or program.inputs[t.index].tensor != number:
            _fail(f"it is in input {t.index}, which is another tensor")
    elif t.place is Place.OUTPUT:
        if not 0 <= t.index < len(program.outputs) or program.outputs[t.index].tensor != number:
            _fail(f"it is in result {t.index}, which is another tensor")
    elif t.place is Place.CONSTANT:
        _check_constant(section, t)
    elif t.place is Place.VIEW:
        base = _base(program, number)
        if base.place is Place.HOST:
            _fail("it is a view of a host object")


def _check_constant(section: Section, t: Tensor) -> None:
    if not 0 <= t.index < len(section.blobs):
        _fail(f"it is in blob {t.index} of {len(section.blobs)}")
    array = section.blobs[t.index]
    if not isinstance(t.type, TensorType) or isinstance(t.size_bytes, Expr):
        _fail(f"it is a constant of type {t.type} and {t.size_bytes} bytes")
    if t.type.dtype is DType.STR:
        if array.dtype != object or prod(array.shape) != prod(t.type.static_shape):
            _fail(f"it is {t.type}, its blob holds {prod(array.shape)} elements of {array.dtype}")
        return
    held = array.nbytes * 2 if t.index in section.halves else array.nbytes
    if array.dtype == object or t.size_bytes > held:
        _fail(f"it has {t.size_bytes} bytes, its blob {held}")


def _check_size(t: Tensor, env: Mapping[str, int]) -> int:
    size = _evaluated(t.size_bytes, env)
    if not isinstance(t.type, TensorType) or t.type.dtype is DType.STR:
        if size:
            _fail(f"{t.name} is {t.type} and has {size} bytes, expected 0")
        return 0
    dense = _dense_bytes(t.type, env)
    most = dense if t.place in (Place.INPUT, Place.OUTPUT) else _LARGEST_PADDING * dense
    if t.place is not Place.CONSTANT and not dense <= size <= most:
        _fail(f"{t.name} has {size} bytes, its type {t.type} needs {dense}")
    if size < dense:
        _fail(f"{t.name} has {size} bytes, its type {t.type} needs {dense}")
    return size


def _check_step(section: Section, program: Program, step: Step) -> None:
    for number in (*step.reads, *step.writes):
        _tensor(program, number)
    for number in step.writes:
        if _base(program, number).place in (Place.CONSTANT, Place.INPUT):
            _fail(f"it writes tensor {number}, which may only be read")
    if step.kind in _NATIVE:
        _check_native(section, program, step)
    elif step.kind in (StepKind.IF, StepKind.LOOP):
        _check_control(program, step)
    if step.programs and step.kind not in (StepKind.IF, StepKind.LOOP):
        _fail(f"a {step.kind} step holds {len(step.programs)} programs")


def _check_native(section: Section, program: Program, step: Step) -> None:
    if unknown := [s for s in step.symbols if s not in section.image.symbols]:
        _fail(f"the code image has no function {', '.join(unknown)}")
    if step.kind is not StepKind.PRIMITIVE and not step.symbols:
        _fail("it names no function")
    if step.kind is StepKind.COUNTED:
        _check_counted(program, step)
    if step.kind is StepKind.PRIMITIVE and len(step.names) != len(step.arguments):
        _fail(f"{len(step.arguments)} arguments have {len(step.names)} names")
    if step.threads < 1 or (isinstance(step.workspace_bytes, int) and step.workspace_bytes < 0):
        _fail(f"it has {step.threads} threads and a workspace of {step.workspace_bytes} bytes")
    no_tensors = {WORKSPACE, COUNT} if step.kind is StepKind.COUNTED else {WORKSPACE}
    if {*step.reads, *step.writes} != {*step.arguments} - no_tensors:
        _fail("its arguments are not what it reads and writes")
    for number in step.arguments:
        if number in no_tensors:
            continue
        if _tensor(program, number).place is Place.HOST:
            _fail(f"argument {number} is a host object")


def _check_counted(program: Program, step: Step) -> None:
    if len(step.writes) != 1 or len(step.defines) != 1 or not step.parameters:
        _fail(f"it decides {len(step.defines)} sizes of {len(step.writes)} results, expected one")
    result = _tensor(program, step.writes[0])
    symbols = set(attribute_symbols(result.size_bytes))
    if result.place is not Place.ARENA or not symbols <= {*step.defines}:
        _fail(
            f"it decides {step.defines[0]}, its result {result.name} has {result.size_bytes} bytes"
        )


def _check_control(program: Program, step: Step) -> None:
    operands, results = len(step.reads), len(step.writes)
    if step.kind is StepKind.IF:
        expected, inputs, outputs = 2, operands - 1, results
    else:
        if not step.spec.isdecimal() or int(step.spec) > min(operands - 2, results):
            _fail(f"{step.spec!r} of {operands} operands are carried")
        expected, inputs, outputs = 1, operands, results + 1
    if len(step.programs) != expected:
        _fail(f"it holds {len(step.programs)} programs, expected {expected}")
    for nested in step.programs:
        have = (len(nested.inputs), len(nested.outputs))
        if have != (inputs, outputs):
            _fail(f"a program has {have} operands and results, expected {(inputs, outputs)}")
        _check_handed_over(program, step, nested)


def _check_handed_over(program: Program, step: Step, nested: Program) -> None:
    """Compare what a nested program reads with what it is given; shapes are compared as it runs."""
    given = [program.tensors[n].type for n in step.reads]
    wanted = [port.type for port in nested.inputs]
    made = [port.type for port in nested.outputs]
    deciding = given[:1] if step.kind is StepKind.IF else given[1:2]
    if any(not isinstance(t, TensorType) or t.dtype is not DType.BOOL for t in deciding):
        _fail(f"its condition is {deciding[0]}")
    pairs = list(zip(wanted, given[1:], strict=False))
    if step.kind is StepKind.LOOP:
        if not isinstance(given[0], TensorType) or not given[0].dtype.is_integer:
            _fail(f"its trip count is {given[0]}")
        carried = int(step.spec)
        counter = [TensorType(DType.I64, ()), TensorType(DType.BOOL, ())]
        pairs = list(zip(wanted, [*counter, *given[2:]], strict=True))
        pairs += zip(wanted[2 : 2 + carried], made[1:], strict=False)
    for want, have in pairs:
        if isinstance(want, TensorType) and not _is_like(want, have):
            _fail(f"a program reads {want}, it is given {have}")


def _is_like(want: TensorType, have: object) -> bool:
    return isinstance(have, TensorType) and (have.dtype, have.rank) == (want.dtype, want.rank)


def _tensor(program: Program, number: int) -> Tensor:
    if not 0 <= number < len(program.tensors):
        _fail(f"tensor {number} of {len(program.tensors)} is named")
    return program.tensors[number]


def _base(program: Program, number: int) -> Tensor:
    """Return the tensor whose memory a view is in; raises PlanError for views in a circle."""
    for n in _chain(program, number):
        if (t := _tensor(program, n)).place is not Place.VIEW:
            return t
    return _fail(f"tensor {number} is a view of itself")


def _chain(program: Program, number: int) -> Iterator[int]:
    for _ in range(len(program.tensors) + 1):
        yield number
        number = program.tensors[number].index


def _known(value: Dim | TensorType | object, env: Mapping[str, int]) -> bool:
    return all(s in env for s in attribute_symbols(value))


def _dense_bytes(type: object, env: Mapping[str, int]) -> int:
    if not isinstance(type, TensorType) or type.dtype is DType.STR:
        return 0
    sizes = [_evaluated(d, env) for d in type.shape]
    if any(n < 0 for n in sizes):
        if env:
            given = ", ".join(f"{name} = {env[name]}" for name in sorted(env))
            raise InputError(
                f"with {given} a tensor of the model would have the sizes {sizes}: {type}",
                hint="give the inputs larger sizes",
            )
        _fail(f"{type} has a negative size")
    return prod(sizes) * type.dtype.itemsize


def _evaluated(d: Dim, env: Mapping[str, int]) -> int:
    try:
        return evaluate(d, env)
    except GraphError as e:
        raise PlanError(f"the plan is damaged: {e}") from e


def _fail(fact: str) -> NoReturn:
    raise PlanError(f"the plan is damaged: {fact}")
