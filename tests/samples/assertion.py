"""Samples of assertions that hold."""

from __future__ import annotations

import numpy as np

from lamina import ops
from tests.samples.sample import normal, sample

SAMPLES = {
    ops.Assertion: [
        sample(ops.Assertion(message="holds"), normal(2, 3), np.array(True)),
        sample(ops.Assertion(message="all hold"), normal(4), np.array([True, True])),
    ],
}
