"""Makes int8 (QDQ) models with onnxruntime's static quantization, offline and cached.

    python -m benchmarks.quantize resnet50 squeezenet [--cache FOLDER]

Activations are u8 with a zero point, weights s8 with one scale a channel: what both peers run
fastest on x86. Batch norms are folded first (onnxruntime's own preparation step), as its manual
advises; calibration takes the range of a few seeded random inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import onnx
import onnx.version_converter
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks import models

# DequantizeLinear has one scale a channel from opset 13 on.
QDQ_OPSET = 13
CALIBRATION_INPUTS = 4


def default_cache() -> pathlib.Path:
    """Return the folder that quantized models are kept in unless another is named."""
    return pathlib.Path(tempfile.gettempdir()) / "lamina-benchmarks"


def int8_model(workload: models.Workload, batch: int, cache: pathlib.Path) -> onnx.ModelProto:
    """Return the workload's QDQ model, from the cache where it is there already.

    The cache holds one file a workload, named by a digest of its f32 model: the batch is set
    afterwards, because neither scales nor reshapes depend on it.
    """
    model = workload.build(batch=1)
    # A change of this recipe makes the file anew, too.
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes())
    digest.update(model.SerializeToString(deterministic=True))
    file = cache / f"{workload.name}-{digest.hexdigest()[:16]}-int8.onnx"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        quantize(model, [workload.inputs(model, seed) for seed in range(CALIBRATION_INPUTS)], file)
    return set_batch(onnx.load(file), batch)


def quantize(model: onnx.ModelProto, inputs: list[models.Inputs], file: pathlib.Path) -> None:
    """Write the model's QDQ form to ``file``, its ranges taken from ``inputs``."""
    if model.opset_import[0].version < QDQ_OPSET:
        model = onnx.version_converter.convert_version(model, QDQ_OPSET)
    _sums_to_adds(model)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        given, prepared, partial = (pathlib.Path(folder, f"{i}.onnx") for i in range(3))
        onnx.save(model, given)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            partial,
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            nodes_to_exclude=_kept_in_float(prepared),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        os.replace(partial, file)


def _sums_to_adds(model: onnx.ModelProto) -> None:
    """Write sums of two as Add, in place: the quantizer does not know Sum."""
    for node in model.graph.node:
        if node.op_type == "Sum" and len(node.input) == 2:
            node.op_type = "Add"


def _kept_in_float(file: pathlib.Path) -> list[str]:
    """Name every node of the file, and return those that are not quantized.

    Batch norms and scalings that are left come before a convolution (DenseNet) and cannot be folded
    into it; eight bits are too few for their constants. OpenVINO 2026.4 crashes when it compiles a
    quantized concatenation of concatenations (DenseNet again), so that these stay in f32 as well.
    """
    model = onnx.load(file)
    weights = {weight.name for weight in model.graph.initializer}
    joined = {node.output[0] for node in model.graph.node if node.op_type == "Concat"}
    kept = []
    for index, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{index}"
        operands = set(node.input)
        scaling = node.op_type in ("Mul", "Add") and weights & operands
        rejoined = node.op_type == "Concat" and joined & operands
        if scaling or rejoined or node.op_type == "BatchNormalization":
            kept.append(node.name)
    onnx.save(model, file)
    return kept


def set_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Set the first dimension of every input and output, and forget inferred types, in place."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    return model


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands inputs to onnxruntime's calibration one at a time."""

    def __init__(self, inputs: list[models.Inputs]) -> None:
        self._inputs: Iterator[models.Inputs] = iter(inputs)

    def get_next(self) -> models.Inputs | None:
        """Return the next inputs, or None after the last."""
        return next(self._inputs, None)


def main() -> None:
    """Quantize the named workloads, or all that can be."""
    parser = argparse.ArgumentParser(description="Make QDQ int8 models of the workloads.")
    known = [w.name for w in models.WORKLOADS if w.quantizable]
    parser.add_argument("names", nargs="*", default=known, metavar="MODEL")
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache())
    options = parser.parse_args()
    for name in options.names:
        int8_model(models.find(name), 1, options.cache)
        sys.stdout.write(f"{name}\n")


if __name__ == "__main__":
    main()
