"""Samples of calls to plugins."""

from __future__ import annotations

import lamina
from lamina import ops
from lamina.ir.types import DType, TensorType
from lamina.plugins import KIND
from tests.samples.sample import normal, sample


@lamina.plugin("samples::twice", types=lambda x: x)
def twice(x):
    return x + x


_X = normal(2, 3)

SAMPLES = {
    ops.PluginCall: [
        sample(
            ops.PluginCall(
                kind=KIND,
                key="samples::twice",
                settings=b"{}",
                output_types=(TensorType(DType.F32, (2, 3)),),
            ),
            _X,
            symbolic=False,
            expected=2 * _X,
        )
    ]
}
