"""The checked-in digits networks classify the checked-in held-out images."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx
import onnxruntime
import pytest

DATA = pathlib.Path(__file__).parents[2] / "src/lamina/cli/data"
FILES = ("digits.onnx", "digits_int8.onnx", "digits_held_out.npz")


@pytest.mark.parametrize("file", FILES[:2])
def test_accuracy_on_held_out_images(file: str) -> None:
    held_out = np.load(DATA / "digits_held_out.npz")
    assert held_out["images"].shape == (360, 1, 8, 8) and held_out["images"].dtype == np.float32
    session = onnxruntime.InferenceSession(DATA / file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": held_out["images"]})
    assert (logits.argmax(1) == held_out["labels"]).mean() >= 0.985


@pytest.mark.parametrize("file", FILES[:2])
def test_batch_is_dynamic_and_the_model_valid(file: str) -> None:
    model = onnx.load(DATA / file)
    onnx.checker.check_model(model, full_check=True)
    shape = model.graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "batch"


def test_the_float_model_keeps_batch_norms_and_the_int8_model_has_q_dq() -> None:
    plain, quantized = (
        [n.op_type for n in onnx.load(DATA / file).graph.node] for file in FILES[:2]
    )
    assert plain.count("BatchNormalization") == plain.count("Conv") == 3
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(quantized)


@pytest.mark.parametrize("file", FILES)
def test_files_are_small(file: str) -> None:
    assert (DATA / file).stat().st_size < 200_000
