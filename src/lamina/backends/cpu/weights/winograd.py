"""Filters as Winograd kernels read them."""

from __future__ import annotations

import numpy as np

from lamina.ir.blocks import cache_aligned
from lamina.ir.recipe import Array, recipe_function
from lamina.ir.traced import record

_PACKED_CHANNELS = 32


def transformed(
    w: Array, transform: Array, groups: int, out_width: int, padded_channels: int
) -> Array:
    """Return U for filters [M, C/groups, r, r]: transformed in f64 and rounded once.

    ``transform`` is the f64 matrix [positions, r * r].  The result is [output block][position]
    [input channel][output channel of the block], padded with zeros.
    """
    arguments = (groups, out_width, padded_channels)
    result: Array = record("winograd", _transformed, w, transform, *arguments)
    return result


@recipe_function("winograd")
def _transformed(
    w: Array,
    transform: Array,
    groups: int,
    out_width: int,
    padded_channels: int,
    out: Array | None = None,
) -> Array:
    channels, taps = w.shape[1], w.shape[2] * w.shape[3]
    group_out = w.shape[0] // groups
    group_blocks = -(-group_out // out_width)
    shape = (groups * group_blocks, len(transform), padded_channels, out_width)
    packed: Array = cache_aligned(shape, np.float32, out)
    packed[:, :, channels:] = 0
    filters = w.reshape(groups, group_out, channels, taps)
    for block in range(len(packed)):
        group, within = divmod(block, group_blocks)
        rows = filters[group, within * out_width :][:out_width]
        packed[block, :, :channels, len(rows) :] = 0
        # In parts whose transformed filters stay in the L2 cache.
        for begin in range(0, channels, _PACKED_CHANNELS):
            part = slice(begin, min(channels, begin + _PACKED_CHANNELS))
            columns = np.ascontiguousarray(rows[:, part].transpose(1, 2, 0), np.float64)
            packed[block, :, part, : len(rows)] = (transform @ columns).swapaxes(0, 1)
    return packed
