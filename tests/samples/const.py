"""Samples of lamina.ops.const."""

from __future__ import annotations

import numpy as np

from lamina.ops import Const
from tests.samples.sample import normal, sample

_LARGE = normal(8, 32)
SAMPLES = {
    Const: [
        sample(Const.of(np.int64([1, 2])), expected=[1, 2]),
        sample(Const.of(_LARGE), expected=_LARGE),
        sample(Const.of(np.array(True)), expected=True),
    ]
}
