"""Ways to run a model; every conformance test takes one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

import lamina
from lamina.importers.onnx import load
from lamina.ir.interpret import interpret
from tests.conformance.cases import Case
from tests.conformance.compare import compare_all
from tests.conformance.known_failures import Reason

Run = Callable[[Sequence[Any]], list[Any]]
Execute = Callable[[onnx.ModelProto], Run]


def interpreted(model: onnx.ModelProto) -> Run:
    """Import the model and evaluate the graph with the reference meaning of its operators."""
    graph = load(model)
    return lambda inputs: interpret(graph, inputs)


def built(target: str) -> Execute:
    """Return a way to run models that builds each for ``target``, without tuning."""

    def execute(model: onnx.ModelProto) -> Run:
        engine = build_for(target, model)
        several = len(engine.outputs) > 1
        return lambda inputs: list(engine(*inputs)) if several else [engine(*inputs)]

    return execute


def build_for(target: str, model: onnx.ModelProto) -> lamina.Engine:
    """Build a model without tuning; sizes that it leaves open stay open."""
    return lamina.build(model, target=target, optimization_level=0, shapes=profiles(model))


def profiles(model: onnx.ModelProto) -> dict[str, Any]:
    """Let every size that the model leaves open be 0 or more; some cases have empty inputs."""
    constants = {t.name for t in model.graph.initializer}
    profiles = {}
    for v in model.graph.input:
        dims = v.type.tensor_type.shape.dim
        if v.name not in constants and any(not d.HasField("dim_value") for d in dims):
            profiles[v.name] = tuple(
                tuple(d.dim_value if d.HasField("dim_value") else size for d in dims)
                for size in (0, 1, 1 << 20)
            )
    return profiles


@dataclass(frozen=True)
class Outcome:
    """What running some cases showed."""

    passed: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.passed} passed, {len(self.wrong)} wrong:\n" + "\n".join(self.wrong)


def run_cases(
    cases: Iterable[Case], execute: Execute, known_failures: Mapping[str, Reason]
) -> Outcome:
    """Run the cases; wrong is a failure that is not listed, and a listed one that passes."""
    passed, wrong = 0, []
    for case in cases:
        known = known_failures.get(case.name)
        error = _error(case, execute)
        if error is None:
            passed += 1
            if known is not None and not known.random:
                wrong.append(f"{case.name}: passes, but is listed as a known failure")
        elif known is None:
            wrong.append(f"{case.name}: {error}")
    return Outcome(passed, tuple(wrong))


def _error(case: Case, execute: Execute) -> str | None:
    try:
        run = execute(case.load())
        for inputs, expected in case.data():
            with np.errstate(all="ignore"):
                compare_all(run(inputs), expected, rtol=case.rtol, atol=case.atol)
    except Exception as e:
        return f"{type(e).__name__}: {e}"[:600]
    return None
