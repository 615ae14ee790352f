"""Operators without a test of their own code: their kernels compile for every architecture."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.cpu.test_on_the_host import _graph
from tests.backends.cuda.simulation import plan_of
from tests.samples import all_samples

from lamina import ops
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request

OPERATORS = (
    ops.GroupNorm, ops.InstanceNorm, ops.RmsNorm, ops.GridSample, ops.Resize, ops.RoiAlign,
    ops.Nms, ops.NonZero, ops.Recurrent, ops.DeformConvolution, ops.Random, ops.RandomKey,
    ops.Cumulative, ops.OneHot, ops.ReverseSequence, ops.MaxPoolIndices, ops.Lrn,
)  # fmt: skip


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_compiles(operator, arch):
    sample = all_samples()[operator][0]
    graph = _graph(sample.op, [np.asarray(x) for x in sample.inputs], constants=False)
    plan, requests = plan_of(graph, arch=arch)
    assert plan.fallbacks == () and requests
    for request in requests:
        code = compile_request(request, arch)
        assert code.cubin and code.shared_bytes <= TARGETS[arch].shared_bytes
        assert code.driver_version in (12000, 13000)
