"""A network defined in torch: exported for Lamina, and timed by torch itself on the same inputs.

``torch`` runs it as it is, ``torch-compile`` compiled for the most speed (``max-autotune``); on a
GPU both as one CUDA graph, on inputs that are there already.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lamina.cli.peers import Peer
from lamina.cli.torch_export import export, listed, output_name
from lamina.errors import ConfigError, DeviceError

EAGER, COMPILED = "torch", "torch-compile"
TORCH_PEERS: Final = (EAGER, COMPILED)
HINT: Final = "write FILE.py:FUNCTION or MODULE:FUNCTION, with literal arguments if it takes any"
_SPEC: Final = re.compile(r"(?P<home>.+):(?P<name>\w+)(?P<arguments>\(.*\))?", re.DOTALL)
_WARM_RUNS: Final = 3
_TYPES: Final = {"fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class TorchCase:
    """A module in evaluation mode on its device with inputs by name, and its ONNX form.

    ``feed`` is what engines are given: the tensors themselves on a GPU, NumPy arrays on a CPU.
    """

    torch: Any
    module: Any
    inputs: Mapping[str, Any]
    feed: Mapping[str, Any]
    model: bytes
    on_gpu: bool

    def peer(self, name: str) -> Peer:
        """Return torch as an engine; ``seconds`` is how long it took to be ready."""
        begin = time.perf_counter()
        run = _runner(self, compiled=name == COMPILED)
        version = str(self.torch.__version__)
        return Peer(name, version, lambda _: run(), time.perf_counter() - begin)

    def places(self) -> dict[str, Any] | None:
        """Return arrays for results where the inputs are; None to let an engine make its own."""
        if not self.on_gpu:
            return None
        return {name: self.torch.empty_like(y) for name, y in _results(self).items()}


def torch_case(spec: str, device: str, precision: str) -> TorchCase:
    """Load ``FILE.py:function`` or ``module:function``, which returns a module and its inputs.

    Inputs are a tensor, a tuple of them, or tensors by name.  With fp16 or bf16 the module and
    its float inputs are converted.  Raises ConfigError for what cannot be called so, DeviceError
    without torch.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as e:
        raise DeviceError("torch is not installed", hint="pip install torch") from e
    module, inputs = _called(spec)
    kind = "cuda" if device == "cuda" else "cpu"
    dtype = getattr(torch, _TYPES[precision]) if precision in _TYPES else None
    module = module.eval().to(kind)
    if dtype is not None:
        module = module.to(dtype)
    _allow_tf32(torch, allowed=precision == "tf32")
    placed = {
        name: x.to(kind).to(dtype) if dtype is not None and x.is_floating_point() else x.to(kind)
        for name, x in inputs.items()
    }
    on_gpu = kind == "cuda"
    feed = placed if on_gpu else {name: x.numpy() for name, x in placed.items()}
    return TorchCase(torch, module, placed, feed, export(torch, module, placed), on_gpu)


def _called(spec: str) -> tuple[Any, dict[str, Any]]:
    """Return what a function of the user's gives: a module, and inputs by name."""
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise ConfigError(f"{spec!r} names no function", hint=HINT)
    try:
        inside = (found["arguments"] or "()")[1:-1].strip().rstrip(",")
        arguments = ast.literal_eval(f"({inside},)" if inside else "()")
    except (ValueError, SyntaxError) as e:
        raise ConfigError(f"the arguments of {spec!r} are no literals", hint=HINT) from e
    make = getattr(_home(found["home"]), found["name"], None)
    if not callable(make):
        raise ConfigError(f"{found['home']} has no function {found['name']!r}", hint=HINT)
    result = make(*arguments)
    if not isinstance(result, tuple) or len(result) != 2:
        raise ConfigError(
            f"{spec} gives a {type(result).__name__}", hint="return (module, example inputs)"
        )
    module, inputs = result
    if not isinstance(inputs, Mapping):
        listed = inputs if isinstance(inputs, tuple | list) else (inputs,)
        inputs = {f"x{i}" if len(listed) > 1 else "x": x for i, x in enumerate(listed)}
    return module, dict(inputs)


def _home(text: str) -> Any:
    """Import a module by its name or its file."""
    path = Path(text)
    try:
        if path.suffix != ".py":
            return importlib.import_module(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    except (ImportError, OSError) as e:
        raise ConfigError(f"cannot import {text!r}: {e}", hint=HINT) from e
    return module


def _runner(case: TorchCase, *, compiled: bool) -> Callable[[], dict[str, Any]]:
    """Return a call that runs the module once and waits for its results."""
    torch, module = case.torch, case.module
    if compiled:
        mode = "max-autotune-no-cudagraphs" if case.on_gpu else "max-autotune"
        module = torch.compile(module, mode=mode)
    if not case.on_gpu:

        def run() -> dict[str, Any]:
            with torch.no_grad():
                return _named(module(*case.inputs.values()))

        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(_WARM_RUNS):
            module(*case.inputs.values())
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        results = _named(module(*case.inputs.values()))

    def replay() -> dict[str, Any]:
        graph.replay()
        torch.cuda.synchronize()
        return results

    return replay


def _results(case: TorchCase) -> dict[str, Any]:
    with case.torch.no_grad():
        return _named(case.module(*case.inputs.values()))


def _named(results: Any) -> dict[str, Any]:
    found = listed(results)
    return {output_name(i, len(found)): y for i, y in enumerate(found)}


def _allow_tf32(torch: Any, *, allowed: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
