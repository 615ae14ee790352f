"""Enumerations and small values that operators take as attributes.

The value of an enumeration is its name in the text form.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt


class UnaryKind(StrEnum):
    """Function of one element; ``isnan`` gives bool, the others keep the element type."""

    ABS = "abs"
    NEG = "neg"
    SIGN = "sign"
    EXP = "exp"
    LOG = "log"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    RECIPROCAL = "reciprocal"
    SIN = "sin"
    COS = "cos"
    TAN = "tan"
    ASIN = "asin"
    ACOS = "acos"
    ATAN = "atan"
    SINH = "sinh"
    COSH = "cosh"
    TANH = "tanh"
    ASINH = "asinh"
    ACOSH = "acosh"
    ATANH = "atanh"
    ERF = "erf"
    FLOOR = "floor"
    CEIL = "ceil"
    ROUND = "round"
    LOGICAL_NOT = "logical_not"
    BITWISE_NOT = "bitwise_not"
    ISNAN = "isnan"


class ActivationKind(StrEnum):
    """Activation function; ``alpha`` and ``beta`` of the operator are its parameters."""

    RELU = "relu"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    SOFTPLUS = "softplus"
    SOFTSIGN = "softsign"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    SILU = "silu"
    HARD_SWISH = "hard_swish"
    MISH = "mish"
    ELU = "elu"
    SELU = "selu"
    CELU = "celu"
    LEAKY_RELU = "leaky_relu"
    HARD_SIGMOID = "hard_sigmoid"
    THRESHOLDED_RELU = "thresholded_relu"
    CLIP = "clip"
    SCALED_TANH = "scaled_tanh"
    SHRINK = "shrink"


class BinaryKind(StrEnum):
    """Function of two elements; comparisons give bool."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    POW = "pow"
    MIN = "min"
    MAX = "max"
    MOD = "mod"
    FMOD = "fmod"
    EQUAL = "equal"
    LESS = "less"
    LESS_EQUAL = "less_equal"
    GREATER = "greater"
    GREATER_EQUAL = "greater_equal"
    LOGICAL_AND = "logical_and"
    LOGICAL_OR = "logical_or"
    LOGICAL_XOR = "logical_xor"
    BITWISE_AND = "bitwise_and"
    BITWISE_OR = "bitwise_or"
    BITWISE_XOR = "bitwise_xor"
    SHIFT_LEFT = "shift_left"
    SHIFT_RIGHT = "shift_right"
    PRELU = "prelu"

    @property
    def is_comparison(self) -> bool:
        """Whether the result is bool for operands of any type."""
        return self in _COMPARISONS

    @property
    def is_logical(self) -> bool:
        """Whether operands and result are bool."""
        return self in _LOGICAL

    @property
    def is_bitwise(self) -> bool:
        """Whether the operands must be integers."""
        return self in _BITWISE

    @property
    def is_commutative(self) -> bool:
        """Whether the operands may be exchanged."""
        return self in _COMMUTATIVE


_COMPARISONS = frozenset(
    {
        BinaryKind.EQUAL,
        BinaryKind.LESS,
        BinaryKind.LESS_EQUAL,
        BinaryKind.GREATER,
        BinaryKind.GREATER_EQUAL,
    }
)
_LOGICAL = frozenset({BinaryKind.LOGICAL_AND, BinaryKind.LOGICAL_OR, BinaryKind.LOGICAL_XOR})
_BITWISE = frozenset(
    {
        BinaryKind.BITWISE_AND,
        BinaryKind.BITWISE_OR,
        BinaryKind.BITWISE_XOR,
        BinaryKind.SHIFT_LEFT,
        BinaryKind.SHIFT_RIGHT,
    }
)
_COMMUTATIVE = _LOGICAL | {
    BinaryKind.ADD,
    BinaryKind.MUL,
    BinaryKind.MIN,
    BinaryKind.MAX,
    BinaryKind.EQUAL,
    BinaryKind.BITWISE_AND,
    BinaryKind.BITWISE_OR,
    BinaryKind.BITWISE_XOR,
}


class ReduceKind(StrEnum):
    """What a reduction computes of the elements that it joins."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    PROD = "prod"
    L1 = "l1"
    L2 = "l2"
    SUM_SQUARE = "sum_square"
    LOG_SUM = "log_sum"
    LOG_SUM_EXP = "log_sum_exp"


class ArgReduceKind(StrEnum):
    """Which element's index a reduction returns."""

    ARGMAX = "argmax"
    ARGMIN = "argmin"


class CumulativeKind(StrEnum):
    """What a running reduction computes."""

    SUM = "sum"
    PROD = "prod"


class PoolKind(StrEnum):
    """What a pooling window computes."""

    MAX = "max"
    AVERAGE = "average"
    LP = "lp"


class RecurrentKind(StrEnum):
    """Cell of a recurrent network."""

    RNN = "rnn"
    LSTM = "lstm"
    GRU = "gru"

    @property
    def gates(self) -> int:
        """Number of gates, the factor of ``hidden_size`` in the rows of the weights."""
        return {"rnn": 1, "lstm": 4, "gru": 3}[self.value]


class Direction(StrEnum):
    """Order in which a recurrent network reads time."""

    FORWARD = "forward"
    REVERSE = "reverse"
    BIDIRECTIONAL = "bidirectional"

    @property
    def passes(self) -> int:
        """Number of independent passes over time."""
        return 2 if self is Direction.BIDIRECTIONAL else 1


class E8M0Rounding(StrEnum):
    """How a cast to f8e8m0 (powers of two) rounds."""

    UP = "up"
    DOWN = "down"
    NEAREST = "nearest"


class PadMode(StrEnum):
    """Where the elements that padding adds come from."""

    CONSTANT = "constant"
    REFLECT = "reflect"
    EDGE = "edge"
    WRAP = "wrap"


class ScatterReduction(StrEnum):
    """How a scattered element joins the one that is there."""

    NONE = "none"
    ADD = "add"
    MUL = "mul"
    MAX = "max"
    MIN = "min"


class RandomKind(StrEnum):
    """Distribution of random numbers."""

    NORMAL = "normal"
    UNIFORM = "uniform"


class InterpolationMode(StrEnum):
    """How a value between grid points is made (Resize, GridSample)."""

    NEAREST = "nearest"
    LINEAR = "linear"
    CUBIC = "cubic"


class CoordinateMode(StrEnum):
    """How Resize maps an output coordinate to an input coordinate."""

    HALF_PIXEL = "half_pixel"
    HALF_PIXEL_SYMMETRIC = "half_pixel_symmetric"
    PYTORCH_HALF_PIXEL = "pytorch_half_pixel"
    ALIGN_CORNERS = "align_corners"
    ASYMMETRIC = "asymmetric"
    TF_CROP_AND_RESIZE = "tf_crop_and_resize"
    TF_HALF_PIXEL_FOR_NN = "tf_half_pixel_for_nn"


class NearestMode(StrEnum):
    """How Resize rounds a coordinate to a grid point."""

    ROUND_PREFER_FLOOR = "round_prefer_floor"
    ROUND_PREFER_CEIL = "round_prefer_ceil"
    FLOOR = "floor"
    CEIL = "ceil"


class GridPadding(StrEnum):
    """What GridSample reads outside the image."""

    ZEROS = "zeros"
    BORDER = "border"
    REFLECTION = "reflection"


class RoiMode(StrEnum):
    """How RoiAlign joins the samples of a bin."""

    AVG = "avg"
    MAX = "max"


class RoiCoordinateMode(StrEnum):
    """Whether RoiAlign shifts coordinates by half a pixel."""

    HALF_PIXEL = "half_pixel"
    OUTPUT_HALF_PIXEL = "output_half_pixel"


@dataclass(frozen=True)
class Epilogue:
    """An activation that a contraction applies to its result before storing it."""

    kind: ActivationKind
    alpha: float = 0.0
    beta: float = 0.0


@dataclass(frozen=True)
class Scaling:
    """An integer q that stands for the number ``scale * (q - zero_point)``."""

    scale: float
    zero_point: int = 0

    def shifted(self, q: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return ``q - zero_point`` in f32, exactly for 8-bit numbers."""
        return q.astype(np.float32) - np.float32(self.zero_point)

    def real(self, q: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Return the numbers that the integers stand for, in f32."""
        return self.shifted(q) * np.float32(self.scale)
