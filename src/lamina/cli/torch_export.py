"""A module of torch as an ONNX file of fixed shapes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any, Final

import onnx

from lamina.errors import DeviceError

_OPSET: Final = 17


def export(torch: Any, module: Any, inputs: Mapping[str, Any]) -> bytes:
    """Return ``module``, which takes ``inputs`` in their order, as an ONNX file.

    The file's inputs have the names given, its outputs those of ``output_name``.  Raises
    DeviceError where torch cannot export the module.
    """
    # Fused multi-head attention is one operator of torch's that ONNX does not have.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            count = len(listed(module(*inputs.values())))
            names = [output_name(i, count) for i in range(count)]
            try:
                file = _exported(torch, module, inputs, names, fold=True)
            except RuntimeError:  # its folding does not know every type, and is Lamina's work too
                file = _exported(torch, module, inputs, names, fold=False)
    except Exception as e:
        raise DeviceError(f"torch cannot export the module: {e}") from e
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return _with_casts_mended(file)


def _exported(
    torch: Any, module: Any, inputs: Mapping[str, Any], names: list[str], *, fold: bool
) -> bytes:
    file = io.BytesIO()
    torch.onnx.export(
        module,
        tuple(inputs.values()),
        file,
        input_names=list(inputs),
        output_names=names,
        opset_version=_OPSET,
        do_constant_folding=fold,
        dynamo=False,
    )
    return file.getvalue()


def listed(results: Any) -> list[Any]:
    """Return what a module gave as a list of tensors."""
    if isinstance(results, Mapping):
        return list(results.values())
    return list(results) if isinstance(results, tuple | list) else [results]


def output_name(number: int, count: int) -> str:
    """Return the name of an output: ``y`` if it is the only one, ``y0``, ``y1``... otherwise."""
    return f"y{number}" if count > 1 else "y"


def _with_casts_mended(file: bytes) -> bytes:
    """Return a file whose casts to bf16 say so.

    For the scale of attention in bf16 torch writes its own number of that type, 15, which in ONNX
    is a complex one; its constant folding fails there.
    """
    model = onnx.load_from_string(file)
    wrong = [
        attribute
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
        if attribute.name == "to" and attribute.i == onnx.TensorProto.COMPLEX128
    ]
    for attribute in wrong:
        attribute.i = onnx.TensorProto.BFLOAT16
    return bytes(model.SerializeToString()) if wrong else file
