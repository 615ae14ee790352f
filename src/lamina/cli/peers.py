"""Other engines on the same model, with the settings that are best for them."""

from __future__ import annotations

import importlib
import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lamina.errors import ConfigError, DeviceError, ExecutionError

Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Peer:
    """A model loaded by another engine; ``run`` takes and gives arrays by name."""

    name: str
    version: str
    run: Run
    seconds: float


def load_peer(name: str, model: Path | bytes, *, threads: int, precision: str = "fp32") -> Peer:
    """Load a model into an engine by name.

    Raises ConfigError for an unknown name, DeviceError when the engine is not installed or
    refuses the model.
    """
    if name not in _LOADERS:
        raise ConfigError(
            f"there is no engine {name!r} to compare with", hint=f"there are {sorted(_LOADERS)}"
        )
    try:
        library = importlib.import_module(name)
    except ImportError as e:
        raise DeviceError(f"{name} is not installed", hint=f"pip install {name}") from e
    started = time.perf_counter()
    try:
        run = _LOADERS[name](library, model, threads, precision)
    except Exception as e:
        raise DeviceError(f"{name} cannot load the model: {e}") from e
    return Peer(name, importlib.metadata.version(name), run, time.perf_counter() - started)


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _load_onnxruntime(ort: Any, model: Path | bytes, threads: int, precision: str) -> Run:
    """Use every graph optimization; onnxruntime has no bf16 on x86, so that runs in f32."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return dict(zip(names, session.run(None, dict(inputs)), strict=True))
        except Exception as e:
            raise ExecutionError(f"onnxruntime cannot run the model: {e}") from e

    return run


def _load_openvino(openvino: Any, model: Path | bytes, threads: int, precision: str) -> Run:
    """Use the latency hint and one stream; inputs and outputs are shared, not copied."""
    core = openvino.Core()
    read = core.read_model(model) if isinstance(model, bytes) else core.read_model(str(model))
    compiled = core.compile_model(
        read,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        },
    )
    request = compiled.create_infer_request()
    outputs = [(i, name) for i, o in enumerate(compiled.outputs) for name in o.names]

    def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        except Exception as e:
            raise ExecutionError(f"OpenVINO cannot run the model: {e}") from e
        return {name: results[i] for i, name in outputs}

    return run


_Loader = Callable[[Any, Path | bytes, int, str], Run]
_LOADERS: Final[Mapping[str, _Loader]] = {
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
}
PEERS: Final[Sequence[str]] = tuple(_LOADERS)
"""The engines that there are."""
