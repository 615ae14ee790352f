"""What a tactic offers for a node, and the step that it turns into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from lamina.codegen.layout import Layout
from lamina.ir.attributes import attribute_symbols
from lamina.ir.dims import Dim
from lamina.ir.graph import Node, Value
from lamina.ir.pattern import Reject
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.ops import Const, Nms, NonZero
from lamina.plan.plan import StepKind
from lamina.tactics.form import Form


@dataclass(frozen=True)
class Read:
    """Operand number ``index`` of the node."""

    index: int


@dataclass(frozen=True)
class Write:
    """Result number ``index`` of the node."""

    index: int


@dataclass(frozen=True)
class Blob:
    """A constant made for this step, such as packed weights."""

    weight: Weight


@dataclass(frozen=True)
class Packed:
    """A constant made for this step that takes long to make: only a chosen candidate's is made.

    Candidates are timed on random elements of ``dtype`` in its place.
    """

    dtype: DType
    size_bytes: int
    make: Callable[[], Weight]


@dataclass(frozen=True)
class Scratch:
    """The workspace of the step."""


@dataclass(frozen=True)
class Count:
    """Where a kernel writes the size that its data decides."""


Role = Read | Write | Blob | Packed | Scratch | Count


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A step whose tensors are not numbered yet; ``module`` is the LLVM text of its kernels."""

    kind: StepKind
    arguments: tuple[Role, ...]
    names: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    parameters: tuple[Dim, ...] = ()
    threads: int = 1
    workspace_bytes: Dim = 0
    spec: str = ""
    defines: tuple[str, ...] = ()
    module: str = ""
    is_reference: bool = False
    """Whether it is code that the library keeps for completeness, far slower than any other."""


@dataclass(frozen=True)
class Placement:
    """Where operands and results lie, and what the names of its kernels begin with."""

    operands: tuple[Layout, ...]
    results: tuple[Layout, ...]
    name: str


@dataclass(frozen=True)
class Candidate:
    """One way to run a node: forms it reads (None: a constant it packs itself) and writes."""

    tactic: str
    reads: tuple[Form | None, ...]
    writes: tuple[Form, ...]
    estimate_microseconds: float
    draft: Callable[[Placement], Draft]
    key: str = ""
    """Equal for candidates that need the same code when their operands lie alike; "" for none."""
    takes_strides: bool = True
    """Whether operands and results may have gaps between their rows."""
    overwrites: int | None = None
    """Operand whose memory the result takes over (it must hold that operand's contents)."""


Target_contra = TypeVar("Target_contra", contravariant=True)


class Tactic(Protocol[Target_contra]):
    """One source of kernels for a kind of device."""

    name: str

    def candidates(self, node: Node, target: Target_contra) -> list[Candidate] | Reject | None:
        """Return what it offers for a node, a reason why not, or None for foreign operators."""


COUNTED: Final = (NonZero, Nms)
"""Operators whose attribute ``count`` is a symbol that their data gives a number."""


def constant(value: Value) -> Weight | None:
    """Return the contents of a constant value, or None."""
    return value.node.op.weight if value.node and isinstance(value.node.op, Const) else None


def concrete(type: TensorType, env: Mapping[str, int]) -> TensorType:
    """Return a type with the likeliest sizes."""
    return type.substitute(dict(env))


def sizes_known(node: Node, env: Mapping[str, int]) -> bool:
    """Whether every size of a node is a number or has a likeliest value (data decides others)."""
    values = (*node.inputs, *node.outputs)
    return all(s in env for v in values for s in attribute_symbols(v.type))
