"""What a generated kernel offers to the backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from lamina.codegen.llvm.module import Module
from lamina.codegen.llvm.nest_llvm import NestEmitter
from lamina.codegen.llvm.nest_schedule import schedule, static_size, total_weight
from lamina.codegen.llvm.nest_tile import TileEmitter
from lamina.codegen.llvm.nest_values import nest_symbols
from lamina.codegen.llvm.scalar_llvm import MEMORY_TYPES
from lamina.codegen.nest import Load, LoopNest
from lamina.ir.dims import Dim

_NANOSECONDS_PER_THREAD = 2500.0
"""Work that pays for one more thread: about what waking it costs."""


@dataclass(frozen=True)
class Reject:
    """Why no kernel can be generated."""

    reason: str


class KernelSource(Protocol):
    """A kernel that can be written into a module.

    Arguments are the inputs of the node, its outputs, ``count_slots`` addresses of i64 numbers
    (the sizes of outputs that data decides), then a workspace when ``workspace_bytes`` is not 0.
    ``params`` names the symbols whose values the kernel reads from ``params``, in order.  Each
    phase is a function of the kernel ABI; phases run one after the other.  Equal sources give
    equal code.
    """

    count_slots: ClassVar[int]

    @property
    def params(self) -> tuple[str, ...]: ...

    @property
    def phases(self) -> int: ...

    @property
    def max_threads(self) -> int: ...

    @property
    def estimated_bytes(self) -> int: ...

    def workspace_bytes(self, nthreads: int) -> Dim: ...

    def emit(self, module: Module, name: str) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class NestKernel:
    """Loop nests, run one after the other inside each phase; nests of a phase are independent.

    ``symbol_order`` overrides the order of the params, for kernels with other phases.
    """

    nests: tuple[tuple[LoopNest, ...], ...]
    workspace: Dim = 0
    symbol_order: tuple[str, ...] | None = None
    count_slots: ClassVar[int] = 0

    @property
    def params(self) -> tuple[str, ...]:
        """Return the symbols that the kernel reads, in the order of its params."""
        if self.symbol_order is not None:
            return self.symbol_order
        return tuple(sorted({s for phase in self.nests for n in phase for s in nest_symbols(n)}))

    @property
    def phases(self) -> int:
        """Return how many functions run one after the other."""
        return len(self.nests)

    @property
    def estimated_bytes(self) -> int:
        """Return the bytes moved, with symbolic sizes guessed."""
        return sum(moved_bytes(n) for phase in self.nests for n in phase)

    @property
    def max_threads(self) -> int:
        """Return how many threads the work can feed."""
        return max(1, int(sum(work(n) for p in self.nests for n in p) / _NANOSECONDS_PER_THREAD))

    def workspace_bytes(self, nthreads: int) -> Dim:
        """Return the size of the workspace, the last argument; 0 when there is none."""
        return self.workspace

    def emit(self, module: Module, name: str) -> tuple[str, ...]:
        """Write one function per phase and return their names."""
        params = {symbol: i for i, symbol in enumerate(self.params)}
        names = []
        for number, phase in enumerate(self.nests):
            names.append(name if len(self.nests) == 1 else f"{name}_{number}")
            emit_nests(module, names[-1], phase, params)
        return tuple(names)


def emit_nests(
    module: Module, name: str, nests: Sequence[LoopNest], params: Mapping[str, int]
) -> None:
    """Write a kernel that runs independent nests one after the other."""
    with module.kernel(name) as k:
        for number, nest in enumerate(nests):
            tables = [
                module.table(f"{name}.{number}.{i}", MEMORY_TYPES[t.dtype], t.values)
                for i, t in enumerate(nest.tables)
            ]
            plan = schedule(nest, module.isa)
            emitter = NestEmitter if plan.tile < 0 else TileEmitter
            emitter(k, nest, plan, params, tables).emit()


def moved_bytes(nest: LoopNest) -> int:
    """Return the bytes that a nest reads and writes, each element once."""
    total = 0
    accesses = [x.access for x in nest.program if isinstance(x, Load) and x.access.operand >= 0]
    for access in {*accesses, *(s.access for s in nest.stores)}:
        elements = 1
        for loop, stride in zip(nest.dims, access.strides, strict=True):
            elements *= static_size(loop.size) if stride != 0 else 1
        total += elements * access.dtype.itemsize
    return total


def work(nest: LoopNest) -> float:
    """Return the rough time of a nest on one thread, in nanoseconds."""
    points = 1
    for loop in nest.dims:
        points *= static_size(loop.size)
    return max(moved_bytes(nest) / 50.0, points * total_weight(nest) / 40.0)
