"""A process that works on conformance cases for a GPU: one JSON question and answer a line.

``{"do": "kernels", "case": 3, "arch": 90}`` asks for the kernels of a case, ``{"do": "run", "case":
3}`` builds and runs it on the first GPU.  A kernel that faults takes its process along, not the
others.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from lamina.errors import DeviceError
from tests.backends.cuda.simulation import plan_of
from tests.conformance.cases import SHIPPED_KINDS, Case, node_cases, shipped_cases
from tests.conformance.compare import compare_all
from tests.conformance.execution import build_for, profiles


@cache
def all_cases() -> tuple[Case, ...]:
    """Return every case, in a fixed order."""
    return (*node_cases(), *(c for kind in SHIPPED_KINDS for c in shipped_cases(kind)))


def kernels(case: Case, arch: int) -> dict[str, Any]:
    """Return the kernels that a build of the case needs, or the error of the build."""
    try:
        model = case.load()
        _, requests = plan_of(model, shapes=profiles(model), arch=arch)
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"[:600]}
    return {"kernels": [r.key() for r in requests]}


def run(case: Case) -> dict[str, Any]:
    """Return the error of a case, "" if there is none, and what ran on the host."""
    answer: dict[str, Any] = {"error": "", "fallbacks": [], "lost": False}
    try:
        engine = build_for("cuda", case.load())
        answer["fallbacks"] = list(engine.plan.fallbacks)
        for inputs, expected in case.data():
            with np.errstate(all="ignore"):
                results = engine(*inputs)
            several = list(results) if len(engine.outputs) > 1 else [results]
            compare_all(several, expected, rtol=case.rtol, atol=case.atol)
    except Exception as e:
        answer["error"] = f"{type(e).__name__}: {e}"[:600]
        answer["lost"] = isinstance(e, DeviceError) and "is lost" in str(e)
    return answer


def _answer(question: Mapping[str, Any]) -> dict[str, Any]:
    case = all_cases()[question["case"]]
    return kernels(case, question["arch"]) if question["do"] == "kernels" else run(case)


def serve() -> None:
    """Answer until there are no more questions."""
    faulthandler.enable()  # should a crash end the process, it says where
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    for line in sys.stdin:
        out.write(json.dumps(_answer(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    serve()
