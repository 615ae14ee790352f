"""Loops, branches, calls and the division of work among threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from lamina.codegen.llvm.irtypes import I64, VOID
from lamina.codegen.llvm.memory import Memory
from lamina.codegen.llvm.values import Function, Operand, Value


@dataclass
class Loop:
    """A counted loop being built: its index, carried values, and after it their results."""

    index: Value
    values: tuple[Value, ...]
    results: tuple[Value, ...] = ()
    _next: tuple[Value, ...] | None = None

    def next(self, *values: Value) -> None:
        """Set the carried values of the next iteration; call once at the end of the body."""
        self._next = values


@dataclass
class Branch:
    """A conditional block; ``with branch.otherwise():`` right after it adds the other case."""

    control: Control
    _jump_line: int
    _condition: Value
    _labels: tuple[str, str]
    _else_label: str = field(default="")

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """Build what runs when the condition does not hold."""
        control, (then, end) = self.control, self._labels
        if control.block != end or control.lines[-1] != f"{end}:":
            raise ValueError("otherwise() must follow its branch immediately")
        control.lines.pop()
        label = control.fresh("else")
        control.lines[self._jump_line] = f"  br {self._condition}, label %{then}, label %{label}"
        control.start_block(label)
        yield
        control.emit_void(f"br label %{end}")
        control.start_block(end)


class Control(Memory):
    """Control flow; every construct is a context manager, so blocks nest as Python's do."""

    def start_block(self, label: str) -> None:
        """Begin a basic block."""
        self.lines.append(f"{label}:")
        self.block = label

    @contextmanager
    def loop(
        self,
        start: int | Value,
        stop: int | Value,
        step: int | Value = 1,
        *,
        carry: Sequence[Value] = (),
    ) -> Iterator[Loop]:
        """Run the body for index start, start + step, … below stop (i64; step > 0).

        ``carry`` holds the initial values of variables that the body updates through
        ``loop.next(...)``; their last values are in ``loop.results`` after the block.
        """
        first, last = self.coerce(start, I64), self.coerce(stop, I64)
        body, end = self.fresh("loop"), self.fresh("end")
        before = self.block
        known = isinstance(start, int) and isinstance(stop, int) and start < stop
        if known:
            self.emit_void(f"br label %{body}")
        else:
            runs = self.compare("lt", first, last)
            self.emit_void(f"br {runs}, label %{body}, label %{end}")
        self.start_block(body)
        index = self.value(I64, "%" + self.fresh("i"))
        values = tuple(self.value(x.type, "%" + self.fresh("c")) for x in carry)
        phi_line = len(self.lines)
        self.lines.extend([""] * (1 + len(values)))
        loop = Loop(index, values)
        yield loop
        following = loop._next if loop._next is not None else values
        if len(following) != len(values):
            raise ValueError(f"loop carries {len(values)} values, next() got {len(following)}")
        advanced = self.binary("add", index, step)
        again = self.compare("lt", advanced, last)
        latch = self.block
        tag = self.module.loop_metadata()
        self.emit_void(f"br {again}, label %{body}, label %{end}, !llvm.loop {tag}")
        for line, phi, initial, update in zip(
            range(phi_line, phi_line + 1 + len(values)),
            (index, *values),
            (first, *carry),
            (advanced, *following),
            strict=True,
        ):
            self.lines[line] = (
                f"  {phi.text} = phi {phi.type} "
                f"[{initial.text}, %{before}], [{update.text}, %{latch}]"
            )
        self.start_block(end)
        loop.results = tuple(
            new
            if known
            else self.emit(
                new.type, f"phi {new.type} [{old.text}, %{before}], [{new.text}, %{latch}]"
            )
            for old, new in zip(carry, following, strict=True)
        )

    @contextmanager
    def if_(self, condition: Value) -> Iterator[Branch]:
        """Build what runs only when the condition (i1) holds."""
        then, end = self.fresh("then"), self.fresh("join")
        branch = Branch(self, len(self.lines), condition, (then, end))
        self.emit_void(f"br {condition}, label %{then}, label %{end}")
        self.start_block(then)
        yield branch
        self.emit_void(f"br label %{end}")
        self.start_block(end)

    def partition(
        self, total: int | Value, part: int | Value, parts: int | Value, *, grain: int = 1
    ) -> tuple[Value, Value]:
        """Return the half-open range of ``total`` items that one of ``parts`` threads takes.

        Ranges differ by at most one grain and start at multiples of ``grain``.
        """
        count = self.coerce(total, I64)
        grains = (count + (grain - 1)) // grain if grain > 1 else count
        index, number = self.coerce(part, I64), self.coerce(parts, I64)
        start = (grains * index) // number * grain
        stop = self.min((grains * (index + 1)) // number * grain, count)
        return start, stop

    def vectorized(
        self,
        start: int | Value,
        stop: int | Value,
        lanes: int,
        body: Callable[[Value, Value | None], None],
        *,
        unroll: int = 1,
    ) -> None:
        """Call ``body(index, mask)`` for whole vectors (mask None), then for the masked rest."""
        length = stop - start if isinstance(start, int) and isinstance(stop, int) else None
        for factor in {unroll, 1} if unroll > 1 else {1}:
            if factor == 1:
                continue
            whole = self.coerce(stop, I64) - (factor * lanes - 1)
            with self.loop(start, whole, factor * lanes) as block:
                for step in range(factor):
                    body(block.index + step * lanes, None)
            done = (self.coerce(stop, I64) - start) // (factor * lanes) * (factor * lanes)
            start = self.coerce(start, I64) + done
        with self.loop(start, self.coerce(stop, I64) - (lanes - 1), lanes) as whole_loop:
            body(whole_loop.index, None)
        if length is not None and length % lanes == 0:
            return
        rest = self.coerce(stop, I64) - start
        tail = self.coerce(stop, I64) - rest % lanes
        with self.if_(tail < stop):
            body(tail, self.lane_mask(self.coerce(stop, I64) - tail, lanes))

    def call(self, function: Function, *operands: Operand) -> Value:
        """Call a function of the module or an external one; a void result must not be used."""
        arguments = ", ".join(
            str(self.coerce(x, t)) for x, t in zip(operands, function.parameters, strict=True)
        )
        text = f"call {function.result} @{function.name}({arguments})"
        if function.result == VOID:
            self.emit_void(text)
            return self.value(VOID, "")
        return self.emit(function.result, text)

    def ret(self, value: Value | None = None) -> None:
        """Return from the function; a kernel needs none."""
        self.emit_void("ret void" if value is None else f"ret {value}")
