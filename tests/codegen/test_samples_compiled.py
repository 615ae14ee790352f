"""Every operator sample that has a generated kernel gives what the operator's reference gives."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, assert_close, run_node
from tests.samples import all_samples

from lamina import ops
from lamina.codegen.kernels import Reject

SAMPLES = all_samples()
CASES = [
    pytest.param(s, id=str(s)[:90])
    for op, group in SAMPLES.items()
    for s in group
    if op is not ops.RandomKey  # new in each run
]
TOLERANCE = {"float64": 1e-9, "float32": 3e-6, "float16": 2e-3, "bfloat16": 1e-2}
ALWAYS = (
    ops.Unary, ops.Activation, ops.Binary, ops.Select, ops.Reduce, ops.ArgReduce, ops.Softmax,
    ops.LayerNorm, ops.RmsNorm, ops.InstanceNorm, ops.GroupNorm, ops.BatchNorm, ops.Transpose,
    ops.Expand, ops.Slice, ops.Concat, ops.Tile, ops.Pad, ops.Gather, ops.GatherElements,
    ops.GatherNd, ops.Trilu, ops.Range, ops.OneHot, ops.Pool, ops.MaxPoolIndices, ops.Lrn,
    ops.ReverseSequence, ops.Cumulative, ops.Reshape,
)  # fmt: skip
"""Operators none of whose samples may be refused."""


@pytest.mark.parametrize("sample", CASES)
def test_compiled_sample(sample):
    isa = ISAS[sum(map(ord, str(sample))) % 2]
    kernel, results, expected = run_node(sample.op, sample.inputs, isa)
    if isinstance(kernel, Reject):
        if any(x.dtype == object for x in sample.inputs):
            return
        assert not isinstance(sample.op, ALWAYS), kernel.reason
        return
    for found, wanted in zip(results, expected, strict=True):
        assert_close(found, wanted, TOLERANCE.get(str(wanted.dtype), 0))


def test_rejections_say_why():
    kernel, _, _ = run_node(
        ops.Matmul(), [np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)]
    )
    assert isinstance(kernel, Reject)
    assert "matmul" in kernel.reason
