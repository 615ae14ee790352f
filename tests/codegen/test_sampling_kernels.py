"""Kernels of sampling that are no loop nests: regions of their own resolution, moved taps."""

from __future__ import annotations

import numpy as np
import pytest
from tests.codegen.running import ISAS, run_node

from lamina import ops
from lamina.codegen.kernels import Reject
from lamina.ops.kinds import RoiCoordinateMode, RoiMode


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", RoiMode)
@pytest.mark.parametrize("coordinates", RoiCoordinateMode)
@pytest.mark.parametrize("case", range(3))
def test_regions_decide_their_samples(dtype, mode, coordinates, case):
    rng = np.random.default_rng(case)
    shape, count, bins = [
        ((2, 19, 24, 31), 9, (3, 4)), ((1, 3, 7, 5), 4, (1, 1)), ((3, 40, 9, 9), 0, (2, 2)),
    ][case]  # fmt: skip
    x = rng.standard_normal(shape).astype(dtype)
    corners = rng.uniform(-30, 2 * max(shape[2:]) + 30, (count, 2, 2))
    corners.sort(axis=1)
    rois = corners.reshape(count, 4).astype(dtype)
    if count:
        rois[0] = (9, 8, 5, 3)  # malformed
        rois[1, 2:] = rois[1, :2]  # empty
    batches = rng.integers(0, shape[0], count)
    op = ops.RoiAlign(
        output_height=bins[0], output_width=bins[1], sampling_ratio=0, spatial_scale=0.5,
        mode=mode, coordinate_mode=coordinates,
    )  # fmt: skip
    kernel, (found,), (wanted,) = run_node(op, [x, rois, batches], ISAS[case % 2])
    assert not isinstance(kernel, Reject)
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6)
