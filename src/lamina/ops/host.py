"""Operators that run on the host through the evaluator of ONNX."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from lamina.errors import ExecutionError, TypeMismatch
from lamina.ir.graph import Op, operator
from lamina.ir.types import SequenceType, TensorType, ValueType


@operator
class HostCall(Op):
    """Run a serialized ONNX model on the host, with ONNX's own reference evaluator.

    The inputs and outputs of the model are the operands and results in order; an optional input
    that is absent is an empty name inside the model.  ``output_types`` may hold symbols of their
    own for sizes that only the evaluation tells.  ``deterministic`` is False for models that draw
    random numbers.
    """

    model: bytes
    output_types: tuple[ValueType, ...]
    deterministic: bool = True

    @property
    def pure(self) -> bool:
        """Whether equal operands give equal results."""
        return self.deterministic

    def infer(self, *inputs: ValueType) -> tuple[ValueType, ...]:
        if not self.output_types:
            raise TypeMismatch("a host call needs at least one result type, got none")
        return self.output_types

    def reference(self, *inputs: Any) -> tuple[Any, ...]:
        evaluator, names, title = _evaluator(self.model)
        if len(names) != len(inputs):
            raise ExecutionError(f"{title} takes {len(names)} operands, got {len(inputs)}")
        try:
            results = evaluator.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as e:
            raise ExecutionError(f"{title} failed on the host: {type(e).__name__}: {e}") from e
        if len(results) != len(self.output_types):
            raise ExecutionError(
                f"{title} gave {len(results)} results, expected {len(self.output_types)}"
            )
        return tuple(_result(r, t) for r, t in zip(results, self.output_types, strict=True))


@lru_cache(maxsize=64)
def _evaluator(model: bytes) -> tuple[Any, tuple[str, ...], str]:
    """Return the evaluator, its input names and a title for errors.

    ONNX is imported here and not above: only graphs with host calls need it.
    """
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        proto = onnx.load_model_from_string(model)
    except Exception as e:
        raise ExecutionError(f"the model of a host call for ONNX cannot be read: {e}") from e
    title = "ONNX " + "+".join(
        f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in proto.graph.node
    )
    names = tuple(i.name for i in proto.graph.input)
    try:
        return ReferenceEvaluator(proto), names, title
    except Exception as e:
        raise ExecutionError(f"{title} cannot run on the host: {type(e).__name__}: {e}") from e


def _result(value: Any, type: ValueType) -> Any:
    """Bring what the evaluator returns to the declared type."""
    if isinstance(type, TensorType):
        array = np.asarray(value)
        return array.astype(type.dtype.numpy, copy=False)
    if isinstance(type, SequenceType):
        return [_result(v, type.element) for v in value]
    if isinstance(value, list) and len(value) == 1 and _is_wrapped(value[0], type.element):
        value = value[0]
    return None if value is None else _result(value, type.element)


def _is_wrapped(inner: Any, element: ValueType) -> bool:
    """Whether a list of one entry is an optional value: ONNX's Optional returns it that way."""
    return inner is None or isinstance(element, TensorType) or isinstance(inner, list)
