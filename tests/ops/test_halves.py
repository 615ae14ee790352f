"""f16 and bf16: references compute in f32 and round once."""

import ml_dtypes
import numpy as np
import pytest
from tests.samples import all_samples

from lamina import ops

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
CHECKED = [
    ops.Unary,
    ops.Activation,
    ops.Binary,
    ops.Reduce,
    ops.Convolution,
    ops.Deconvolution,
    ops.Matmul,
    ops.Einsum,
    ops.Pool,
    ops.BatchNorm,
    ops.InstanceNorm,
    ops.GroupNorm,
    ops.LayerNorm,
    ops.RmsNorm,
    ops.Lrn,
    ops.Softmax,
    ops.Recurrent,
]
CASES = [
    s
    for op in CHECKED
    for s in all_samples()[op]
    if all(x.dtype == np.float32 for x in s.inputs) and s.expected is None
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sample", CASES, ids=str)
def test_result_is_the_rounded_f32_result(sample, dtype):
    halves = [x.astype(dtype) for x in sample.inputs]
    results = sample.op.reference(*halves)
    exact = sample.op.reference(*(x.astype(np.float32) for x in halves))
    if not isinstance(results, tuple):
        results, exact = (results,), (exact,)
    for y, wanted in zip(results, exact, strict=True):
        assert y.dtype == (np.bool_ if wanted.dtype == np.bool_ else dtype)
        np.testing.assert_array_equal(
            np.asarray(y, np.float32), np.asarray(wanted.astype(y.dtype), np.float32)
        )
