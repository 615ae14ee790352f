"""Kernels of plugins for a GPU, described without the backend that compiles and launches them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lamina.ir.dims import Dim
from lamina.ir.types import TensorType
from lamina.ops.plugin import PluginCall

Number = int | float | bool | str | None

MACHINE_CODE = "base64:"
"""Begins what is machine code and no PTX."""


@dataclass(frozen=True)
class OperandPointer:
    """The address of operand ``index``."""

    index: int


@dataclass(frozen=True)
class ResultPointer:
    """The address of result ``index``."""

    index: int


@dataclass(frozen=True)
class WorkspacePointer:
    """The address of memory that the launches of one call share."""


@dataclass(frozen=True)
class SizeArgument:
    """A number that is known at the latest when the shapes of the inputs are."""

    value: Dim
    type: str = "i32"
    """Integer type of the parameter, such as ``i32``."""


PluginArgument = OperandPointer | ResultPointer | WorkspacePointer | SizeArgument


@dataclass(frozen=True, kw_only=True)
class TritonFunction:
    """A Triton function as text that stands alone, with the numbers that decide its code.

    ``parameters`` are the names of what is passed at a launch, ``constants`` the others.
    """

    text: str
    parameters: tuple[str, ...]
    constants: tuple[tuple[str, Number], ...]
    stages: int = 3


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """PTX text of a kernel; ``shared_bytes`` is the dynamic shared memory of a block.

    Machine code (an ELF image for one kind of device) may stand in its place, in base 64 behind
    :data:`MACHINE_CODE`.
    """

    text: str
    shared_bytes: int


@dataclass(frozen=True, kw_only=True)
class PluginLaunch:
    """One launch of the kernel ``function``: ``grid`` in blocks of ``warps`` times 32 threads.

    ``block`` says how many threads there are along three axes, where not all are along the first.
    """

    function: str
    code: TritonFunction | Assembly
    grid: tuple[Dim, ...]
    arguments: tuple[PluginArgument, ...]
    warps: int = 4
    block: tuple[int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class PluginVariant:
    """One way to compute a plugin: launches that run one after the other.

    ``name`` tells it from the other ways.  ``overwrites`` has, for each result that a kernel
    changes in place, the number of the operand whose contents it begins with.
    """

    name: str
    launches: tuple[PluginLaunch, ...]
    workspace_bytes: Dim = 0
    overwrites: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Device:
    """What kernels are made for: the compute capability times ten."""

    arch: int


KernelProvider = Callable[[PluginCall, Sequence[TensorType], Device], Sequence[PluginVariant]]

KERNELS: dict[str, KernelProvider] = {}
"""Returns the ways to compute a plugin on operands of these types, by the kind of plugin.

Kinds register themselves as in :data:`lamina.ops.plugin.PROVIDERS`.  A provider returns nothing
for a plugin without kernels, and raises a LaminaError with the traceback for one that fails.
"""
