"""Where the tensors of a program live: on the device if a kernel touches them, else on the host.

Sizes that host steps compute for host steps never travel to the device and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lamina.ir.types import DType, TensorType
from lamina.plan.plan import Place, Program, Step, StepKind

NATIVE: Final = (StepKind.KERNEL, StepKind.PRIMITIVE)
CONTROL: Final = (StepKind.IF, StepKind.LOOP)


def base_of(program: Program, tensor: int) -> int:
    """Return the tensor whose memory a view is in, the tensor itself when it is no view."""
    while program.tensors[tensor].place is Place.VIEW:
        tensor = program.tensors[tensor].index
    return tensor


def native_tensors(step: Step) -> Iterator[int]:
    """Yield the numbers of the tensors that a native step touches."""
    return (t for t in step.arguments if t >= 0)


def on_device(program: Program) -> frozenset[int]:
    """Return the tensors that own memory on the device.

    These are the ones that a kernel or a callback touches, here or in the branches and bodies of
    control flow.
    """
    found: set[int] = set()
    for step in program.steps:
        if step.kind in NATIVE or step.kind is StepKind.COUNTED:
            found.update(base_of(program, t) for t in native_tensors(step))
        elif step.kind is StepKind.CALLBACK:
            found.update(base_of(program, t) for t in (*step.reads, *step.writes))
        elif step.kind in CONTROL:
            found.update(base_of(program, t) for t in _handed_over(step))
    return frozenset(t for t in found if _can_move(program, t))


def _handed_over(step: Step) -> Iterator[int]:
    """Yield operands that nested programs want on the device, and results they have there."""
    skipped = 1 if step.kind is StepKind.IF else 2
    for nested in step.programs:
        inside = on_device(nested)
        inputs = step.reads[skipped:]
        given = nested.inputs[2:] if step.kind is StepKind.LOOP else nested.inputs
        for port, tensor in zip(given, inputs, strict=True):
            if port.tensor in inside:
                yield tensor
        results = nested.outputs[1:] if step.kind is StepKind.LOOP else nested.outputs
        for port, tensor in zip(results, step.writes, strict=True):
            if base_of(nested, port.tensor) in inside:
                yield tensor


def _can_move(program: Program, tensor: int) -> bool:
    t = program.tensors[tensor]
    is_plain = isinstance(t.type, TensorType) and t.type.dtype is not DType.STR
    return is_plain and t.place is not Place.HOST


def groups(steps: tuple[Step, ...]) -> list[tuple[int, int]]:
    """Return ranges of steps: native runs, and single steps of the host."""
    ranges: list[tuple[int, int]] = []
    for i, step in enumerate(steps):
        if ranges and step.kind in NATIVE and steps[ranges[-1][0]].kind in NATIVE:
            ranges[-1] = (ranges[-1][0], i + 1)
        else:
            ranges.append((i, i + 1))
    return ranges


def programs_of(program: Program) -> Iterator[Program]:
    """Yield a program and all that it holds."""
    yield program
    for step in program.steps:
        for nested in step.programs:
            yield from programs_of(nested)
