"""Positions and weights of one-dimensional interpolation, as ONNX defines them for Resize.

Resize is separable: along each axis every output element is a weighted sum of input elements, or
one of them.  The formulas are those of the ONNX specification of Resize (coordinate transformation
modes, nearest modes, antialiasing) with the cubic kernel of R. Keys, "Cubic convolution
interpolation for digital image processing", 1981.
"""

from __future__ import annotations

import numpy as np

from lamina.ir.graph import Array
from lamina.ops.kinds import CoordinateMode, InterpolationMode, NearestMode


def source_positions(
    mode: CoordinateMode, size: int, new_size: int, scale: float | None, roi: tuple[float, float]
) -> Array:
    """Return the input position (f64) of each of ``new_size`` output elements.

    ``scale`` is output over input, None when it is exactly the quotient of the sizes.
    """
    y = np.arange(new_size, dtype=np.float64)
    length = float(new_size) if scale is None else scale * size
    ratio = new_size / size if scale is None else scale
    center = (y + 0.5) / ratio - 0.5
    match mode:
        case CoordinateMode.HALF_PIXEL:
            return center
        case CoordinateMode.HALF_PIXEL_SYMMETRIC:
            return center + size / 2 * (1 - new_size / length)
        case CoordinateMode.PYTORCH_HALF_PIXEL:
            return center if length != 1 else np.full(new_size, -0.5)
        case CoordinateMode.ALIGN_CORNERS:
            return y * (size - 1) / (length - 1) if length != 1 else np.zeros(new_size)
        case CoordinateMode.ASYMMETRIC:
            return y / ratio
        case CoordinateMode.TF_HALF_PIXEL_FOR_NN:
            return (y + 0.5) / ratio
        case CoordinateMode.TF_CROP_AND_RESIZE:
            begin, end = roi
            if length == 1:
                return np.full(new_size, (begin + end) / 2 * (size - 1))
            return begin * (size - 1) + y * (end - begin) * (size - 1) / (length - 1)


def nearest_elements(position: Array, size: int, mode: NearestMode) -> Array:
    """Round positions to elements of an axis; positions outside take the outermost element."""
    rounded = {
        NearestMode.ROUND_PREFER_FLOOR: np.ceil(position - 0.5),
        NearestMode.ROUND_PREFER_CEIL: np.floor(position + 0.5),
        NearestMode.FLOOR: np.floor(position),
        NearestMode.CEIL: np.ceil(position),
    }[mode]
    return rounded.astype(np.int64).clip(0, size - 1)


def interpolation_matrix(
    position: Array,
    size: int,
    mode: InterpolationMode,
    *,
    stretch: float = 1.0,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
) -> Array:
    """Return the matrix [positions, size] that interpolates between the elements of an axis.

    ``stretch >= 1`` widens the kernel, which suppresses aliasing when an axis shrinks.  Weights
    that fall outside belong to the outermost element or, with ``exclude_outside``, to nobody; the
    others are then scaled so that they sum to one.
    """
    reach = int(np.ceil((2 if mode is InterpolationMode.CUBIC else 1) * stretch))
    first = np.floor(position).astype(np.int64)
    element = first[:, None] + np.arange(-reach, reach + 2)
    distance = np.abs(element - position[:, None]) / stretch
    if mode is InterpolationMode.CUBIC:
        weight = cubic_kernel(distance, cubic_coeff_a)
    else:
        weight = np.clip(1 - distance, 0, 1)
    if exclude_outside:
        weight = np.where((element >= 0) & (element < size), weight, 0)
    if exclude_outside or stretch > 1:
        weight = weight / weight.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(position), size))
    rows = np.broadcast_to(np.arange(len(position))[:, None], element.shape)
    np.add.at(matrix, (rows, element.clip(0, size - 1)), weight)
    return matrix


def cubic_kernel(distance: Array, a: float) -> Array:
    """Return the weight of an element at a distance (not negative) from a position."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
