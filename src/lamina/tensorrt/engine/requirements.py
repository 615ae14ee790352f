"""What a program needs before it runs."""

from __future__ import annotations

from collections.abc import Mapping

from lamina.ir.dims import evaluate, symbols
from lamina.plan.plan import Place, Plan, Program, Tensor
from lamina.runtime.arena import Lifetime, plan_arena


def arena_bytes(plan: Plan, program: Program) -> int:
    """Return the bytes of a context's arena for the largest shapes.

    Buffers whose size only data decides are not counted: they are allocated when it is known.
    """
    largest = {name: high for name, _, _, high in plan.ranges}
    first, last = _lifetimes(program)
    buffers = [
        Lifetime(evaluate(t.size_bytes, largest), first[i], last[i])
        for i, t in enumerate(program.tensors)
        if t.place is Place.ARENA and i in first and _is_known(t, largest)
    ]
    return plan_arena(buffers).size_bytes


def _is_known(tensor: Tensor, sizes: Mapping[str, int]) -> bool:
    return all(s in sizes for s in symbols(tensor.size_bytes))


def _lifetimes(program: Program) -> tuple[dict[int, int], dict[int, int]]:
    """Return the first and last step that uses each tensor or a view of it."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        for tensor in (*step.reads, *step.writes):
            owner = _owner(program, tensor)
            first.setdefault(owner, number)
            last[owner] = number
    for port in program.outputs:
        last[_owner(program, port.tensor)] = len(program.steps)
    return first, last


def _owner(program: Program, tensor: int) -> int:
    while program.tensors[tensor].place is Place.VIEW:
        tensor = program.tensors[tensor].index
    return tensor
