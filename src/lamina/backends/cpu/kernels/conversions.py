"""Conversions between f16 and f32 as kernels, which plans hold for refits and for loading.

They are the same for all plans of an instruction set; the number of elements is a parameter.
:mod:`lamina.backends.cpu.weights.native` calls them.
"""

from __future__ import annotations

from lamina.backends.cpu.weights.native import CONVERSIONS, LANES
from lamina.codegen.llvm.builder import F16, F32, I16, I32, Kernel, Module, Value
from lamina.codegen.llvm.target import Isa


def module_text(isa: Isa) -> str:
    """Return a module with a kernel for each pair of types."""
    module = Module(isa)
    for (_, target), name in CONVERSIONS.items():
        with module.kernel(name) as k:
            _write(k, narrow=target.itemsize == 2)
    return str(module)


def _write(k: Kernel, *, narrow: bool) -> None:
    """Write the elements of the first operand as the other type into the second one.

    The parameter is the number of elements, whole vectors of ``LANES``.
    """
    source, result, elements = k.arg(0), k.arg(1), k.param(0)
    bytes_read, bytes_written = (4, 2) if narrow else (2, 4)
    type_ = (F32 if narrow else F16).vector(LANES)
    with k.loop(0, elements, LANES) as loop:
        x = k.load(type_, source, loop.index * bytes_read)
        y = _narrowed(k, x) if narrow else _widened(k, x)
        k.store(y, result, loop.index * bytes_written)


# The CPU's instructions round to nearest even and keep denormals, but they make signaling NaNs
# quiet.  NumPy keeps the bits of a NaN, and so do these, or a refit would not give the bits of the
# build.


def _narrowed(k: Kernel, x: Value) -> Value:
    """Return f32 numbers as the bits of f16 ones."""
    bits = k.bitcast(x, I32)
    payload = (bits >> 13) & 0x3FF
    # It must stay a NaN when all bits that f16 has room for are zero.
    payload = k.select(k.compare("eq", payload, k.const(payload.type, 0)), 1, payload)
    nan = ((bits >> 16) & 0x8000) | 0x7C00 | payload
    number = k.bitcast(k.convert(x, F16), I16)
    return k.select(k.is_nan(x), k.convert(nan, I16), number)


def _widened(k: Kernel, x: Value) -> Value:
    """Return f16 numbers as the bits of f32 ones."""
    half = k.convert(k.bitcast(x, I16), I32, signed=False)
    nan = ((half & 0x8000) << 16) | 0x7F800000 | ((half & 0x3FF) << 13)
    wide = k.convert(x, F32)
    return k.select(k.is_nan(wide), nan, k.bitcast(wide, I32))
