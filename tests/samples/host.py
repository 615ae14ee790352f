"""Samples of calls to the host."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from lamina import ops
from lamina.ir.types import DType, TensorType, ValueType
from tests.samples.sample import integers, normal, sample


def host_call(
    op_type: str, inputs: tuple[str, ...], *output_types: ValueType, opset: int = 23, **attributes
) -> ops.HostCall:
    """Return the host call of one ONNX node; an empty input name is an absent operand."""
    outputs = [f"y{i}" for i in range(len(output_types))]
    graph = helper.make_graph(
        [helper.make_node(op_type, list(inputs), outputs, **attributes)],
        "host",
        [onnx.ValueInfoProto(name=n) for n in inputs if n],
        [onnx.ValueInfoProto(name=n) for n in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ops.HostCall(model=model.SerializeToString(), output_types=output_types)


def _f32(*shape: int) -> TensorType:
    return TensorType(DType.F32, shape)


_X = normal(2, 3)
_HALF = normal(4, dtype=ml_dtypes.bfloat16)

SAMPLES = {
    ops.HostCall: [
        sample(
            host_call("Det", ("x",), _f32()),
            np.float32([[1, 2], [3, 5]]),
            expected=-1,
            symbolic=False,
        ),
        sample(
            host_call("Clip", ("x", "", "high"), _f32(2, 3)),
            _X,
            np.float32(0.25),
            symbolic=False,
            expected=np.minimum(_X, np.float32(0.25)),
        ),
        sample(
            host_call("Neg", ("x",), TensorType(DType.BF16, (4,))),
            _HALF,
            symbolic=False,
            expected=-_HALF,
        ),
        sample(
            host_call("Identity", ("x",), TensorType(DType.I4, (5,))),
            integers(5, low=-8, high=7, dtype=ml_dtypes.int4),
            symbolic=False,
        ),
    ]
}
