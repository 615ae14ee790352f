"""The plan: what the compiler hands to the runtime.  Plain data, no behaviour.

A plan holds the portable graph (text form and weights) and one compiled *section* per target.  A
section is a program: tensors, and steps in the order in which they run.  Sizes may be dimensions
with symbols; the runtime evaluates them when it sees the shapes of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from lamina.ir.dims import Dim
from lamina.ir.types import ValueType
from lamina.ir.weight import Weight

WORKSPACE: Final = -1
COUNT: Final = -2
"""Arguments of kernels that are no tensors."""


class Place(StrEnum):
    """Where the bytes of a tensor are."""

    INPUT = "input"
    """In the caller's array number ``index``."""
    OUTPUT = "output"
    """In the result array number ``index``."""
    CONSTANT = "constant"
    """In the plan's blob number ``index``."""
    ARENA = "arena"
    """In the context's arena."""
    VIEW = "view"
    """In tensor number ``index``, ``offset`` bytes from its begin."""
    HOST = "host"
    """A Python object: a sequence, an optional, strings."""


class StepKind(StrEnum):
    """How a step is run."""

    KERNEL = "kernel"
    """Compiled code of the section's image."""
    PRIMITIVE = "primitive"
    """A primitive of the device's library."""
    COUNTED = "counted"
    """Compiled code that decides a size of its result."""
    HOST = "host"
    """The NumPy meaning of an operator."""
    CALLBACK = "callback"
    """An operator that enqueues work on the device itself."""
    IF = "if"
    LOOP = "loop"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One value as it lies in memory.

    ``size_bytes`` is the physical size (padding of blocked layouts included), 0 for host objects.
    """

    name: str
    type: ValueType
    layout: str
    place: Place
    index: int = 0
    offset: Dim = 0
    size_bytes: Dim = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A tactic that was tried for a step, with its time."""

    tactic: str
    microseconds: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One unit of work.  ``reads`` and ``writes`` are numbers of tensors.

    For kernels: ``symbols`` are the functions to call in order, each with ``arguments`` (numbers of
    tensors, or ``WORKSPACE``) and ``parameters``.  For primitives: ``spec`` describes the
    primitive as JSON text whose dimensions may be expressions, ``names`` says which argument each
    of ``arguments`` is.  For host steps and
    callbacks: ``spec`` is the operator in text form.  ``programs`` are
    the branches or the body of control flow.  ``defines`` are symbols known once the step has run:
    a counted step is a kernel that gives one symbol its number, which it writes to the argument
    ``COUNT``; the last of ``parameters`` is the largest number possible.
    """

    kind: StepKind
    name: str
    tactic: str
    loc: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    arguments: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    parameters: tuple[Dim, ...] = ()
    threads: int = 1
    workspace_bytes: Dim = 0
    spec: str = ""
    programs: tuple[Program, ...] = ()
    defines: tuple[str, ...] = ()
    microseconds: float = 0.0
    tried: tuple[Measurement, ...] = ()
    declined: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output as the user sees it; ``tensor`` is its number in the program."""

    name: str
    type: ValueType
    tensor: int


@dataclass(frozen=True, kw_only=True)
class Program:
    """Steps over tensors, with named inputs and outputs."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tensors: tuple[Tensor, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class CodeImage:
    """Position-independent machine code: see ``lamina.codegen.llvm.link``."""

    code: bytes = b""
    symbols: Mapping[str, int] = field(default_factory=dict)
    externals: tuple[tuple[str, int], ...] = ()


PROFILE: Final = "profile"
"""In a section's target: the optimization profile that it alone was built for."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A program compiled for one target.

    ``target`` is what the machine must offer; ``blobs`` are the constants, of which ``halves``
    numbers those that are stored as f16 and read as f32.
    """

    target: tuple[tuple[str, str], ...]
    program: Program
    image: CodeImage
    blobs: tuple[Weight, ...]
    halves: tuple[int, ...] = ()
    recipes: str = ""
    """How constants follow from named weights: see :mod:`lamina.plan.recipes`."""
    literals: tuple[Weight, ...] = ()
    """Arrays in recipes that depend on no named weight."""
    absent: tuple[int, ...] = ()
    """Blobs whose contents are left out: see :mod:`lamina.plan.strip`."""
    operations: tuple[Dim, ...] = ()
    """Additions and multiplications that each step asks for; () where they were not counted."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything an engine needs; equal plans have equal bytes.

    ``graph`` is the portable graph in text form, ``weights`` its constants by digest, ``config``
    the options of the build as sorted (name, JSON text) pairs.
    """

    graph: str
    weights: Mapping[str, Weight]
    config: tuple[tuple[str, str], ...]
    ranges: tuple[tuple[str, int, int, int], ...]
    """Symbol, smallest, likeliest and largest value."""
    sections: tuple[Section, ...]
    fallbacks: tuple[str, ...] = ()
    """What runs on the host, one line each."""
    notes: tuple[tuple[str, str], ...] = ()
    """What a front end keeps beside the plan: sorted (name, text) pairs that nothing here reads."""
    renewed: Mapping[str, Weight] = field(default_factory=dict)
    """Weights by name that a refit has given, in place of those of ``graph``."""
