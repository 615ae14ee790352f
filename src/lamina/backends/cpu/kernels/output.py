"""Stores registers of results: bias, residual, activation, and channels that do not exist."""

from __future__ import annotations

from lamina.backends.cpu.kernels import epilogue
from lamina.backends.cpu.kernels.convolution import ActivationLayout, Epilogue
from lamina.codegen.llvm.builder import BF16, F32, Builder, Operand, Type, Value

_CHEAP = frozenset({"relu", "clip", "leaky_relu", "hard_sigmoid", "hard_swish"})


def is_cheap(activation: Epilogue | None) -> bool:
    """Tell whether the activation is a few instructions, so that repeating its code is fine."""
    return activation is None or activation.kind in _CHEAP


class OutputRegister:
    """One register of output channels, at any number of pixels.

    ``remaining`` counts the channels from the register's first to the last that exists; pass None
    when all lanes exist at every call. Layouts say how padding and types are; None is dense f32.
    """

    def __init__(
        self,
        k: Builder,
        activation: Epilogue | None,
        *,
        remaining: int | Value | None = None,
        dst: ActivationLayout | None = None,
        residual: ActivationLayout | None = None,
    ) -> None:
        self.k = k
        self.type = F32.vector(k.isa.lanes(F32))
        self.activation = activation
        self.padded = dst is not None and dst.padded
        self.residual_padded = residual is not None and residual.padded
        self.dst_type = memory_type(dst)
        self.residual_type = memory_type(residual)
        self.mask = None if remaining is None else k.lane_mask(remaining, self.type.lanes)

    def load_bias(self, bias: Value, offset: int | Value = 0) -> Value:
        """Return the bias of these channels, zero in lanes that do not exist."""
        return self.k.load(self.type, bias, offset, mask=self.mask)

    def finish(self, value: Value, residual: Value | None) -> Value:
        """Return activation(value + the residual at that address)."""
        if residual is not None:
            mask = None if self.residual_padded else self.mask
            value = value + load_f32(self.k, self.residual_type, residual, mask=mask)
        return epilogue.apply(self.k, value, self.activation)

    def write(self, value: Value, dst: Value, residual: Value | None = None) -> None:
        """Finish the value and store it; missing channels become zeros in a padded layout."""
        value, mask = self.finish(value, residual), self.mask
        if mask is not None and self.padded:
            value, mask = self.k.select(mask, value, 0.0), None
        self.k.store(narrowed(self.k, value, self.dst_type), dst, mask=mask)


def memory_type(layout: ActivationLayout | None) -> Type:
    """Return the scalar type of an activation in memory."""
    return BF16 if layout is not None and layout.dtype == "bf16" else F32


def load_f32(
    k: Builder, scalar: Type, pointer: Value, offset: Operand = 0, *, mask: Value | None = None
) -> Value:
    """Load one register of channels of the given type in memory as f32."""
    return k.convert(k.load(scalar.vector(k.isa.lanes(F32)), pointer, offset, mask=mask), F32)


def narrowed(k: Builder, value: Value, scalar: Type) -> Value:
    """Return an f32 register as the given type in memory."""
    return k.convert(value, scalar, quick=True)


def register_offset(layout: ActivationLayout, register: int, lanes: int) -> int:
    """Return the bytes from a block's first channel to a register of channels."""
    return layout.channel_offset(register * lanes)
