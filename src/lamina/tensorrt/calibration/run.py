"""Runs a calibration: the network in float on the user's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from lamina.backends.cuda.device import LEGACY_STREAM
from lamina.builder import build_plan
from lamina.config import BuildConfig
from lamina.errors import BuildError, ConfigError, LaminaError
from lamina.ir.graph import Graph, Value
from lamina.ir.types import DType, TensorType
from lamina.runtime.engine import Engine
from lamina.tensorrt import persona
from lamina.tensorrt.calibration import cache
from lamina.tensorrt.calibration.calibrators import IInt8Calibrator
from lamina.tensorrt.calibration.histogram import Histogram
from lamina.tensorrt.engine.memory import DeviceSpace, Space, space_of
from lamina.tensorrt.error_reporting import Reporter

Shape = tuple[int, ...]


def calibrate(
    graph: Graph,
    values: Mapping[str, Value],
    calibrator: IInt8Calibrator,
    shapes: Mapping[str, Shape],
    device: str,
    reporter: Reporter,
) -> dict[str, float]:
    """Return the range of each float tensor, from the calibrator's cache or from its batches.

    ``shapes`` are the shapes of a batch by input.  Raises BuildError when the calibrator fails or
    has no batch.
    """
    algorithm = _call(calibrator.get_algorithm).name
    kept = _call(calibrator.read_calibration_cache)
    if kept is not None and len(kept):
        ranges = cache.read(bytes(kept), algorithm)
        if ranges is not None:
            reporter.info(f"calibration: the cache gives the ranges of {len(ranges)} tensors")
            return ranges
        reporter.warning("calibration: the cache is of another algorithm or damaged; measuring")
    histograms = _measure(graph, values, calibrator, shapes, device)
    ranges = {name: h.range(algorithm) for name, h in histograms.items()}
    text = cache.write(ranges, algorithm, persona.current().version)
    _call(calibrator.write_calibration_cache, memoryview(text))
    return ranges


def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call the user's method; what it raises becomes a BuildError that says where."""
    try:
        return method(*arguments)
    except LaminaError:
        raise
    except Exception as e:
        raise BuildError(
            f"the calibrator failed in {method.__name__}: {type(e).__name__}: {e}"
        ) from e


def _measure(
    graph: Graph,
    values: Mapping[str, Value],
    calibrator: IInt8Calibrator,
    shapes: Mapping[str, Shape],
    device: str,
) -> dict[str, Histogram]:
    engine = Engine(_plan(graph, values, shapes, device), device=device)
    space, context = space_of(engine), engine.create_context()
    names = [p.name for p in engine.inputs]
    histograms = {p.name: Histogram() for p in (*engine.inputs, *engine.outputs) if _float(p.type)}
    batches = 0
    while addresses := _call(calibrator.get_batch, names):
        if len(addresses) != len(names):
            raise BuildError(
                f"get_batch returned {len(addresses)} addresses for the inputs {names}"
            )
        feed = {
            port.name: space.array(int(address), port.type.dtype, shapes[port.name])  # type: ignore[union-attr]
            for port, address in zip(engine.inputs, addresses, strict=True)
        }
        results = context.run(feed)
        for name, array in {**feed, **results}.items():
            if name in histograms:
                histograms[name].add(_on_host(space, array).astype(np.float32))
        batches += 1
    if not batches:
        raise BuildError("the calibrator gave no batch", hint="get_batch must return addresses")
    return histograms


def _plan(
    graph: Graph, values: Mapping[str, Value], shapes: Mapping[str, Shape], device: str
) -> Any:
    """Compile the graph in float with every float tensor as an output."""
    inputs = {v.name for v in graph.inputs}
    if missing := [v.name for v in graph.inputs if v.name not in shapes]:
        raise ConfigError(
            f"the inputs {missing} have no shape for calibration",
            hint="call config.set_calibration_profile, or add an optimization profile",
        )
    live = set(graph.nodes())
    with _more_outputs(graph):
        taken = {*graph.output_names, *inputs}
        for name, v in values.items():
            if name not in taken and v.node in live and _float(v.type):
                graph.output(v, name)
        config = BuildConfig(
            target=device,
            shapes={name: (s, s, s) for name, s in shapes.items() if name in inputs},
            optimization_level=0,
            keep_graph=False,
        )
        return build_plan(graph, config)


@contextmanager
def _more_outputs(graph: Graph) -> Iterator[None]:
    """Let the block add outputs, and take them away again."""
    outputs, names = list(graph.outputs), list(graph.output_names)
    try:
        yield
    finally:
        graph.outputs, graph.output_names = outputs, names


def _float(type: Any) -> bool:
    return isinstance(type, TensorType) and type.dtype in (DType.F32, DType.F16, DType.BF16)


def _on_host(space: Space, array: Any) -> Any:
    if isinstance(array, np.ndarray):
        return array
    assert isinstance(space, DeviceSpace)
    host = np.empty(array.shape, array.dtype)
    space.store(host.ctypes.data, array, LEGACY_STREAM)
    space.device.synchronize(LEGACY_STREAM)
    return host
