"""Loads, stores, gathers, allocations and pointer arithmetic of the builder."""

from __future__ import annotations

from lamina.codegen.llvm.arithmetic import Arithmetic
from lamina.codegen.llvm.irtypes import I1, I16, I32, PTR, VOID, Type
from lamina.codegen.llvm.values import Operand, Value


class Memory(Arithmetic):
    """Instructions that touch memory; all offsets are bytes."""

    def offset(self, pointer: Value, nbytes: Operand) -> Value:
        """Return the pointer moved by a number of bytes."""
        if not isinstance(nbytes, Value):
            if nbytes == 0:
                return pointer
            return self.emit(PTR, f"getelementptr i8, {pointer}, i64 {int(nbytes)}")
        return self.emit(PTR, f"getelementptr i8, {pointer}, {nbytes}")

    def load(
        self,
        type_: Type,
        pointer: Value,
        offset: Operand = 0,
        *,
        align: int | None = None,
        mask: Value | None = None,
        other: float = 0,
        invariant: bool = False,
    ) -> Value:
        """Load a value; vectors need only the alignment of one lane unless ``align`` says more.

        Lanes outside ``mask`` are not touched and read as ``other``. ``invariant`` promises that
        the memory does not change while the function runs.
        """
        address = self.offset(pointer, offset)
        align = align or type_.scalar.nbytes
        if mask is None:
            tail = ", !invariant.load !0" if invariant else ""
            return self.emit(type_, f"load {type_}, {address}, align {align}{tail}")
        if type_.is_float and type_.bits == 16:
            # As integers: without CPU support LLVM would compute with these types lane by lane.
            if other:
                raise ValueError(f"16-bit floats outside a mask read as 0, not {other}")
            raw = self.load(I16.like(type_), address, align=align, mask=mask)
            return self.bitcast(raw, type_.scalar)
        name = f"llvm.masked.load.{type_.mangled}.p0"
        self.module.declare(name, type_, (PTR, I32, mask.type, type_))
        fallback = self.const(type_, other)
        return self.emit(type_, f"call {type_} @{name}({address}, i32 {align}, {mask}, {fallback})")

    def load_broadcast(self, type_: Type, pointer: Value, offset: Operand = 0) -> Value:
        """Load one scalar and repeat it in each lane of the vector type."""
        return self.broadcast(self.load(type_.scalar, pointer, offset), type_.lanes)

    def store(
        self,
        value: Value,
        pointer: Value,
        offset: Operand = 0,
        *,
        align: int | None = None,
        mask: Value | None = None,
        nontemporal: bool = False,
    ) -> None:
        """Store a value; lanes outside ``mask`` are left alone.

        ``nontemporal`` bypasses the caches and needs natural vector alignment.
        """
        address = self.offset(pointer, offset)
        align = align or (value.type.nbytes if nontemporal else value.type.scalar.nbytes)
        if mask is None:
            tail = ", !nontemporal !1" if nontemporal else ""
            self.emit_void(f"store {value}, {address}, align {align}{tail}")
            return
        if value.type.is_float and value.type.bits == 16:
            value = self.bitcast(value, I16)
        name = f"llvm.masked.store.{value.type.mangled}.p0"
        self.module.declare(name, VOID, (value.type, PTR, I32, mask.type))
        self.emit_void(f"call void @{name}({value}, {address}, i32 {align}, {mask})")

    def gather(
        self, type_: Type, pointer: Value, byte_offsets: Value, *, mask: Value | None = None
    ) -> Value:
        """Load each lane from ``pointer`` plus its own byte offset (a vector of integers)."""
        lanes = byte_offsets.type.lanes
        result = type_.scalar.vector(lanes)
        pointers = self._lane_pointers(pointer, byte_offsets)
        chosen = mask or self.const(I1.vector(lanes), 1)
        name = f"llvm.masked.gather.{result.mangled}.{pointers.type.mangled}"
        self.module.declare(name, result, (pointers.type, I32, chosen.type, result))
        zero = self.const(result, 0)
        align = f"i32 {type_.scalar.nbytes}"
        return self.emit(result, f"call {result} @{name}({pointers}, {align}, {chosen}, {zero})")

    def scatter(
        self, value: Value, pointer: Value, byte_offsets: Value, *, mask: Value | None = None
    ) -> None:
        """Store each lane to ``pointer`` plus its own byte offset; later lanes win."""
        pointers = self._lane_pointers(pointer, byte_offsets)
        chosen = mask or self.const(I1.vector(value.type.lanes), 1)
        name = f"llvm.masked.scatter.{value.type.mangled}.{pointers.type.mangled}"
        self.module.declare(name, VOID, (value.type, pointers.type, I32, chosen.type))
        align = f"i32 {value.type.scalar.nbytes}"
        self.emit_void(f"call void @{name}({value}, {pointers}, {align}, {chosen})")

    def _lane_pointers(self, pointer: Value, byte_offsets: Value) -> Value:
        type_ = PTR.vector(byte_offsets.type.lanes)
        return self.emit(type_, f"getelementptr i8, {pointer}, {byte_offsets}")

    def alloca(self, nbytes: int, *, align: int = 64) -> Value:
        """Reserve stack memory for the whole function and return its address."""
        name = "%" + self.fresh("stack")
        self.entry.append(f"  {name} = alloca [{nbytes} x i8], align {align}")
        return self.value(PTR, name)

    def prefetch(self, pointer: Value, offset: Operand = 0, *, locality: int = 3) -> None:
        """Ask for a cache line: locality 3 into L1, 2 into L2, 1 into L3."""
        self.module.declare("llvm.prefetch.p0", VOID, (PTR, I32, I32, I32))
        address = self.offset(pointer, offset)
        self.emit_void(f"call void @llvm.prefetch.p0({address}, i32 0, i32 {locality}, i32 1)")

    def copy(self, target: Value, source: Value, nbytes: Operand) -> None:
        """Copy bytes between places that do not overlap (memcpy)."""
        self._memory_call("llvm.memcpy.p0.p0.i64", target, source, nbytes)

    def move(self, target: Value, source: Value, nbytes: Operand) -> None:
        """Copy bytes between places that may overlap (memmove)."""
        self._memory_call("llvm.memmove.p0.p0.i64", target, source, nbytes)

    def fill(self, target: Value, byte: Value, nbytes: Operand) -> None:
        """Set bytes to one i8 value (memset)."""
        self._memory_call("llvm.memset.p0.i64", target, byte, nbytes)

    def _memory_call(self, name: str, target: Value, second: Value, nbytes: Operand) -> None:
        length = nbytes if isinstance(nbytes, Value) else self.value(_I64, str(int(nbytes)))
        self.module.declare(name, VOID, (PTR, second.type, _I64, I1))
        self.emit_void(f"call void @{name}({target}, {second}, {length}, i1 false)")


_I64 = Type("int", 64)
