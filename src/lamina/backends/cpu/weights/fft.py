"""Filters as FFT kernels read them."""

from __future__ import annotations

import numpy as np

from lamina.ir.blocks import cache_aligned
from lamina.ir.recipe import Array, recipe_function
from lamina.ir.traced import record


def spectra(
    w: Array, n: int, lanes: int, dilations: tuple[int, int], shape: tuple[int, ...]
) -> Array:
    """Return the spectra of filters [M, C/groups, kh, kw]: made in f64 and rounded once.

    ``shape`` is that of the result, [output register][position][input channel][re, im][lane] for
    tiles of ``n`` x ``n``, without input channels for depthwise filters, padded with zeros.  All
    factors of the transforms are in the spectra.
    """
    result: Array = record("fft", _spectra, w, n, lanes, dilations, shape)
    return result


@recipe_function("fft")
def _spectra(
    w: Array,
    n: int,
    lanes: int,
    dilations: tuple[int, int],
    shape: tuple[int, ...],
    out: Array | None = None,
) -> Array:
    half, channels = n // 2, w.shape[1]
    packed: Array = cache_aligned(shape, np.float32, out)
    packed[...] = 0
    spread = np.zeros((lanes, channels, n, n))
    rows, columns = (
        slice(0, (k - 1) * d + 1, d) for k, d in zip(w.shape[2:], dilations, strict=True)
    )
    for register in range(-(-w.shape[0] // lanes)):
        some = w[register * lanes : (register + 1) * lanes]
        spread[: len(some), :, rows, columns] = some
        spread[len(some) :] = 0
        # Correlation takes the conjugate; separating pairs of lines doubled the pixels' spectra.
        u = np.conj(np.fft.rfft2(spread)) / (2 * n * n)
        inner = u[..., 1:half].transpose(3, 2, 1, 0).reshape(-1, channels, lanes)
        edges = [u[:, :, : half + 1, j].transpose(2, 1, 0) for j in (0, half)]
        listed = np.concatenate([inner, *edges])
        packed[register, :, :channels, 0] = listed.real
        packed[register, :, :channels, 1] = listed.imag
    return packed
