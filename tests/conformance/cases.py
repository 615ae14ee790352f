"""Collects the cases of the onnx package in one form."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import DATA_DIR, load_model_tests

from lamina.importers.onnx.tensors import TensorReader

DATA = Path(DATA_DIR)
SHIPPED_KINDS = ("simple", "pytorch-operator", "pytorch-converted")


@dataclass(frozen=True)
class Case:
    """One model with inputs and the outputs that are expected for them."""

    name: str
    load: Callable[[], onnx.ModelProto]
    data: Callable[[], list[tuple[list[Any], list[Any]]]]
    rtol: float
    atol: float


@cache
def node_cases() -> tuple[Case, ...]:
    """Return the cases that the package generates, about one per operator and option."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return tuple(_generated(c) for c in found)


def node_group(name: str) -> str:
    """Return the first letter of the operator that a node case is about."""
    return name.removeprefix("test_")[0]


def _generated(c: Any) -> Case:
    def data() -> list[tuple[list[Any], list[Any]]]:
        return [([array(v) for v in i], [array(v) for v in o]) for i, o in c.data_sets]

    return Case(c.name, lambda: c.model, data, c.rtol, c.atol)


@cache
def shipped_cases(kind: str) -> tuple[Case, ...]:
    """Return the cases of one folder of the package's data."""
    return tuple(_shipped(c) for c in load_model_tests(kind=kind) if c.model_dir)


def _shipped(c: Any) -> Case:
    folder = Path(c.model_dir)

    def load() -> onnx.ModelProto:
        return onnx.load(folder / "model.onnx")

    def data() -> list[tuple[list[Any], list[Any]]]:
        model = load()
        constants = {t.name for t in model.graph.initializer}
        inputs = [i for i in model.graph.input if i.name not in constants]
        return [
            (_values(d, "input", inputs), _values(d, "output", list(model.graph.output)))
            for d in sorted(folder.glob("test_data_set_*"))
        ]

    return Case(folder.name, load, data, c.rtol, c.atol)


def _values(folder: Path, prefix: str, declared: list[onnx.ValueInfoProto]) -> list[Any]:
    values = []
    for i, info in enumerate(declared):
        data = (folder / f"{prefix}_{i}.pb").read_bytes()
        if info.type.HasField("sequence_type"):
            values.append(array(onnx.SequenceProto.FromString(data)))
        elif info.type.HasField("optional_type"):
            values.append(array(onnx.OptionalProto.FromString(data)))
        else:
            values.append(array(onnx.TensorProto.FromString(data)))
    return values


def array(value: Any) -> Any:
    """Return what the package stores for a value as arrays, lists of arrays, or None."""
    if isinstance(value, onnx.TensorProto):
        return TensorReader(None).read(value)
    if isinstance(value, onnx.SequenceProto):
        return [array(t) for t in value.tensor_values]
    if isinstance(value, onnx.OptionalProto):
        return array(value.tensor_value) if value.HasField("tensor_value") else None
    if isinstance(value, list | tuple):
        return [array(v) for v in value]
    return value
