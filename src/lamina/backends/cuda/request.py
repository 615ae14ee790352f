"""What a CUDA tactic asks for: kernels to compile, and launches of them.

A :class:`KernelRequest` says everything that decides the machine code of a kernel, so its digest
names the kernel in the plan and in the cache on disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lamina.ir.dims import Dim
from lamina.tactics.candidate import Role

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
    rounded_descriptors: int = 0
    """How many of the descriptors that the kernel makes first round f32 numbers to TF32."""

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
class Counters:
    """Zeroed i32 numbers, private to the step; the kernel leaves them zero again."""

    count: int


Argument = Role | Scalar | Counters


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


AnyDraft = CudaDraft | LibraryDraft
"""What the candidates of a node turn into."""
