"""The build pipeline, in the order in which it runs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lamina.backends.cpu.compiler import CpuCompiler
from lamina.backends.cpu.features import cpu_features, cpu_name
from lamina.config import BuildConfig, ProgressEvent, cache_folder, shape_ranges
from lamina.errors import BuildError, BuildInterrupted, ConfigError
from lamina.importers.onnx import load as load_onnx
from lamina.ir.dims import Expr
from lamina.ir.graph import Graph
from lamina.ir.text import print_graph
from lamina.ir.types import TensorType
from lamina.ir.verify import verify
from lamina.ir.weight import Weight
from lamina.passes.pipeline import OPTIMIZE
from lamina.passes.regions import FuseRegions
from lamina.passes.shuffle import FuseChannelShuffle
from lamina.passes.specialize import copy, specialize
from lamina.plan.plan import Plan
from lamina.precision.pipeline import (
    decide_precision,
    finish_precision,
    missing_feature,
    multiplies_integers,
    narrow_storage,
)
from lamina.runtime.engine import Engine
from lamina.tactics.cache import TimingCache

Progress = Callable[[ProgressEvent], None]
Report = Callable[[str, int, int, str], None]
Ranges = tuple[tuple[str, int, int, int], ...]


def build(
    model: Any,
    *,
    target: str = "cpu",
    precision: str = "fp32",
    shapes: Mapping[str, Any] | None = None,
    threads: int = 0,
    optimization_level: int = 3,
    timing_cache: str | None = None,
    without: tuple[str, ...] = (),
    progress: Progress | None = None,
    **options: Any,
) -> Engine:
    """Compile a model and return its engine.

    ``model`` is the path or the bytes of an ONNX file, an ``onnx.ModelProto`` or a
    :class:`lamina.Graph`.  ``shapes`` maps inputs to one shape, or to (min, opt, max).
    ``progress`` is called with a :class:`lamina.config.ProgressEvent` as it goes on.  Others are
    those of :class:`lamina.BuildConfig`.  Raises a LaminaError for anything that is the model's or
    the caller's fault; BuildInterrupted on Ctrl-C, with nothing written.
    """
    try:
        config = BuildConfig(
            target=target,
            precision=precision,  # type: ignore[arg-type]
            shapes=shape_ranges(shapes or {}),
            threads=threads,
            optimization_level=optimization_level,
            timing_cache=timing_cache,
            without=tuple(without),
            **options,
        )
    except TypeError as e:
        raise ConfigError(f"unknown option: {e}", hint="see help(lamina.BuildConfig)") from e
    missing = missing_feature(precision, cpu_features()) if target == "cpu" else None
    if missing is not None:
        raise ConfigError(
            f"precision {precision} needs a CPU with {missing}, this one ({cpu_name()}) has none",
            hint="build with precision='fp32', or 'fp16' for a smaller plan",
        )
    try:
        return Engine(build_plan(model, config, progress), threads=config.threads)
    except KeyboardInterrupt as e:
        raise BuildInterrupted("the build was interrupted; nothing was written") from e


def build_plan(model: Any, config: BuildConfig, progress: Progress | None = None) -> Plan:
    """Run the pipeline: import, specialize, optimize, decide precision, compile, freeze."""
    report = _Reporter(progress)
    report("import", 0, 1)
    graph, ranges = import_graph(model, config)
    portable = copy(graph) if config.keep_graph else None
    report("optimize", 0, 1)
    optimize(graph, config)
    return compile_graph(graph, ranges, config, report, portable)


def import_graph(model: Any, config: BuildConfig) -> tuple[Graph, Ranges]:
    """Return the model as a graph of its own with the shapes of ``config``, and symbols' ranges."""
    graph = copy(model) if isinstance(model, Graph) else load_onnx(model)
    narrow_storage(graph, config.precision)
    return apply_shapes(graph, config)


def optimize(graph: Graph, config: BuildConfig) -> None:
    """Decide precision and run the passes, in place; raises ConfigError for an unknown pass."""
    late = (FuseChannelShuffle(), FuseRegions())  # they must see the casts of finish_precision
    try:
        pipeline = OPTIMIZE.without(*{*config.without, *(p.name for p in late)})
    except ValueError as e:
        fact, _, known = str(e).partition("; ")
        raise ConfigError(fact, hint=known.translate(str.maketrans("", "", "[]'"))) from e
    decide_precision(graph, config.precision, multiplies_integers(cpu_features()))
    pipeline(graph)
    finish_precision(graph, config.precision)
    for fusion in late:
        if fusion.name not in config.without:
            fusion(graph)
    if config.verify:
        verify(graph)


def compile_graph(
    graph: Graph,
    ranges: Ranges,
    config: BuildConfig,
    report: Report | None = None,
    portable: Graph | None = None,
) -> Plan:
    """Choose kernels for an optimized graph and freeze it; ``portable`` is stored beside them."""
    env = {name: opt for name, _, opt, _ in ranges}
    compiler = CpuCompiler(config, env, report or _Reporter(None))
    cache = TimingCache(_cache_path(config), _machine(compiler))
    compiled = compiler.compile(graph, cache)
    text, weights = _portable(portable)
    return Plan(
        graph=text,
        weights=weights,
        config=tuple(sorted((k, json.dumps(v)) for k, v in _config_fields(config).items())),
        ranges=ranges,
        sections=(compiled.section,),
        fallbacks=tuple(dict.fromkeys(compiled.fallbacks)),
    )


def apply_shapes(graph: Graph, config: BuildConfig) -> tuple[Graph, Ranges]:
    """Give symbols their numbers or ranges; returns the graph and (symbol, min, opt, max) rows.

    An input without shapes keeps its symbols with the range 1 to 2**31 and the likeliest value 1.
    """
    low: dict[str, int] = {}
    opt: dict[str, int] = {}
    high: dict[str, int] = {}
    inputs = {v.name: v for v in graph.inputs}
    if unknown := [n for n in config.shapes if n not in inputs]:
        raise ConfigError(f"there is no input {unknown}", hint=f"inputs: {sorted(inputs)}")
    for name, given in config.shapes.items():
        type = inputs[name].type
        if not isinstance(type, TensorType) or type.rank != len(given[1]):
            raise ConfigError(f"input {name!r} is {type}, the shape given is {given[1]}")
        for axis, d in enumerate(type.shape):
            for values, shape in zip((low, opt, high), given, strict=True):
                _bind(values, d, shape[axis], name, axis)
    fixed = {s: n for s, n in opt.items() if low[s] == high[s]}
    if fixed:
        graph = specialize(graph, fixed)
    names = sorted(s for s in graph.symbols() if s not in graph.definers)
    rows = tuple((s, low.get(s, 1), opt.get(s, 1), high.get(s, (1 << 31) - 1)) for s in names)
    return graph, rows


def _bind(values: dict[str, int], d: Any, size: int, name: str, axis: int) -> None:
    if isinstance(d, Expr):
        text = str(d)
        if values.setdefault(text, size) != size:
            raise ConfigError(
                f"{text} is {values[text]} and {size} in the shapes given",
                hint=f"axis {axis} of {name!r} must agree with the other inputs",
            )
    elif d != size:
        raise ConfigError(
            f"axis {axis} of input {name!r} is {d} in the model, the shape says {size}"
        )


def _portable(graph: Graph | None) -> tuple[str, dict[str, Weight]]:
    if graph is None:
        return "", {}
    weights: dict[str, Weight] = {}
    collect_weights(graph, weights)
    return print_graph(graph, locs=True), weights


def collect_weights(graph: Graph, weights: dict[str, Weight]) -> None:
    """Add the constants of a graph, nested ones included, to a table by digest."""
    for node in graph.nodes():
        for value in vars(node.op).values():
            if isinstance(value, Graph):
                collect_weights(value, weights)
            elif isinstance(value, Weight):
                weights[value.digest] = value


def _config_fields(config: BuildConfig) -> dict[str, Any]:
    skip = {"timing_cache", "verify"}
    return {
        f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in skip
    }


def _cache_path(config: BuildConfig) -> Path | None:
    if config.timing_cache is None:
        return cache_folder() / "timing.json"
    return Path(config.timing_cache) if config.timing_cache else None


def _machine(compiler: CpuCompiler) -> str:
    return " ".join([cpu_name(), *(f"{k}={v}" for k, v in compiler.driver.target())])


class _Reporter:
    """Passes progress on, at most every 50 ms within a stage."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.last, self.stage = progress, 0.0, ""

    def __call__(self, stage: str, done: int, total: int, item: str = "") -> None:
        now = time.perf_counter()
        if self.progress is None or (stage == self.stage and now - self.last < 0.05):
            return
        self.last, self.stage = now, stage
        self.progress(ProgressEvent(stage, done, total, item))


__all__ = ["BuildError", "build", "build_plan"]
