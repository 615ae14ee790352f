"""What the primitives should compute, in NumPy and double precision."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def windows(x, kernel, strides, dilations, begin, end, fill=0.0):
    """Return [N, C, out…, kernel…]: every window of x [N, C, spatial…] after padding."""
    rank = len(kernel)
    pads = [(0, 0), (0, 0), *zip(begin, end, strict=True)]
    x = np.pad(x, pads, constant_values=fill)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, reach, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, s) for s in strides]
    taps = [slice(None, None, d) for d in dilations]
    return view[(slice(None), slice(None), *steps, *taps)]


def convolution(x, w, bias, strides, dilations, begin, end, groups=1):
    """Cross-correlate x [N, C, …] with w [O, C/G, kernel…]."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    rank = x.ndim - 2
    view = windows(x, w.shape[2:], strides, dilations, begin, end)
    n, out = view.shape[0], view.shape[2 : 2 + rank]
    view = view.reshape(n, groups, -1, *view.shape[2:])
    weights = w.reshape(groups, -1, *w.shape[1:])
    space, taps = "xyz"[:rank], "uvw"[:rank]
    y = np.einsum(f"ngc{space}{taps},goc{taps}->ngo{space}", view, weights)
    y = y.reshape(n, -1, *out)
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def transposed_convolution(x, w, bias, strides, dilations, begin, end, groups=1):
    """Scatter x [N, C, …] through w [O, C/G, kernel…] (output channels first)."""
    rank = x.ndim - 2
    n, channels, *sizes = x.shape
    outputs = w.shape[0]
    full = [
        (size - 1) * s + (k - 1) * d + 1
        for size, s, k, d in zip(sizes, strides, w.shape[2:], dilations, strict=True)
    ]
    y = np.zeros((n, outputs, *full))
    per_in, per_out = channels // groups, outputs // groups
    for tap in np.ndindex(*w.shape[2:]):
        place = tuple(
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, size, s in zip(tap, dilations, sizes, strides, strict=True)
        )
        for g in range(groups):
            part = x[:, g * per_in : (g + 1) * per_in].astype(np.float64)
            matrix = w[(slice(g * per_out, (g + 1) * per_out), slice(None), *tap)]
            where = (slice(None), slice(g * per_out, (g + 1) * per_out), *place)
            y[where] += np.einsum("nc...,oc->no...", part, matrix.astype(np.float64))
    crop = tuple(slice(b, size - e) for b, e, size in zip(begin, end, full, strict=True))
    y = y[(slice(None), slice(None), *crop)]
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def sigmoid(x):
    """Logistic function."""
    return 1 / (1 + np.exp(-x))


def lstm(x, w, r, b, h, c, peephole=None):
    """x [T,N,C], w [C,4,H], r [H,4,H], b [4,H], gates i f c o; returns all h, last h, last c."""
    steps = []
    for t in range(x.shape[0]):
        gates = np.einsum("nc,cgh->gnh", x[t], w) + np.einsum("nk,kgh->gnh", h, r) + b[:, None]
        p = np.zeros((3, h.shape[-1])) if peephole is None else peephole
        i, f = sigmoid(gates[0] + p[0] * c), sigmoid(gates[1] + p[1] * c)
        c = f * c + i * np.tanh(gates[2])
        h = sigmoid(gates[3] + p[2] * c) * np.tanh(c)
        steps.append(h)
    return np.stack(steps), h, c


def gru(x, w, r, b, h, *, linear_before_reset):
    """x [T,N,C], w [C,3,H], r [H,3,H], b [3 or 4,H], gates u r o; returns all h and the last."""
    steps = []
    for t in range(x.shape[0]):
        a = np.einsum("nc,cgh->gnh", x[t], w) + b[:3, None]
        update = sigmoid(a[0] + h @ r[:, 0])
        reset = sigmoid(a[1] + h @ r[:, 1])
        if linear_before_reset:
            new = np.tanh(a[2] + reset * (h @ r[:, 2] + b[3]))
        else:
            new = np.tanh(a[2] + (reset * h) @ r[:, 2])
        h = update * h + (1 - update) * new
        steps.append(h)
    return np.stack(steps), h


def vanilla(x, w, r, b, h, activation):
    """x [T,N,C], w [C,1,H], r [H,1,H], b [1,H]; returns all h and the last."""
    steps = []
    for t in range(x.shape[0]):
        h = activation(x[t] @ w[:, 0] + h @ r[:, 0] + b[0])
        steps.append(h)
    return np.stack(steps), h
