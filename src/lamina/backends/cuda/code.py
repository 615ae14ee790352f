"""Collects the kernels and constants of a section while its programs are assembled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lamina.backends.cuda.compile import MachineCode
from lamina.backends.cuda.library.steps import write_spec
from lamina.backends.cuda.request import (
    AnyDraft,
    Argument,
    Boxes,
    Counters,
    CudaDraft,
    KernelRequest,
    Launch,
    LibraryDraft,
    Scalar,
    directed,
    has_direction,
)
from lamina.codegen.layout import Layout
from lamina.errors import LaminaError
from lamina.ir.dims import Dim, is_static
from lamina.ir.types import TensorType
from lamina.ir.weight import Weight
from lamina.plan.plan import CodeImage, Program, Step, StepKind
from lamina.tactics.candidate import Candidate, Draft, Placement, Role, Scratch

_ALIGNMENT: Final = 64


@dataclass(frozen=True)
class Drafted:
    """What became a native step: a candidate (None for a copy between layouts), and its draft.

    ``arguments`` say what each argument of the step is.
    """

    candidate: Candidate | None
    placement: Placement
    draft: AnyDraft
    arguments: tuple[Role, ...]
    backwards: bool = False
    """Whether kernels that can should begin with the last tile."""


Layouts = tuple[Layout, ...]
Reorder = Callable[[TensorType, Placement], CudaDraft]


class Code:
    """Kernel requests and blobs, by contents; equal ones are kept once."""

    def __init__(self, reorder: Reorder) -> None:
        self.requests: dict[str, KernelRequest] = {}
        self.users: dict[str, list[Candidate]] = {}
        """The candidates whose steps launch a kernel, by its digest."""
        self.failed: dict[int, str] = {}
        """Why candidates, by ``id``, give no step; the program is of no use then."""
        self.blobs: list[Weight] = []
        self.operations: tuple[Dim, ...] = ()
        self.drafted: list[Drafted] = []
        """What the native steps are, in their order."""
        self.backwards = False
        """Whether kernels of the next step should begin with the last tile."""
        self._blob_index: dict[Weight, int] = {}
        self._reorder = reorder

    def draft(self, candidate: Candidate, operands: Layouts, results: Layouts) -> Draft:
        """Return the step of a candidate, its kernels by digest.

        They begin with the last tile where ``backwards`` says so and they can, which it says then.
        """
        placement = Placement(operands, results, "")
        try:
            draft: Any = candidate.draft(placement)
        except LaminaError as e:
            self.failed[id(candidate)] = str(e).splitlines()[0]
            return encode(CudaDraft(launches=()))
        if isinstance(draft, LibraryDraft):
            step = self._library(draft)
        else:
            for launch in draft.launches:
                self.users.setdefault(launch.kernel.digest(), []).append(candidate)
            draft = directed(draft, backwards=self.backwards)
            step = self._add(draft)
        self.drafted.append(Drafted(candidate, placement, draft, step.arguments, self.backwards))
        self.backwards = self.backwards and has_direction(draft)
        return step

    def reorder(self, type: TensorType, before: Layout, after: Layout) -> Draft:
        """Return the step that copies a value from one layout into another."""
        placement = Placement((before,), (after,), "")
        draft = self._reorder(type, placement)
        step = self._add(draft)
        self.drafted.append(Drafted(None, placement, draft, step.arguments))
        return step

    def _add(self, draft: CudaDraft) -> Draft:
        for launch in draft.launches:
            self.requests[launch.kernel.digest()] = launch.kernel
        return encode(draft)

    def _library(self, draft: LibraryDraft) -> Draft:
        """Return a step of a library; its algorithm becomes a constant that stays on the host."""
        plan = None
        if draft.plan:
            plan = self.add_blob(Weight(np.frombuffer(draft.plan, np.uint8), ""))
        return Draft(
            kind=StepKind.PRIMITIVE,
            arguments=tuple(role for _, role in draft.operands),
            names=tuple(name for name, _ in draft.operands),
            workspace_bytes=draft.workspace_bytes,
            spec=write_spec(draft.library, draft.problem, plan),
        )

    def add_blob(self, weight: Weight) -> int:
        """Add a constant and return its number."""
        if weight not in self._blob_index:
            self._blob_index[weight] = len(self.blobs)
            self.blobs.append(weight)
        return self._blob_index[weight]


def encode(draft: CudaDraft) -> Draft:
    """Return launches as a step of the plan; what only compiling tells is added later."""
    encoder = _Encoder()
    launches = [encoder.launch(launch) for launch in draft.launches]
    most = (draft.largest_count,) if draft.defines else ()
    return Draft(
        kind=StepKind.COUNTED if draft.defines else StepKind.KERNEL,
        arguments=tuple(encoder.roles),
        symbols=tuple(launch.kernel.digest() for launch in draft.launches),
        parameters=(*encoder.scalars, *most),
        defines=draft.defines,
        workspace_bytes=draft.workspace_bytes,
        spec=json.dumps({"launches": launches}),
    )


class _Encoder:
    """Numbers the roles, scalars and counters of the launches of one step."""

    def __init__(self) -> None:
        self.roles: list[Role] = []
        self.scalars: list[Dim] = []
        self._counters: list[Counters] = []

    def launch(self, launch: Launch) -> dict[str, Any]:
        types = [type for _, type in launch.kernel.parameters]
        block = {} if launch.block is None else {"block": list(launch.block)}
        return block | {
            "kernel": launch.kernel.digest(),
            "grid": _sizes(launch.grid),
            "dependent": launch.kernel.dependent,
            "arguments": [
                self._argument(a, t) for a, t in zip(launch.arguments, types, strict=True)
            ],
        }

    def _argument(self, argument: Argument, type: str) -> str | dict[str, Any]:
        if isinstance(argument, Boxes):
            return {
                "tensor": self._argument(argument.role, type),
                "element": argument.element,
                "sizes": _sizes(argument.sizes),
                "strides": _sizes(argument.strides),
            }
        if isinstance(argument, Scratch):
            return "w"
        if isinstance(argument, Scalar):
            number = _number(self.scalars, argument.value)
            return f"s{number}" if type == "i32" else f"s{number}:{type}"
        if isinstance(argument, Counters):
            return f"c{_number(self._counters, argument)}:{argument.count}"
        return f"t{_number(self.roles, argument)}"


def _sizes(sizes: Sequence[Dim]) -> list[Any]:
    """Return sizes as plain data."""
    return [int(n) if is_static(n) else {"$": str(n)} for n in sizes]  # type: ignore[arg-type]


def _number(known: list[Any], item: Any) -> int:
    if item not in known:
        known.append(item)
    return known.index(item)


def complete(program: Program, compiled: Mapping[str, MachineCode]) -> Program:
    """Return a program whose launches say what their compiled kernels need."""
    return dataclasses.replace(
        program, steps=tuple(_complete_step(s, compiled) for s in program.steps)
    )


def _complete_step(step: Step, compiled: Mapping[str, MachineCode]) -> Step:
    programs = tuple(complete(p, compiled) for p in step.programs)
    if step.kind not in (StepKind.KERNEL, StepKind.COUNTED):
        return dataclasses.replace(step, programs=programs)
    spec = json.loads(step.spec)
    for launch in spec["launches"]:
        code = compiled[launch["kernel"]]
        maps = [a for a in launch["arguments"] if isinstance(a, dict)]
        for argument, (box, swizzle) in zip(maps, code.boxes, strict=True):
            argument |= {"box": list(box), "swizzle": swizzle}
        launch |= {
            "function": code.function,
            "warps": code.warps,
            "shared": code.shared_bytes,
            "scratch": code.scratch_bytes,
            "scratch_align": code.scratch_align,
        }
    return dataclasses.replace(step, programs=programs, spec=json.dumps(spec, sort_keys=True))


def target(arch: int, compiled: Mapping[str, MachineCode]) -> tuple[tuple[str, str], ...]:
    """Return what a section needs: the architecture, and a driver that loads every kernel."""
    driver = max((c.driver_version for c in compiled.values()), default=0)
    return (("arch", f"sm_{arch}"), ("device", "cuda"), ("driver", str(driver)))


def image(compiled: Mapping[str, MachineCode]) -> CodeImage:
    """Return all kernels one after the other, each at a multiple of 64 bytes."""
    parts: list[bytes] = []
    symbols: dict[str, int] = {}
    at = 0
    for digest in sorted(compiled):
        cubin = compiled[digest].cubin
        symbols[digest] = at
        padded = cubin + b"\0" * (-len(cubin) % _ALIGNMENT)
        parts.append(padded)
        at += len(padded)
    return CodeImage(code=b"".join(parts), symbols=symbols)
