"""References against the reference evaluator of ONNX, on samples that name an ONNX node."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from tests.samples import all_samples

CASES = [
    pytest.param(s, id=str(s))
    for group in all_samples().values()
    for s in group
    if s.onnx is not None
]


def onnx_results(form, operands):
    wiring = range(len(operands)) if form.inputs is None else form.inputs
    arrays = [operands[i] if isinstance(i, int) else i for i in wiring]
    names = ["" if x is None else f"x{i}" for i, x in enumerate(arrays)]
    feeds = {n: np.asarray(x) for n, x in zip(names, arrays, strict=True) if n}
    inputs = [
        onnx.helper.make_tensor_value_info(
            n, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
        )
        for n, x in feeds.items()
    ]
    outputs = [f"y{i}" for i in range(form.outputs)]
    node = onnx.helper.make_node(form.op_type, names, outputs, **form.attributes)
    results = [onnx.ValueInfoProto(name=n) for n in outputs]
    opset = [onnx.helper.make_opsetid("", form.opset)]
    graph = onnx.helper.make_graph([node], "sample", inputs, results)
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    if form.runtime:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds)
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feeds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sample", CASES)
def test_reference_means_what_onnx_means(sample):
    wanted = onnx_results(sample.onnx, sample.inputs)
    results = sample.op.reference(*sample.inputs)
    results = results if isinstance(results, tuple) else (results,)
    for y, w in zip(results, wanted, strict=False):
        w = np.asarray(w)
        assert y.shape == w.shape
        assert y.dtype == w.dtype
        if y.dtype.kind in "iubO":
            np.testing.assert_array_equal(y, w)
        else:
            np.testing.assert_allclose(
                y.astype(np.float64), w.astype(np.float64), rtol=2e-5, atol=1e-5
            )
