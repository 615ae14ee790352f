"""Kernels run in the interpreter as they are, and still compile afterwards."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.interpreter import run

from lamina.backends.cuda.interpret import run_kernel
from lamina.backends.cuda.request import Counters, CudaDraft, KernelRequest, Launch, Scalar
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.dims import ceildiv, sym
from lamina.tactics.candidate import Read, Scratch, Write

SOFTMAX = """
import triton
import triton.language as tl
from triton.language.extra import libdevice
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _largest(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _exponential(v):
    return libdevice.exp(v - tl.reduce(v, 0, _largest))


@triton.jit
def softmax(x, y, n, B: tl.constexpr, DEPENDENT: tl.constexpr):
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
    row, lane = tl.program_id(0), tl.arange(0, B)
    v = tl.load(x + row * n + lane, mask=lane < n, other=float("-inf")).to(tl.float32)
    e = _exponential(v)
    for _ in range(0, n):
        e = e * 1.0
    tl.store(y + row * n + lane, (e / tl.sum(e, 0)).to(y.dtype.element_ty), mask=lane < n)
"""
COUNT = '''
import triton
import triton.language as tl


@triton.jit
def total(x, y, w, counter, n, B: tl.constexpr):
    """Add up in pieces; the program that ends last joins them."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    piece = tl.sum(tl.load(x + at, mask=at < n, other=0), 0)
    tl.store(w + tl.program_id(0), piece)
    if tl.atomic_add(counter, 1) == tl.num_programs(0) - 1:
        lane = tl.arange(0, B)
        pieces = tl.load(w + lane, mask=lane < tl.num_programs(0), other=0)
        tl.store(y, tl.sum(pieces, 0))
        tl.store(counter, 0)
'''


@pytest.mark.parametrize(
    ("dtype", "type_", "tolerance"),
    [
        (np.float32, "fp32", 1e-6),
        (np.float16, "fp16", 1e-3),
        (ml_dtypes.bfloat16, "bf16", 4e-3),
        (np.float64, "fp64", 1e-6),
    ],
)
def test_interpreting_and_compiling_take_turns(dtype, type_, tolerance):
    request = KernelRequest(
        function="softmax",
        source=SOFTMAX,
        parameters=(("x", f"*{type_}"), ("y", f"*{type_}"), ("n", "i32")),
        constants=(("B", 64), ("DEPENDENT", True)),
        divisible=("x", "y"),
        dependent=True,
    )
    x = np.random.default_rng(0).standard_normal((3, 50)).astype(dtype)
    e = np.exp(x.astype(np.float64))
    for _ in range(2):
        y = np.zeros_like(x)
        run_kernel(request, (3, 1, 1), [x.ctypes.data, y.ctypes.data, 50])
        error = y.astype(np.float64) - e / e.sum(1, keepdims=True)
        assert np.abs(error).max() < tolerance
        assert compile_request(request, 90).cubin


def test_halves_are_rounded_to_nearest_even():
    source = SOFTMAX.replace("e = _exponential(v)", "e = v").replace("(e / tl.sum(e, 0))", "e")
    request = KernelRequest(
        function="softmax",
        source=source,
        parameters=(("x", "*fp32"), ("y", "*bf16"), ("n", "i32")),
        constants=(("B", 1024), ("DEPENDENT", False)),
    )
    x = np.random.default_rng(0).standard_normal((1, 1000)).astype(np.float32)
    y = np.zeros_like(x, ml_dtypes.bfloat16)
    run_kernel(request, (1, 1, 1), [x.ctypes.data, y.ctypes.data, 1000])
    np.testing.assert_array_equal(y, x.astype(ml_dtypes.bfloat16))


def test_drafts_have_workspace_counters_and_sizes():
    n = sym("n")
    kernel = KernelRequest(
        function="total",
        source=COUNT,
        parameters=(
            ("x", "*fp32"), ("y", "*fp32"), ("w", "*fp32"), ("counter", "*i32"), ("n", "i32"),
        ),
        constants=(("B", 16),),
    )  # fmt: skip
    launch = Launch(
        kernel=kernel,
        grid=(ceildiv(n, 16), 1, 1),
        arguments=(Read(0), Write(0), Scratch(), Counters(1), Scalar(n)),
    )
    x, y = np.arange(70, dtype=np.float32), np.zeros(1, np.float32)
    run(CudaDraft(launches=(launch,), workspace_bytes=4 * ceildiv(n, 16)), [x], [y], {"n": 70})
    assert y[0] == x.sum()
