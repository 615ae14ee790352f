"""The nine networks that the onnx package ships without weights.

The shipped files have constant weights, which hide most mistakes, so random weights replace them
where that is affordable.  Large ones run as shipped, and with random weights as slow tests.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from benchmarks.light_models import LIGHT_NAMES, light_model
from onnx import numpy_helper

from tests.conformance.cases import DATA
from tests.conformance.execution import interpreted

LARGE = ("bvlc_alexnet", "vgg19", "zfnet512")
TOLERANCE = 2e-5
"""Largest difference over the standard deviation of the logits; f32 sums in other orders."""


@pytest.mark.parametrize("name", LIGHT_NAMES)
def test_random_weights(name):
    model = light_model(name)
    x = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, {model.graph.input[0].name: x})
    (y,) = interpreted(model)([x])
    assert y.shape == expected.shape
    assert np.abs(y - expected).max() <= TOLERANCE * expected.std()


@pytest.mark.parametrize("name", LARGE)
def test_shipped_weights(name):
    folder = DATA / "light"
    x = (np.arange(3 * 224 * 224) / (3 * 224 * 224)).astype(np.float32).reshape(1, 3, 224, 224)
    (y,) = interpreted(onnx.load(folder / f"light_{name}.onnx"))([x])
    expected = numpy_helper.to_array(onnx.load_tensor(folder / f"light_{name}_output_0.pb"))
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-7)
