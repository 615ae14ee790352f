"""onnxruntime, OpenVINO and Lamina behind one small protocol, each with its best CPU settings.

``load`` gets a file, so that each engine may map the weights; what it returns is called with
named arrays and gives named arrays. An engine that cannot run a precision says so in
``precisions`` and is left out: onnxruntime has no bf16 kernels for x86.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import pathlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

PRECISIONS = ("f32", "bf16", "int8")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model ready to run in one engine.

    ``handle`` is the engine's own object, for what only that engine can tell.
    """

    run: Callable[[Arrays], Arrays]
    build_seconds: float
    handle: Any = None


class Peer(Protocol):
    """An engine that loads ONNX files and runs them on this machine's CPU."""

    @property
    def name(self) -> str:
        """The name used on the command line and in results."""

    @property
    def version(self) -> str:
        """The version of the installed package."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions, of ``PRECISIONS``, that the engine has kernels for."""

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Build or compile the model; the time it takes is in the result."""


@dataclasses.dataclass(frozen=True)
class OnnxRuntime:
    """onnxruntime's CPU provider with every graph optimization.

    ``spinning`` leaves its workers busy-waiting for a while after each run, which is its default;
    ``timing`` explains why that does not disturb the others.
    """

    threads: int
    spinning: bool = True
    name: str = "onnxruntime"
    precisions: tuple[str, ...] = ("f32", "int8")

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return importlib.metadata.version("onnxruntime")

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Return a session over ``threads`` intra-op threads."""
        ort = importlib.import_module("onnxruntime")
        started = time.perf_counter()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        spinning = "1" if self.spinning else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        seconds = time.perf_counter() - started
        names = [output.name for output in session.get_outputs()]

        def run(inputs: Arrays) -> Arrays:
            return dict(zip(names, session.run(None, inputs), strict=True))

        return Loaded(run, seconds, session)


@dataclasses.dataclass(frozen=True)
class OpenVino:
    """OpenVINO's CPU plugin with the latency hint, one stream, inputs and outputs shared."""

    threads: int
    name: str = "openvino"
    precisions: tuple[str, ...] = PRECISIONS

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return importlib.metadata.version("openvino")

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Return an inference request; int8 models run what is not quantized in f32."""
        openvino = importlib.import_module("openvino")
        started = time.perf_counter()
        core = openvino.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(self.threads),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        compiled = core.compile_model(core.read_model(str(file)), "CPU", settings)
        request = compiled.create_infer_request()
        seconds = time.perf_counter() - started
        # An output that merged with an inner value has the names of both.
        outputs = [(i, name) for i, o in enumerate(compiled.outputs) for name in o.names]

        def run(inputs: Arrays) -> Arrays:
            results = request.infer(inputs, share_inputs=True, share_outputs=True)
            return {name: results[index] for index, name in outputs}

        return Loaded(run, seconds, request)


@dataclasses.dataclass(frozen=True)
class Lamina:
    """Lamina itself; int8 comes from the model's own Q/DQ nodes, the rest of it in fp32."""

    threads: int
    name: str = "lamina"
    precisions: tuple[str, ...] = PRECISIONS

    @property
    def version(self) -> str:
        """The version of the package that is imported."""
        return str(importlib.import_module("lamina").__version__)

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Build an engine; the timing cache is used as the environment sets it up."""
        lamina = importlib.import_module("lamina")
        asked = "bf16" if precision == "bf16" else "fp32"
        started = time.perf_counter()
        engine = lamina.build(file, target="cpu", precision=asked, threads=self.threads)
        return Loaded(engine.run, time.perf_counter() - started, engine)


PEERS: dict[str, Callable[[int], Peer]] = {
    "lamina": Lamina,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far outputs are from a reference's.

    ``max_relative`` is the largest absolute error over the reference's largest magnitude, the
    worst of all outputs; ``sqnr_db`` is the signal power over the error's, in decibels, likewise
    (infinite where equal).
    """

    max_relative: float
    sqnr_db: float


def compare(outputs: Arrays, reference: Arrays) -> Difference:
    """Return the worst difference over all outputs of the reference.

    A name or shape that is missing raises ``ValueError``; a NaN or infinity counts as infinitely
    far.
    """
    worst = Difference(0.0, float("inf"))
    for name, expected in reference.items():
        if name not in outputs or np.shape(outputs[name]) != expected.shape:
            found = {k: np.shape(v) for k, v in outputs.items()}
            raise ValueError(f"expected output {name!r} of shape {expected.shape}, got {found}")
        given, wanted = (np.asarray(a, np.float64) for a in (outputs[name], expected))
        if not np.isfinite(given).all():
            return Difference(float("inf"), float("-inf"))
        error = given - wanted
        power, noise = float(np.sum(wanted**2)), float(np.sum(error**2))
        peak = float(np.abs(wanted).max(initial=0.0)) or 1.0
        decibels = 10 * np.log10(max(power, 1e-300) / noise) if noise else float("inf")
        worst = Difference(
            max(worst.max_relative, float(np.abs(error).max(initial=0.0)) / peak),
            min(worst.sqnr_db, float(decibels)),
        )
    return worst
