"""What a CUDA tactic asks for: kernels to compile, and launches of them.

A :class:`KernelRequest` says everything that decides the machine code of a kernel, so its digest
names the kernel in the plan and in the cache on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from lamina.backends.cuda.primitive import Answer, Ask
from lamina.ir.dims import Dim
from lamina.ir.types import DType
from lamina.tactics.candidate import Placement, Role

Number = int | float | bool | str | None

MODULE = "module:"
"""Begins the ``source`` of a request whose function stands in an importable module."""

ASSEMBLY = "assembly:"
"""Begins the ``source`` of a request that is PTX already.

Behind it stand the bytes of dynamic shared memory, a line break, and the PTX.
"""


@dataclass(frozen=True, kw_only=True)
class KernelRequest:
    """A Triton kernel with its constants and options.

    ``source`` is ``module:`` and the name of a module, the text of one, or ``assembly:`` and PTX.
    ``parameters`` are (name, Triton type such as ``*fp16`` or ``i32``) of what is passed at a
    launch, in the order of the function's signature; ``constants`` are the ``tl.constexpr`` ones.
    ``divisible`` names the parameters that are multiples of 16 (for pointers: bytes).  With
    ``dependent`` the kernel calls ``gdc_wait`` before it reads what an earlier kernel wrote, and
    may start before that one has ended.
    """

    function: str
    source: str
    parameters: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Number], ...] = ()
    divisible: tuple[str, ...] = ()
    warps: int = 4
    stages: int = 3
    dependent: bool = False
    most_registers: int = 0
    """Registers a thread may use; 0 leaves it to the compiler."""
    releases_early: bool = False
    """Whether it lets the next kernel start before it has waited itself, not behind that."""

    def key(self) -> str:
        """Return the request as text: equal requests have equal text."""
        return json.dumps([getattr(self, f) for f in self.__dataclass_fields__], sort_keys=True)

    def digest(self) -> str:
        """Return the name of the kernel: 16 hexadecimal digits."""
        return hashlib.blake2b(self.key().encode(), digest_size=8).hexdigest()


def read_key(text: str) -> KernelRequest:
    """Return the request whose key is ``text``."""
    names = KernelRequest.__dataclass_fields__
    values = dict(zip(names, json.loads(text), strict=True))
    for name in ("parameters", "constants"):
        values[name] = tuple((of, value) for of, value in values[name])
    return KernelRequest(**values | {"divisible": tuple(values["divisible"])})


@dataclass(frozen=True)
class Scalar:
    """An integer argument: a dimension that is known when the shapes of the inputs are."""

    value: Dim


@dataclass(frozen=True)
class Direction(Scalar):
    """0 where programs work off tiles from the first on, 1 from the last; see ``directed``."""

    value: Dim = 0


@dataclass(frozen=True)
class Counters:
    """Zeroed i32 numbers, private to the step; the kernel leaves them zero again."""

    count: int


@dataclass(frozen=True)
class Boxes:
    """A tensor that the copy engine moves in boxes: its parameter's type is a ``tensordesc``.

    ``sizes`` and ``strides`` are in elements, neighbours along the last axis.  With ``rounded``
    f32 numbers come as TF32 ones.
    """

    role: Role
    dtype: DType
    sizes: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    rounded: bool = False

    @property
    def element(self) -> str:
        """Return what the elements are called in a tensor map."""
        return "tf32" if self.rounded else self.dtype.value


Argument = Role | Scalar | Counters | Boxes


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One launch: the grid in programs and one argument for each parameter, in order."""

    kernel: KernelRequest
    grid: tuple[Dim, Dim, Dim]
    arguments: tuple[Argument, ...]
    block: tuple[int, int, int] | None = None
    """Threads of a block along three axes; None for those of the kernel's warps along one."""


@dataclass(frozen=True, kw_only=True)
class CudaDraft:
    """A step that is not numbered yet: launches that run one after the other.

    With ``defines`` they write the number of that symbol, ``largest_count`` at most, to the role
    ``Count``, and their one result into memory for the largest.
    """

    launches: tuple[Launch, ...]
    workspace_bytes: Dim = 0
    defines: tuple[str, ...] = ()
    largest_count: Dim = 0


@dataclass(frozen=True, kw_only=True)
class LibraryDraft:
    """A step that is not numbered yet: a problem that a library of the device works on.

    ``problem`` is plain data in which sizes may be dimensions; what its fields mean and what the
    operands are called is the library's own.  ``plan`` is the algorithm as the library wrote it
    down, if that is more than a field.
    """

    library: str
    problem: Mapping[str, Any]
    operands: tuple[tuple[str, Role], ...]
    plan: bytes = b""
    workspace_bytes: Dim = 0

    @property
    def launches(self) -> tuple[Launch, ...]:
        """Return the launches of kernels to compile, of which there are none."""
        return ()


def has_direction(draft: CudaDraft | LibraryDraft) -> bool:
    """Whether the kernels of a draft can begin at either end."""
    return any(isinstance(a, Direction) for x in draft.launches for a in x.arguments)


def directed(draft: CudaDraft, *, backwards: bool) -> CudaDraft:
    """Return launches that begin with the last tile, or with the first, where they can choose."""
    chosen = Direction(int(backwards))
    launches = [
        replace(x, arguments=tuple(chosen if isinstance(a, Direction) else a for a in x.arguments))
        for x in draft.launches
    ]
    return replace(draft, launches=tuple(launches))


@runtime_checkable
class PlannedAhead(Protocol):
    """What makes a step of a library whose plan takes long to make."""

    def begin(self, at: Placement, ask: Ask) -> Future[Answer] | None:
        """Have the plan for a placement made by another process; None where it is not needed."""


AnyDraft = CudaDraft | LibraryDraft
"""What the candidates of a node turn into."""
