"""Every benchmark workload: a seeded model and seeded inputs, made without a network connection.

>>> workload = find("resnet50")
>>> model = workload.build(batch=8)
>>> inputs = workload.inputs(model, seed=1)
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from benchmarks import light_models, mobile_models, transformer_models

Array = npt.NDArray[Any]
Inputs = dict[str, Array]

DIGITS_FILE = pathlib.Path(__file__).parents[1] / "src/lamina/cli/data/digits.onnx"

# Side, in pixels, of the flat patches that random images are composed of.
PATCH = 16


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network to measure, by name.

    ``quantizable`` marks networks whose int8 (QDQ) form is measured as well.
    """

    name: str
    builder: Callable[[int], onnx.ModelProto]
    quantizable: bool = False

    def build(self, batch: int = 1) -> onnx.ModelProto:
        """Return the checked f32 model; its weights do not depend on the batch."""
        return self.builder(batch)

    def inputs(self, model: onnx.ModelProto, seed: int = 1) -> Inputs:
        """Return random inputs of the model's static shapes."""
        rng = np.random.default_rng(seed)
        return {i.name: _random_input(i, rng) for i in model.graph.input}


def digits(batch: int = 1) -> onnx.ModelProto:
    """Return the trained digits network of ``lamina demo`` with its batch fixed."""
    model = onnx.load(DIGITS_FILE)
    return fix_batch(model, batch)


def fix_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return a copy with every symbolic dimension of inputs and outputs set to ``batch``."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = batch
    del fixed.graph.value_info[:]
    return fixed


WORKLOADS = (
    *(
        Workload(name, functools.partial(light_models.light_model, name), quantizable=True)
        for name in light_models.LIGHT_NAMES
    ),
    Workload("mobilenet_v2", mobile_models.mobilenet_v2, quantizable=True),
    Workload("bert_base", transformer_models.bert),
    Workload("vit_b16", transformer_models.vit),
    Workload("lstm", mobile_models.lstm),
    Workload("digits", digits, quantizable=True),
)


def find(name: str) -> Workload:
    """Return the workload of that name; ``KeyError`` lists the names there are."""
    for workload in WORKLOADS:
        if workload.name == name:
            return workload
    raise KeyError(f"no workload {name!r}; there are {', '.join(w.name for w in WORKLOADS)}")


def _random_input(value: onnx.ValueInfoProto, rng: np.random.Generator) -> Array:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value for d in tensor.shape.dim)
    if value.name == "input_ids":
        return rng.integers(0, 1000, shape, np.int64)
    if value.name == "attention_mask":
        lengths = rng.integers(shape[1] * 3 // 4, shape[1], (shape[0], 1), endpoint=True)
        return (np.arange(shape[1]) < lengths).astype(np.int64)
    if value.name == "token_type_ids":
        return rng.integers(0, 2, shape, np.int64)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if len(shape) == 4 and shape[2] % PATCH == 0 and shape[3] % PATCH == 0:
        return _random_image(shape, rng).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _random_image(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Coarse patches under fine noise: images differ from each other even after pooling."""
    coarse = rng.standard_normal((*shape[:2], shape[2] // PATCH, shape[3] // PATCH))
    patches = np.kron(coarse, np.ones((1, 1, PATCH, PATCH)))
    return 0.8 * patches + 0.6 * rng.standard_normal(shape)
