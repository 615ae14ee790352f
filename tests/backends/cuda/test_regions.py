"""RoiAlign with samples that the regions decide, in the interpreter, against its meaning."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.test_movement import compare
from tests.codegen.running import node_graph

from lamina import ops
from lamina.backends.cuda.tactics.regions import Regions
from lamina.backends.cuda.target import TARGETS
from lamina.backends.cuda.triton_compile import compile_request
from lamina.ir.types import DType, TensorType
from lamina.ops.kinds import RoiCoordinateMode, RoiMode
from lamina.tactics.candidate import Placement


@pytest.mark.parametrize("mode", RoiMode)
@pytest.mark.parametrize("coordinates", RoiCoordinateMode)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(np.float32, 1e-5), (np.float64, 1e-9), (np.float16, 2e-3), (ml_dtypes.bfloat16, 2e-2)],
)
def test_regions(mode, coordinates, dtype, tolerance):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 11, 13)).astype(dtype)
    corners = rng.uniform(-3, 30, (6, 2, 2))
    corners[:4].sort(axis=1)  # the last two are turned over
    rois = corners.reshape(6, 4).astype(dtype)
    images = np.array([0, 1, 1, 0, -1, 1])
    op = ops.RoiAlign(
        output_height=3,
        output_width=2,
        spatial_scale=0.5,
        mode=mode,
        coordinate_mode=coordinates,
    )
    compare(Regions(), op, [x, rois, images], tolerance)


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.F64])
def test_compiles(arch, dtype):
    types = [TensorType(dtype, (2, 256, 50, 68)), TensorType(dtype, (1000, 4))]
    types.append(TensorType(DType.I64, (1000,)))
    op = ops.RoiAlign(output_height=7, output_width=7, spatial_scale=1 / 16)
    node = node_graph(op, types).outputs[0].node
    for candidate in Regions().candidates(node, TARGETS[arch]):
        for launch in candidate.draft(Placement((), (), "")).launches:
            assert compile_request(launch.kernel, arch).cubin
