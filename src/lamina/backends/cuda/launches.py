"""The launches of a kernel step, read from its description in the plan.

The description is ``{"launches": [...]}``; a launch holds the digest of its ``kernel`` and the
``function`` in it, the ``grid`` (numbers, or ``{"$": "ceildiv(b,64)"}``), ``warps``, ``shared``
(bytes of dynamic shared memory), ``dependent``, ``scratch`` (bytes of global memory for each
program), optionally ``cluster`` and ``block`` (threads along three axes, where
they are not ``warps`` times 32 along the first), and ``arguments``:

=========== =====================================================================
``tN``      the address of tensor ``arguments[N]`` of the step
``w``       the address of the step's workspace
``sN``      ``parameters[N]`` of the step as i32, ``sN:i64`` as i64 (and so on)
``cK:n``    the address of n i32 counters of the step, zero before its first run
=========== =====================================================================

An argument may also be a tensor map: ``{"tensor": "tN", "element": "f16", "sizes": [...],
"strides": [...], "box": [...], "swizzle": 128}``, see :mod:`lamina.backends.cuda.tensor_maps`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from lamina.backends.cuda.tensor_maps import TensorMap, map_of
from lamina.errors import GraphError, PlanError, where
from lamina.ir.dims import Dim, evaluate, parse_dim
from lamina.plan.plan import Program, Step, StepKind

_ARGUMENT: Final = re.compile(r"(w)|t(\d+)|s(\d+)(?::([iu](?:8|16|32|64)))?|c(\d+):(\d+)")
_WARP: Final = 32
_MOST_WARPS: Final = 32
_COUNTER_BYTES: Final = 4
_LARGEST_GRID: Final = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True)
class TensorArgument:
    """The address of the step's tensor ``number``; -1 is its workspace."""

    number: int


@dataclass(frozen=True)
class ScalarArgument:
    """A number that the shapes of the inputs tell."""

    value: Dim
    type: str


@dataclass(frozen=True)
class CounterArgument:
    """The address of the step's counters ``number``."""

    number: int


@dataclass(frozen=True, kw_only=True)
class BoxesArgument:
    """A tensor map of the step's tensor ``number``, as :class:`TensorMap` with other sizes."""

    number: int
    element: str
    sizes: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    box: tuple[int, ...]
    swizzle: int

    def map(self, env: Mapping[str, int]) -> TensorMap:
        """Return the map for known sizes; raises PlanError for one that a GPU cannot have."""
        return map_of(self.element, self.sizes, self.strides, self.box, self.swizzle, env)


LaunchArgument = TensorArgument | ScalarArgument | CounterArgument | BoxesArgument


@dataclass(frozen=True, kw_only=True)
class LaunchDescription:
    """One launch whose sizes may be dimensions with symbols."""

    kernel: str
    function: str
    grid: tuple[Dim, Dim, Dim]
    threads: int
    more_threads: tuple[int, int]
    """Threads of a block along its second and third axis."""
    shared_bytes: int
    dependent: bool
    scratch_bytes: int
    """Global memory for each program of the grid."""
    cluster: tuple[int, int, int] | None
    arguments: tuple[LaunchArgument, ...]

    def sizes(self, env: Mapping[str, int]) -> tuple[int, int, int]:
        """Return the grid; a grid without programs is (0, 0, 0)."""
        x, y, z = (evaluate(n, env) for n in self.grid)
        if min(x, y, z) <= 0:
            return (0, 0, 0)
        if any(n > most for n, most in zip((x, y, z), _LARGEST_GRID, strict=True)):
            raise PlanError(f"a grid of {(x, y, z)} exceeds what a GPU takes, {_LARGEST_GRID}")
        return (x, y, z)


@dataclass(frozen=True)
class KernelStep:
    """What a kernel step launches; ``counter_bytes`` are those of each of its counters."""

    launches: tuple[LaunchDescription, ...]
    counter_bytes: tuple[int, ...]


def read_step(step: Step) -> KernelStep:
    """Read the description of a kernel step; raises PlanError for a damaged one."""
    with where(f"in step {step.name} ({step.tactic}) from {step.loc}"):
        try:
            data = json.loads(step.spec)["launches"]
            counters: dict[int, int] = {}
            launches = tuple(_launch(step, item, counters) for item in data)
        except (ValueError, TypeError, KeyError, AttributeError, GraphError) as e:
            _fail(f"{type(e).__name__} {e}")
        if [launch.kernel for launch in launches] != list(step.symbols):
            _fail("its launches are not its kernels")
        sizes = tuple(counters.get(k, 0) for k in range(max(counters, default=-1) + 1))
        return KernelStep(launches, sizes)


def read_steps(program: Program) -> dict[int, KernelStep]:
    """Read the kernel steps of a program, by their numbers."""
    kinds = (StepKind.KERNEL, StepKind.COUNTED)
    return {i: read_step(s) for i, s in enumerate(program.steps) if s.kind in kinds}


def _launch(step: Step, data: dict[str, Any], counters: dict[int, int]) -> LaunchDescription:
    x, y, z = _sizes(data["grid"])
    warps, shared, scratch = int(data["warps"]), int(data["shared"]), int(data.get("scratch", 0))
    if not 1 <= warps <= _MOST_WARPS or shared < 0 or scratch < 0:
        _fail(f"{warps} warps, {shared} bytes of shared and {scratch} of scratch memory")
    threads, rows, layers = (int(n) for n in data.get("block", (warps * _WARP, 1, 1)))
    if min(threads, rows, layers) < 1 or threads * rows * layers > _MOST_WARPS * _WARP:
        _fail(f"a block of {threads} x {rows} x {layers} threads")
    cluster = data.get("cluster")
    return LaunchDescription(
        kernel=str(data["kernel"]),
        function=str(data["function"]),
        grid=(x, y, z),
        threads=threads,
        more_threads=(rows, layers),
        shared_bytes=shared,
        dependent=bool(data["dependent"]),
        scratch_bytes=scratch,
        cluster=None if cluster is None else (int(cluster[0]), int(cluster[1]), int(cluster[2])),
        arguments=tuple(
            _boxes(step, a) if isinstance(a, dict) else _argument(step, a, counters)
            for a in data["arguments"]
        ),
    )


def _sizes(data: list[Any]) -> tuple[Dim, ...]:
    return tuple(parse_dim(n["$"]) if isinstance(n, dict) else int(n) for n in data)


def _boxes(step: Step, data: dict[str, Any]) -> BoxesArgument:
    tensor = _argument(step, data["tensor"], {})
    if not isinstance(tensor, TensorArgument):
        _fail(f"{data['tensor']!r} is no tensor")
    return BoxesArgument(
        number=tensor.number,
        element=str(data["element"]),
        sizes=_sizes(data["sizes"]),
        strides=_sizes(data["strides"]),
        box=tuple(int(n) for n in data["box"]),
        swizzle=int(data["swizzle"]),
    )


def _argument(step: Step, text: str, counters: dict[int, int]) -> LaunchArgument:
    found = _ARGUMENT.fullmatch(text)
    if found is None:
        _fail(f"{text!r} is no argument")
    workspace, tensor, scalar, type_, counter, count = found.groups()
    if workspace:
        return TensorArgument(-1)
    if tensor is not None:
        if int(tensor) >= len(step.arguments):
            _fail(f"{text} of {len(step.arguments)} tensors")
        return TensorArgument(step.arguments[int(tensor)])
    if scalar is not None:
        if int(scalar) >= len(step.parameters):
            _fail(f"{text} of {len(step.parameters)} parameters")
        return ScalarArgument(step.parameters[int(scalar)], type_ or "i32")
    number = int(counter)
    counters[number] = max(counters.get(number, 0), int(count) * _COUNTER_BYTES)
    return CounterArgument(number)


def _fail(fact: str) -> NoReturn:
    raise PlanError(f"the description of a kernel step is damaged: {fact}")
