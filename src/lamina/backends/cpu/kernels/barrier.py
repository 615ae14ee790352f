"""A barrier for the threads of one kernel that runs through many short steps."""

from __future__ import annotations

from lamina.codegen.llvm.builder import I32, I64, VOID, Kernel, Value

_SPINS = 4096
"""Looks at the counter before the thread offers its core to another one."""


class Barrier:
    """Threads count arrivals in memory that is 0 when the kernel starts.

    All threads of a kernel run at the same time, each on a system thread of its own, so waiting
    for one another cannot block; starting a parallel region for every step would cost more.
    """

    def __init__(self, k: Kernel, counter: Value) -> None:
        self.k, self.counter = k, counter
        self.expected = k.alloca(8)
        k.store(k.const(I64, 0), self.expected)

    def wait(self) -> None:
        """Go on when every thread has arrived; what they wrote before is visible then."""
        k = self.k
        target = k.load(I64, self.expected) + k.nthreads
        k.store(target, self.expected)
        k.module.declare("llvm.x86.sse2.pause", VOID, ())
        k.module.declare("sched_yield", I32, ())
        k.emit(I64, f"atomicrmw add {self.counter}, i64 1 acq_rel")
        begin, look, again, rest, end = (
            k.fresh(x) for x in ("arrive", "look", "again", "rest", "met")
        )
        k.emit_void(f"br label %{begin}")
        k.start_block(begin)
        k.emit_void(f"br label %{look}")
        k.start_block(look)
        number, following = "%" + k.fresh("spin"), "%" + k.fresh("spin")
        k.lines.append(f"  {number} = phi i64 [0, %{begin}], [{following}, %{again}], [0, %{rest}]")
        seen = k.emit(I64, f"load atomic i64, {self.counter} acquire, align 8")
        done = k.compare("lt", seen, target)
        k.emit_void(f"br {done}, label %{again}, label %{end}")
        k.start_block(again)
        k.emit_void("call void @llvm.x86.sse2.pause()")
        k.lines.append(f"  {following} = add i64 {number}, 1")
        patient = k.compare("lt", k.value(I64, following), k.const(I64, _SPINS))
        k.emit_void(f"br {patient}, label %{look}, label %{rest}")
        k.start_block(rest)
        k.emit(I32, "call i32 @sched_yield()")
        k.emit_void(f"br label %{look}")
        k.start_block(end)
