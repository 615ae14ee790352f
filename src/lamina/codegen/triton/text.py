"""The text of a Triton function while it is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lamina.ir.dims import Dim, Expr, divides
from lamina.ir.types import DType

TYPES: dict[DType, str] = {
    DType.F64: "fp64",
    DType.F32: "fp32",
    DType.F16: "fp16",
    DType.BF16: "bf16",
    DType.BOOL: "i8",
    DType.I8: "i8",
    DType.U8: "u8",
    DType.I16: "i16",
    DType.U16: "u16",
    DType.I32: "i32",
    DType.U32: "u32",
    DType.I64: "i64",
    DType.U64: "u64",
}
"""The name of an element in memory, as signatures of kernels spell it."""

LANGUAGE_TYPES: dict[DType, str] = {
    DType.F64: "tl.float64",
    DType.F32: "tl.float32",
    DType.F16: "tl.float16",
    DType.BF16: "tl.bfloat16",
    DType.BOOL: "tl.int1",
    **{d: f"tl.{'int' if d.is_signed else 'uint'}{d.bits}" for d in DType if d.is_integer},
}
"""The name of an element type inside a kernel."""

ALIGNMENT = 16


class Text:
    """Lines of a function, fresh names, and the sizes that it takes as arguments.

    ``prefix`` keeps the arguments of several functions of one kernel apart.
    """

    def __init__(self, prefix: str = "") -> None:
        self.lines: list[str] = []
        self.dims: dict[Dim, str] = {}
        self.helpers: set[str] = set()
        self._prefix, self._depth, self._names = prefix, 1, 0

    def line(self, text: str) -> None:
        """Add a line at the current depth."""
        self.lines.append("    " * self._depth + text)

    def fresh(self) -> str:
        """Return a new name."""
        self._names += 1
        return f"v{self._names}"

    def name(self, value: str) -> str:
        """Assign a value to a new name and return the name."""
        name = self.fresh()
        self.line(f"{name} = {value}")
        return name

    def wait(self) -> None:
        """Wait for what the kernel ahead writes, and let the next one start."""
        with self.block("if DEPENDENT:"):
            self.line("gdc_wait()")
            self.line("gdc_launch_dependents()")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Indent what follows under a ``for`` or an ``if``."""
        self.line(head)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def dim(self, d: Dim) -> str:
        """Return a size: a literal, or the argument that holds it."""
        if not isinstance(d, Expr):
            return str(int(d))
        return self.dims.setdefault(d, f"{self._prefix}n{len(self.dims)}")

    def divisible(self) -> tuple[str, ...]:
        """Return the arguments that are multiples of 16 whatever the symbols are."""
        return tuple(name for d, name in self.dims.items() if divides(ALIGNMENT, d))
