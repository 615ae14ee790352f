"""Comparing outputs with reference outputs."""

from __future__ import annotations

import numpy as np

from lamina.cli.trtexec import specs
from lamina.cli.trtexec.arguments import Arguments
from lamina.cli.trtexec.buffers import host_inputs, read_raw, runs_of
from lamina.cli.trtexec.console import Console
from lamina.errors import ConfigError
from lamina.ir.graph import Array
from lamina.ir.types import TensorType
from lamina.tensorrt.engine.cuda_engine import ICudaEngine


def loss(algorithm: str, got: Array, wanted: Array, *, atol: float, rtol: float) -> float:
    """Return how far outputs are from the reference, 0 for a perfect match.

    ``l0`` is the share of elements with ``|got - wanted| > atol + rtol * |wanted|``, ``l1`` and
    ``l2`` are means of absolute and squared differences, ``lInf`` is the largest difference and
    ``cos`` is one minus the cosine of the angle between both.
    """
    a, b = got.astype(np.float64).reshape(-1), wanted.astype(np.float64).reshape(-1)
    difference = np.abs(a - b)
    if not a.size:
        return 0.0
    match algorithm.lower():
        case "l0":
            return float(np.mean(~(difference <= atol + rtol * np.abs(b))))
        case "l1":
            return float(np.mean(difference))
        case "l2":
            return float(np.mean(difference**2))
        case "linf":
            return float(np.max(difference))
        case "cos" | "cosine":
            norms = float(np.linalg.norm(a) * np.linalg.norm(b))
            return 1 - float(a @ b) / norms if norms else float(np.any(a != b))
    raise ConfigError(
        f"--accuracyAlgorithm={algorithm} is not known", hint="l0, l1, l2, lInf or cos"
    )


def check(console: Console, a: Arguments, engine: ICudaEngine) -> bool:
    """Run and compare every pair of inputs and reference outputs; False if any differs."""
    passed = True
    threshold = a.number("accuracyThreshold")
    algorithm = a.text("accuracyAlgorithm")
    for pair in a.numbers("loadRefOutputs"):
        inputs = host_inputs(console, a, engine, pair)
        runs = runs_of(engine._engine, inputs, transfers=True, profile=a.integer("useProfile"))
        runs.run(0.0)
        outputs = runs.outputs()
        for name, path in specs.pairs(a.text("loadRefOutputs", pair)).items():
            if name not in outputs:
                raise ConfigError(f"the engine has no output {name!r} to compare")
            got = outputs[name]
            port = next(p for p in engine._engine.outputs if p.name == name)
            assert isinstance(port.type, TensorType)
            wanted = read_raw(name, path, port.type.dtype, got.shape)
            found = loss(algorithm, got, wanted, atol=a.number("atol"), rtol=a.number("rtol"))
            good = found <= threshold
            passed &= good
            console.info(
                f"Accuracy of pair {pair}, output {name}: {algorithm} loss = {found:.6g}, "
                f"threshold = {threshold:g}: {'PASSED' if good else 'FAILED'}"
            )
    return passed
