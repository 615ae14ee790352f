"""The build pipeline, in the order in which it runs."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamina.backends.compiled import Compiled
from lamina.backends.cpu.compiler import CpuCompiler
from lamina.backends.cpu.features import cpu_features, cpu_name
from lamina.config import (
    BUILT,
    BuildConfig,
    ProgressEvent,
    Target,
    cache_folder,
    default_threads,
    parse_targets,
    shape_ranges,
)
from lamina.errors import BuildError, BuildInterrupted, ConfigError
from lamina.importers.onnx import load as load_onnx
from lamina.ir.graph import Graph
from lamina.ir.text import print_graph
from lamina.ir.verify import verify
from lamina.ir.weight import Weight
from lamina.passes.fusion import FuseConvolutions
from lamina.passes.named_nodes import check_names
from lamina.passes.on_host import place_on_host
from lamina.passes.origins import record_weights
from lamina.passes.patches import PatchesToMatmul
from lamina.passes.pipeline import OPTIMIZE
from lamina.passes.regions import FuseRegions
from lamina.passes.row_norms import FuseRowNorms
from lamina.passes.shapes import Ranges, apply_shapes
from lamina.passes.shuffle import FuseChannelShuffle
from lamina.passes.specialize import copy
from lamina.plan.plan import Plan
from lamina.plan.recipes import with_recipes
from lamina.precision.pipeline import (
    decide_precision,
    finish_precision,
    kept_contractions,
    missing_feature,
    multiplies_integers,
    narrow_storage,
)
from lamina.runtime.engine import Engine, find_driver
from lamina.tactics.cache import TimingCache
from lamina.tactics.policy import Policy
from lamina.tactics.spent import Spent

_LOWERED = ("MergeParallelConvolutions",)
"""Passes that a GPU's lowering runs with conditions of its own."""

_UNSTORED = frozenset(
    {"timing_cache", "verify", "timing_average", "timing_runs", "selector", "time_budget"}
)
"""Options that say how kernels are chosen here; a plan for another machine is built without."""

_RARE = frozenset(
    """direct full_precision libraries most_tactics on_host refittable shared_bytes
    workspace_bytes""".split()
)
"""Options that a plan states where they have another value than usual."""

_MOST_DIGESTING = 4
"""Threads that compute digests of weights, beside what optimizes the graph."""

Progress = Callable[[ProgressEvent], None]
Report = Callable[[str, int, int, str], None]


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
    known = [f.name for f in dataclasses.fields(BuildConfig)]
    if unknown := [name for name in options if name not in known]:
        raise ConfigError(f"unknown option {unknown}", hint=f"the options are {known}")
    config = BuildConfig(
        target=target,
        precision=precision,  # type: ignore[arg-type]
        shapes=shape_ranges(shapes or {}),
        threads=threads,
        optimization_level=optimization_level,
        timing_cache=timing_cache,
        without=(without,) if isinstance(without, str) else tuple(without),
        **options,
    )
    on_cpu = Target("cpu") in parse_targets(config.target)
    missing = missing_feature(precision, cpu_features()) if on_cpu else None
    if missing is not None:
        raise ConfigError(
            f"precision {precision} needs a CPU with {missing}, this one ({cpu_name()}) has none",
            hint="build with precision='fp32', or 'fp16' for a smaller plan",
        )
    try:
        plan = build_plan(model, config, progress)
        return Engine(plan, threads=config.threads, device=_device_of(plan, config))
    except KeyboardInterrupt as e:
        raise BuildInterrupted("the build was interrupted; nothing was written") from e


def _device_of(plan: Plan, config: BuildConfig) -> str:
    """Return the first target's device that runs a section here, "none" after a cross-build."""
    for target in parse_targets(config.target):
        driver = find_driver(target.device, config.threads)
        if not driver.missing and any(driver.refusal(s) is None for s in plan.sections):
            return target.device
    return "none"


def build_plan(model: Any, config: BuildConfig, progress: Progress | None = None) -> Plan:
    """Run the pipeline: import, specialize, optimize, decide precision, compile, freeze.

    The last event of ``progress``, in the stage ``BUILT``, says where the time went.
    """
    report, spent = _Reporter(progress), Spent()
    report("import", 0, 1)
    with spent.phase("import"):
        graph, ranges = import_graph(model, config)
        portable = copy(graph) if config.keep_graph else None
    if portable is not None:
        _begin_digests(portable, config.threads or default_threads())
    targets = parse_targets(config.target)
    sections = []
    for number, target in enumerate(targets, 1):
        report("optimize", 0, 1)
        with spent.phase("optimize"):
            own = graph if number == len(targets) else copy(graph)
            sources: dict[str, Weight] = {}
            if portable is not None:  # weights can be named, and so be replaced
                recording, sources = record_weights(own, keeps_open=config.refittable)
            optimize(own, config, target.device)
        compiled = compile_section(own, ranges, config, target, report)
        spent.merge(compiled.spent)
        if sources:
            with spent.phase("plan"):
                section = with_recipes(compiled.section, recording, sources)
            compiled = dataclasses.replace(compiled, section=section)
        sections.append(compiled)
    with spent.phase("plan"):
        plan = make_plan(sections, ranges, config, portable)
    report(BUILT, 1, 1, spent.text())
    return plan


def import_graph(model: Any, config: BuildConfig) -> tuple[Graph, Ranges]:
    """Return the model as a graph of its own with the shapes of ``config``, and symbols' ranges.

    Raises ConfigError for options that name nodes which the model does not have.
    """
    graph = copy(model) if isinstance(model, Graph) else load_onnx(model)
    check_names(graph, "full_precision", config.full_precision)
    check_names(graph, "on_host", config.on_host)
    kept = kept_contractions(graph, config.full_precision)
    narrow_storage(graph, config.precision, kept)
    return apply_shapes(graph, config.shapes)


def optimize(graph: Graph, config: BuildConfig, device: str = "cpu") -> None:
    """Decide precision and run the passes, in place; raises ConfigError for an unknown pass."""
    late = (FuseChannelShuffle(), FuseRegions())  # they must see the casts of finish_precision
    try:
        later = {*(p.name for p in late), *(_LOWERED if device == "cuda" else ())}
        outside = {PatchesToMatmul().name, FuseConvolutions().name, FuseRowNorms().name}
        pipeline = OPTIMIZE.without(*{*config.without, *later} - outside)
    except ValueError as e:
        raise ConfigError(str(e).partition("; ")[0], hint=_nearest_passes(config.without)) from e
    integers = device == "cuda" or multiplies_integers(cpu_features())
    kept = kept_contractions(graph, config.full_precision)
    if device == "cuda":
        place_on_host(graph, config.on_host)
    decide_precision(graph, config.precision, integers)
    if device == "cuda" and PatchesToMatmul().name not in config.without:
        PatchesToMatmul()(graph)
    pipeline(graph)
    finish_precision(graph, config.precision, device, kept)
    for fusion in late:
        if fusion.name not in config.without:
            fusion(graph)
    if config.verify:
        verify(graph)


def _nearest_passes(names: Sequence[str]) -> str:
    """Return the passes whose names are most like these."""
    known = {p.name.lower(): p.name for p in OPTIMIZE.rules()}
    found = [n for name in names for n in difflib.get_close_matches(name.lower(), known, 3, 0.0)]
    return f"the nearest are {', '.join(known[n] for n in dict.fromkeys(found))}"


def compile_graph(graph: Graph, ranges: Ranges, config: BuildConfig) -> Plan:
    """Choose kernels for an optimized graph and freeze it, for the first target."""
    target = parse_targets(config.target)[0]
    compiled = compile_section(graph, ranges, config, target, _Reporter(None))
    return make_plan([compiled], ranges, config, None)


def compile_section(
    graph: Graph, ranges: Ranges, config: BuildConfig, target: Target, report: Report
) -> Compiled:
    """Choose kernels for an optimized graph and one target."""
    env = {name: opt for name, _, opt, _ in ranges}
    policy = Policy.of(config, {s: (low, opt, high) for s, low, opt, high in ranges})
    path = _cache_path(config)
    if target.device == "cuda":
        # Loaded only when asked for: builds for the CPU do without it.
        cuda = importlib.import_module("lamina.backends.cuda.compiler")
        compiler = cuda.cuda_compiler(config, target.arch, env, report, policy)
        cache = TimingCache(path, compiler.machine, compiler.toolchain)
        compiled: Compiled = compiler.compile(graph, cache)
        return compiled
    cpu = CpuCompiler(config, env, report, policy)
    spent = Spent()
    with spent.phase("kernels"):
        compiled = cpu.compile(graph, TimingCache(path, _machine(cpu), cpu.toolchain))
    return dataclasses.replace(compiled, spent=spent)


def make_plan(
    compiled: Sequence[Compiled], ranges: Ranges, config: BuildConfig, portable: Graph | None
) -> Plan:
    """Freeze sections into a plan; ``portable`` is stored beside them.

    What tuning left out stands in the plan's notes as ``untuned``.
    """
    text, weights = _portable(portable)
    untuned = "; ".join(c.untuned for c in compiled if c.untuned)
    return Plan(
        graph=text,
        weights=weights,
        config=tuple(sorted((k, json.dumps(v)) for k, v in _config_fields(config).items())),
        ranges=ranges,
        sections=tuple(c.section for c in compiled),
        fallbacks=tuple(dict.fromkeys(f for c in compiled for f in c.fallbacks)),
        notes=(("untuned", untuned),) if untuned else (),
    )


def _portable(graph: Graph | None) -> tuple[str, dict[str, Weight]]:
    if graph is None:
        return "", {}
    weights: dict[str, Weight] = {}
    collect_weights(graph, weights)
    return print_graph(graph, locs=True), weights


def collect_weights(graph: Graph, weights: dict[str, Weight]) -> None:
    """Add the constants of a graph, nested ones included, to a table by digest."""
    for weight in _weights(graph):
        weights[weight.digest] = weight


def _weights(graph: Graph) -> Iterator[Weight]:
    for node in graph.nodes():
        for value in vars(node.op).values():
            if isinstance(value, Graph):
                yield from _weights(value)
            elif isinstance(value, Weight):
                yield value


def _begin_digests(graph: Graph, threads: int) -> None:
    """Let every weight compute the digest by which the plan knows it; each keeps its own.

    Nothing else needs the other cores until kernels are compiled.
    """
    weights = deque(_weights(graph))

    def work() -> None:
        with suppress(IndexError):  # none is left
            while True:
                _ = weights.popleft().digest

    for _ in range(max(1, min(_MOST_DIGESTING, threads - 1))):
        threading.Thread(target=work, daemon=True).start()


def _config_fields(config: BuildConfig) -> dict[str, Any]:
    found = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name not in _UNSTORED and not (f.name in _RARE and value == f.default):
            found[f.name] = value
    return found


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
