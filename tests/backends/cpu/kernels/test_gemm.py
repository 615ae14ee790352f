"""Matrix products with packed weights of each type, static and run-time rows, against f64."""

from __future__ import annotations

import ctypes

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cpu.kernels.running import ACTIVATIONS, KERNEL, THREADS, aligned

from lamina.backends.cpu import image
from lamina.backends.cpu.kernels import gemm
from lamina.backends.cpu.kernels.convolution import Epilogue
from lamina.codegen.llvm import link, target
from lamina.codegen.llvm.builder import Module

ISAS = [target.host_isa(), target.AVX2]
PARAMETERS = {"silu": (1.0,), "clip": (-0.5, 0.5)}
# rows, depth, columns, weights, residual, activation
CASES = [
    (1, 100, 70, "f32", False, None),
    (1, 64, 1000, "bf16", False, "relu"),
    (3, 48, 64, "s8", True, "silu"),
    (8, 33, 96, "f32", True, "clip"),
    (50, 64, 64, "f32", True, "relu"),
    (300, 20, 40, "bf16", False, "silu"),
    (29, 17, 30, "s8", False, "hard_swish"),
]


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_definition(case, dtype, dynamic, isa):
    rows, depth, columns, weights, residual, kind = case
    item, limit = (np.float32, 3e-6) if dtype == "f32" else (ml_dtypes.bfloat16, 2**-7)
    rng = np.random.default_rng(5)
    r = rng.normal(size=(rows, columns)).astype(item)
    x = aligned(rows * (depth + 3), item).reshape(rows, depth + 3)
    x[:] = rng.normal(size=x.shape)
    x[:, depth:] = np.nan
    w, b = rng.normal(size=(depth, columns)).astype("f4"), rng.normal(size=columns).astype("f4")
    scales = np.full(columns, 1.0)
    if weights == "bf16":
        w = w.astype(ml_dtypes.bfloat16).astype("f4")
    if weights == "s8":
        w, scales = rng.integers(-128, 128, w.shape).astype("f4"), rng.uniform(0.01, 0.02, columns)
    p = gemm.GemmProblem(
        None if dynamic else rows, depth, columns, x.strides[0], r.strides[0], weights,
        residual_stride=r.strides[0] if residual else None,
        activation=Epilogue(kind, *PARAMETERS.get(kind, ())) if kind else None,
        row_param=1, expected_rows=rows, dtype=dtype,
    )  # fmt: skip
    assert gemm.why_not(p) is None
    expected = x[:, :depth].astype("f8") @ w * scales + b + (r.astype("f8") if residual else 0)
    expected = ACTIVATIONS[kind](expected)
    for config in gemm.configs(p, isa, THREADS):
        module = Module(isa)
        (name,) = gemm.build(module, "product", p, config)
        built = link.link([target.compile_module(str(module), isa)])
        y = aligned(rows * columns, item).reshape(rows, columns)
        y[:] = r if residual else np.nan
        buffers = {
            "src": x, "weights": gemm.pack_weights(w, p, config, isa), "bias": b, "residual": y,
            "scales": scales.astype("f4"), "dst": y,
            "workspace": aligned(gemm.workspace_bytes(p, config, isa, THREADS) // 4),
        }  # fmt: skip
        args = (ctypes.c_void_p * 7)(*(buffers[n].ctypes.data for n in p.operands))
        with image.load_image(built.code, built.symbols, built.externals) as loaded:
            for tid in range(THREADS):
                params = (ctypes.c_int64 * 2)(0, rows)
                KERNEL(loaded.address(name))(args, params, tid, THREADS)
        error = np.abs(y.astype(np.float64) - expected).max()
        assert error <= limit * np.abs(expected).max() + 1e-5


def test_declines_with_a_reason():
    assert "int4" in (gemm.why_not(gemm.GemmProblem(1, 8, 8, 32, 32, "int4")) or "")
