"""A module of kernels: functions, external declarations, constant tables, attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lamina.codegen.llvm.control import Control
from lamina.codegen.llvm.irtypes import I64, PTR, VOID, Type
from lamina.codegen.llvm.target import Isa
from lamina.codegen.llvm.values import Function, Value


class Builder(Control):
    """Writes the body of one function."""

    def __init__(self, module: Module, parameters: Sequence[Value] = ()) -> None:
        super().__init__(module)
        self.parameters = tuple(self.value(x.type, x.text) for x in parameters)


class Kernel(Builder):
    """Writes one kernel: ``void f(void** args, const i64* params, i64 tid, i64 nthreads)``."""

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self._args = self.value(PTR, "%args")
        self._params = self.value(PTR, "%params")
        self.tid = self.value(I64, "%tid")
        self.nthreads = self.value(I64, "%nthreads")

    def arg(self, index: int) -> Value:
        """Return the address of an operand, in the order that the kernel declares."""
        return self.load(PTR, self._args, 8 * index, invariant=True)

    def param(self, index: int) -> Value:
        """Return the run-time value (i64) of a symbolic dimension."""
        return self.load(I64, self._params, 8 * index, invariant=True)

    def my_range(self, total: int | Value, *, grain: int = 1) -> tuple[Value, Value]:
        """Return this thread's half-open share of ``total`` items."""
        return self.partition(total, self.tid, self.nthreads, grain=grain)


class Module:
    """LLVM text of one compilation unit for one instruction set.

    Write functions with ``with module.kernel(name) as k:`` and ``with module.function(...)``; the
    text is ``str(module)``.
    """

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._functions: dict[str, str] = {}
        self._declared: dict[str, str] = {}
        self._globals: list[str] = []
        self._handles: dict[str, Function] = {}
        self._loops = 0

    def __str__(self) -> str:
        declared = [text for name, text in self._declared.items() if name not in self._functions]
        metadata = [
            f"!{2 + i} = distinct !{{!{2 + i}, !{2 + self._loops}}}" for i in range(self._loops)
        ]
        features = ",".join(f"+{name}" for name in self.isa.features)
        return "\n".join(
            [
                'target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128'
                '-f80:128-n8:16:32:64-S128"',
                'target triple = "x86_64-unknown-linux-gnu"',
                *self._globals,
                *self._functions.values(),
                *declared,
                f'attributes #0 = {{ nounwind "target-cpu"="{self.isa.cpu}" '
                f'"target-features"="{features}" "frame-pointer"="none" '
                f'"prefer-vector-width"="{8 * self.isa.vector_bytes}" '
                f'"min-legal-vector-width"="{8 * self.isa.vector_bytes}" '
                '"no-trapping-math"="true" }',
                "!0 = !{}",
                "!1 = !{i32 1}",
                *metadata,
                f'!{2 + self._loops} = !{{!"llvm.loop.unroll.disable"}}',
                "",
            ]
        )

    @property
    def functions(self) -> tuple[str, ...]:
        """Return the names of all functions written so far."""
        return tuple(self._functions)

    def declare(self, name: str, result: Type, parameters: tuple[Type, ...]) -> Function:
        """Declare an external function or intrinsic and return its handle."""
        if name not in self._declared:
            types = ", ".join(str(t) for t in parameters)
            # prefetch and the memory intrinsics need constants there; LLVM adds what is missing.
            self._declared[name] = f"declare {result} @{name}({types})"
        return Function(name, result, parameters)

    def table(self, name: str, scalar: Type, values: Sequence[float]) -> Value:
        """Store a constant array in the image and return its address for use in any function."""
        items = ", ".join(f"{scalar} {scalar.constant(v)}" for v in values)
        self._globals.append(
            f"@{name} = internal unnamed_addr constant [{len(values)} x {scalar}] "
            f"[{items}], align 64"
        )
        return Builder(self).value(PTR, f"@{name}")

    def loop_metadata(self) -> str:
        """Return fresh loop metadata: kernels are unrolled where they are written, not by LLVM."""
        self._loops += 1
        return f"!{1 + self._loops}"

    @contextmanager
    def kernel(self, name: str) -> Iterator[Kernel]:
        """Write an exported kernel."""
        builder = Kernel(self)
        yield builder
        builder.emit_void("ret void")
        head = f"define void @{name}(ptr %args, ptr %params, i64 %tid, i64 %nthreads) #0 {{"
        self._finish(name, head, builder)

    @contextmanager
    def function(
        self,
        name: str,
        parameters: Sequence[tuple[str, Type]],
        result: Type = VOID,
        *,
        inline: bool = False,
    ) -> Iterator[Builder]:
        """Write a function private to the module; a void one returns at its end by itself.

        Its parameters are ``builder.parameters``; pointers must not alias one another. Call it
        through ``module.handle(name)``.
        """
        values = [Value(Builder(self), t, f"%{n}") for n, t in parameters]
        builder = Builder(self, values)
        self._declared[name] = ""
        self._handles[name] = Function(name, result, tuple(t for _, t in parameters))
        yield builder
        if result == VOID:
            builder.emit_void("ret void")
        listed = ", ".join(f"{t} noalias %{n}" if t == PTR else f"{t} %{n}" for n, t in parameters)
        hint = "alwaysinline" if inline else "noinline"
        self._finish(name, f"define internal {result} @{name}({listed}) {hint} #0 {{", builder)

    def handle(self, name: str) -> Function:
        """Return the handle of a function written (or being written) in this module."""
        return self._handles[name]

    def _finish(self, name: str, head: str, builder: Builder) -> None:
        if name in self._functions:
            raise ValueError(f"function {name} is written twice")
        body = ["entry:", *builder.entry, *builder.lines]
        self._functions[name] = "\n".join([head, *body, "}"])
