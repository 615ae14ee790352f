"""Runs generated convolution kernels on random inputs and compares with f64 NumPy."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import ml_dtypes
import numpy as np

from lamina.backends.cpu import image
from lamina.backends.cpu.kernels.convolution import ActivationLayout, ConvolutionProblem
from lamina.codegen.llvm import link, target
from lamina.codegen.llvm.builder import Module

THREADS = 3
DTYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16}
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
LAYOUTS = {
    "blocked": ActivationLayout.blocked,
    "last": ActivationLayout.channels_last,
    "planar": ActivationLayout.planar,
}
ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}


def aligned(count, dtype=np.float32):
    """Return an array that starts at a cache line and ends where its allocation ends."""
    size = np.dtype(dtype).itemsize
    raw = np.empty(count * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * size].view(dtype)


def placed(x, layout, dtype="f32"):
    """Return NCHW values in memory as the named layout has them, in the type."""
    n, c, h, w = x.shape
    if layout == "blocked":
        padded = np.zeros((n, -(-c // 16) * 16, h, w), np.float32)
        padded[:, :c] = x
        x = padded.reshape(n, -1, 16, h, w).transpose(0, 1, 3, 4, 2)
    elif layout == "last":
        x = x.transpose(0, 2, 3, 1)
    result = aligned(x.size, DTYPES[dtype]).reshape(x.shape)
    result[...] = x
    return result


def read(buffer, layout, channels):
    """Return a buffer's values as f32 NCHW; missing channels of a padded block must be zero."""
    buffer = buffer.astype(np.float32)
    if layout == "last":
        return buffer.transpose(0, 3, 1, 2)
    n, blocks, h, w, _ = buffer.shape
    values = buffer.transpose(0, 1, 4, 2, 3).reshape(n, blocks * 16, h, w)
    assert not values[:, channels:].any()
    return values[:, :channels]


def convolved(x, w, p):
    """Return the plain convolution in f64."""
    top, left, bottom, right = p.pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    out = p.out_channels // p.groups
    y = np.zeros((p.batch, p.groups, out, p.out_height, p.out_width))
    x = x.reshape(p.batch, p.groups, -1, *x.shape[2:])
    w = w.astype(np.float64).reshape(p.groups, out, *w.shape[1:])
    for i in range(p.kernel[0]):
        for j in range(p.kernel[1]):
            rows = slice(i * p.dilations[0], None, p.strides[0])
            columns = slice(j * p.dilations[1], None, p.strides[1])
            window = x[:, :, :, rows, columns][..., : p.out_height, : p.out_width]
            y += np.einsum("gmc,ngchw->ngmhw", w[..., i, j], window, optimize=True)
    return y.reshape(p.batch, p.out_channels, p.out_height, p.out_width)


def problem(
    shape, out, kernel, layouts=("blocked", "blocked"), dtype="f32", *,
    residual=False, activation=None, **fields,
):  # fmt: skip
    """Return a problem for input [N, C, H, W] with dense layouts."""
    n, c, h, w = shape
    src, dst = layouts
    typed = () if dtype == "f32" else (dtype,)
    probe = ConvolutionProblem(
        n, c, out, h, w, kernel,
        LAYOUTS[src](c, h, w, *typed), LAYOUTS[dst](out, 1, 1, *typed), **fields,
    )  # fmt: skip
    layout = LAYOUTS[dst](out, probe.out_height, probe.out_width, *typed)
    return replace(probe, dst=layout, residual=layout if residual else None, activation=activation)


def relative_errors(kernel, p, layouts, isa, configs=None):
    """Yield (configuration, largest error over the largest plain result) of each configuration.

    Buffers hold NaN where nothing is defined; the residual is read from the destination.
    """
    rng = np.random.default_rng(7)
    src, dst = layouts
    depth = p.in_channels // p.groups * p.kernel[0] * p.kernel[1]
    item = DTYPES[p.src.dtype]
    x = rng.normal(size=(p.batch, p.in_channels, p.height, p.width)).astype(item)
    w = rng.normal(size=(p.out_channels, p.in_channels // p.groups, *p.kernel)) / np.sqrt(depth)
    w, b = w.astype(np.float32), rng.normal(size=p.out_channels).astype(np.float32)
    plain = convolved(x, w, p)
    r = rng.normal(size=plain.shape).astype(item)
    expected = plain + (b[:, None, None] if p.bias else 0) + (r if p.residual else 0)
    expected = ACTIVATIONS[p.activation.kind if p.activation else None](expected)
    assert kernel.why_not(p) is None
    for config in configs or kernel.configs(p, isa, THREADS):
        module = Module(isa)
        names = kernel.build(module, "conv", p, config)
        built = link.link([target.compile_module(str(module), isa)])
        workspace = aligned(kernel.workspace_bytes(p, config, isa, THREADS) // 4)
        workspace[:] = np.nan
        y = placed(r if p.residual else plain, dst, p.dst.dtype)
        if not p.residual:
            y[...] = np.nan  # the missing channels of a padded block too
        buffers = {
            "src": placed(x, src, p.src.dtype), "bias": b,
            "weights": kernel.pack_weights(w, p, config, isa),
            "residual": y, "dst": y, "workspace": workspace,
        }  # fmt: skip
        args = (ctypes.c_void_p * 6)(*(buffers[name].ctypes.data for name in p.operands))
        with image.load_image(built.code, built.symbols, built.externals) as loaded:
            for name in names:
                for tid in range(THREADS):
                    KERNEL(loaded.address(name))(args, None, tid, THREADS)
        error = np.abs(read(y, dst, p.out_channels) - expected).max() / np.abs(plain).max()
        yield config, error
