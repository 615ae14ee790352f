"""What a primitive does besides its own operation: fused operations, quantization, precision."""

from __future__ import annotations

from dataclasses import dataclass

from lamina.backends.cpu.onednn.enums import BINARY, DTYPE, ELTWISE, FPMATH_MODE
from lamina.backends.cpu.onednn.memory import Layout
from lamina.errors import DeviceError


@dataclass(frozen=True)
class EltwisePostOp:
    """Apply a function to each result.

    ``relu``: slope ``alpha`` below zero; ``clip``: to [alpha, beta]; ``linear``: alpha·x + beta;
    ``elu``: alpha·(exp(x) - 1) below zero; ``swish``: x·sigmoid(alpha·x); ``hardswish``:
    x·clip(alpha·x + beta, 0, 1); ``hardsigmoid``: clip(alpha·x + beta, 0, 1); ``pow``:
    alpha·x^beta; and ``tanh logistic gelu_tanh gelu_erf exp log sqrt square abs mish round
    soft_relu`` as their names say (soft_relu: log(1 + exp(alpha·x)) / alpha).
    """

    algorithm: str
    alpha: float = 0.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if self.algorithm not in ELTWISE:
            raise DeviceError(f"oneDNN has no elementwise function {self.algorithm}")


@dataclass(frozen=True)
class SumPostOp:
    """Add ``scale * (old contents of dst - zero_point)``; dtype reinterprets dst's elements."""

    scale: float = 1.0
    zero_point: int = 0
    dtype: str | None = None


@dataclass(frozen=True)
class BinaryPostOp:
    """Combine each result with the broadcast elements of another tensor.

    The operand has the rank of dst, with 1 where it is repeated; pass its data as argument
    ``post_op[i]``, i being the position in the chain.
    """

    algorithm: str
    operand: Layout

    def __post_init__(self) -> None:
        if self.algorithm not in BINARY:
            raise DeviceError(f"oneDNN has no binary function {self.algorithm}")


@dataclass(frozen=True)
class PReluPostOp:
    """Multiply negative results by slopes, passed as argument ``post_op_weights[i]``.

    The slopes have the rank of dst, with 1 where one slope is repeated, and are dense.
    """

    slopes: Layout

    @property
    def mask(self) -> int:
        """Bit a is set where slopes vary along axis a."""
        return sum(1 << axis for axis, size in enumerate(self.slopes.dims) if size != 1)


@dataclass(frozen=True)
class DepthwisePostOp:
    """Feed a 1×1 convolution's result through a depthwise one without storing it whole.

    Its data are the arguments ``depthwise_weights`` (goihw) and ``depthwise_bias``.
    """

    kernel: int = 3
    stride: int = 1
    padding: int = 1
    weights_dtype: str = "f32"
    bias_dtype: str | None = "f32"
    dst_dtype: str = "f32"


PostOp = EltwisePostOp | SumPostOp | BinaryPostOp | PReluPostOp | DepthwisePostOp


@dataclass(frozen=True)
class Scale:
    """Factors of an operand, passed as argument ``scale_<argument>`` in f32.

    ``mask`` has bit a set where the factors vary along axis a of the operand's descriptor; 0 is
    one factor for all.  ``count`` is how many factors that makes.  Results are computed as
    ``src_scale * weights_scale * accumulator / dst_scale``.
    """

    argument: str
    mask: int = 0
    count: int = 1


@dataclass(frozen=True)
class ZeroPoint:
    """Offsets of an operand, passed as argument ``zero_point_<argument>`` in i32."""

    argument: str
    mask: int = 0
    count: int = 1


@dataclass(frozen=True)
class Attributes:
    """Post-operations in order, quantization, how f32 may be computed, and by which code.

    ``fpmath_mode`` ``"bf16"`` lets f32 primitives multiply in bf16.  ``alternative`` takes the
    n-th implementation that the library offers instead of its first.
    """

    post_ops: tuple[PostOp, ...] = ()
    scales: tuple[Scale, ...] = ()
    zero_points: tuple[ZeroPoint, ...] = ()
    fpmath_mode: str = "strict"
    alternative: int = 0

    def __post_init__(self) -> None:
        if self.fpmath_mode not in FPMATH_MODE:
            raise DeviceError(f"oneDNN has no precision mode {self.fpmath_mode}")
        for op in self.post_ops:
            if isinstance(op, SumPostOp) and op.dtype is not None and op.dtype not in DTYPE:
                raise DeviceError(f"oneDNN has no element type {op.dtype}")

    def arguments(self) -> list[str]:
        """Return the names of the extra execution arguments, in a fixed order."""
        names = [f"scale_{scale.argument}" for scale in self.scales]
        names += [f"zero_point_{zero.argument}" for zero in self.zero_points]
        for index, op in enumerate(self.post_ops):
            if isinstance(op, BinaryPostOp):
                names.append(f"post_op[{index}]")
            elif isinstance(op, PReluPostOp):
                names.append(f"post_op_weights[{index}]")
            elif isinstance(op, DepthwisePostOp):
                names.append("depthwise_weights")
                names += ["depthwise_bias"] if op.bias_dtype else []
        return names

    def parameter_layout(self, argument: str) -> Layout | None:
        """Return the layout of an argument that the library does not describe, else None."""
        for scale in self.scales:
            if argument == f"scale_{scale.argument}":
                return Layout.dense((scale.count,), "f32")
        for zero in self.zero_points:
            if argument == f"zero_point_{zero.argument}":
                return Layout.dense((zero.count,), "i32")
        for index, op in enumerate(self.post_ops):
            if isinstance(op, PReluPostOp) and argument == f"post_op_weights[{index}]":
                return op.slopes
        return None


NO_ATTRIBUTES = Attributes()
