"""From a network and a configuration to the plan of an engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lamina.backends.cpu.features import cpu_features
from lamina.builder import build_plan
from lamina.config import BuildConfig, Precision, cache_folder
from lamina.errors import ConfigError, PlanError
from lamina.ir.graph import Graph
from lamina.plan.plan import Plan
from lamina.plan.strip import strip
from lamina.precision.pipeline import missing_feature
from lamina.tactics.cache import TimingCache, read_times
from lamina.tensorrt import metadata, persona, platform
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.calibration.run import calibrate
from lamina.tensorrt.config_devices import check_devices, hosted_nodes
from lamina.tensorrt.constraints import check_constraints, float_layers
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.io_formats import (
    apply_formats,
    copy_names,
    described,
    fewest_copies,
    physical_shapes,
    possible_formats,
    refuse_copies,
)
from lamina.tensorrt.lower import Lowered, lower, union_of_profiles
from lamina.tensorrt.metadata import EngineMetadata, ProfileInfo, Range
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.plugin_api.tuning import PluginBuild, finish_plugins, size_ranges
from lamina.tensorrt.profile import IOptimizationProfile
from lamina.tensorrt.programs import tuned_apart, with_programs
from lamina.tensorrt.progress import MonitorAdapter
from lamina.tensorrt.ranges import given_ranges, quantize
from lamina.tensorrt.tactic_options import tactic_options
from lamina.tensorrt.timing_cache import Times
from lamina.tensorrt.unfused import show, unfused_tensors

_REFITTABLE = {"REFIT", "REFIT_IDENTICAL", "STRIP_PLAN"}
"""Flags with which all weights may be replaced; a stripped plan has to get them again."""


def compile_network(
    network: INetworkDefinition, config: IBuilderConfig, reporter: Reporter, max_batch_size: int
) -> Plan | None:
    """Return the plan of a network; None, after reporting why, when it cannot be built."""
    monitor = MonitorAdapter(config._monitor) if config._monitor is not None else None
    if monitor is not None:
        monitor.start()
    try:
        with reporter.reporting():
            return _compile(network, config, reporter, max_batch_size, monitor)
    except KeyboardInterrupt:
        reporter.error("the build was interrupted", "UNSPECIFIED_ERROR")
        raise
    finally:
        if monitor is not None:
            monitor.finish()
    return None


def _compile(
    network: INetworkDefinition,
    config: IBuilderConfig,
    reporter: Reporter,
    max_batch_size: int,
    monitor: MonitorAdapter | None,
) -> Plan:
    state = network._state
    profiles = [_profile(p) for p in config._profiles]
    lowered = lower(state)
    shapes = union_of_profiles(state, profiles)
    if state.implicit_batch:
        sizes = (1, max_batch_size, max_batch_size)
        for tensor in state.inputs:
            low, opt, high = ((n, *tensor._given_shape) for n in sizes)
            shapes[tensor._name] = (low, opt, high)
    device = platform.device()
    precision = _available(precision_of(network, config), config, device, reporter)
    quantized: set[str] = set()
    if "INT8" in config._flags and not state.strongly_typed:
        quantized = _quantized(lowered, state, config, reporter)
        # On a GPU what is not quantized still multiplies halves, as the flags allow.
        halves = device == "cuda" and precision in ("fp16", "bf16")
        precision = "int8" if quantized and not halves else precision
    check_devices(config, state.layers, "GPU_FALLBACK" in config._flags, reporter)
    check_constraints(state.layers, config._flags, precision, quantized, reporter)
    choices = possible_formats(state, lowered.tensors)
    with _timing_cache(config) as cache:
        _finish_plugins(lowered.graph, shapes, cache, device, reporter)
        options = BuildConfig(
            target=device,
            precision=precision,
            shapes=shapes,
            timing_cache=cache,
            full_precision=(
                () if state.strongly_typed else float_layers(state.layers, lowered.graph)
            ),
            on_host=hosted_nodes(config, lowered.graph),
            refittable=bool(config._flags & {"REFIT", "REFIT_INDIVIDUAL", "STRIP_PLAN"}),
            **tactic_options(config),
        )
        formats = fewest_copies(choices, lowered.graph, options, monitor)
        options = replace(options, shapes=apply_formats(lowered.graph, formats, shapes))
        if "DIRECT_IO" in config._flags:
            options = replace(options, direct=copy_names(formats))
        plan, unfused = _built(state, lowered, options, monitor)
        apart = tuned_apart(profiles, union_of_profiles(state, profiles))
        own = {n: physical_shapes(formats, given) for n, given in apart.items()}
        plan = with_programs(plan, lowered.graph, options, own, monitor)
    if "DIRECT_IO" in config._flags:
        refuse_copies(plan)
    lowered = replace(lowered, tensors=tuple(described(t, formats) for t in lowered.tensors))
    described_engine = _describe(network, config, lowered, profiles, max_batch_size)
    plan = metadata.with_metadata(plan, replace(described_engine, unfused_tensors=unfused))
    return _stripped(plan, reporter) if "STRIP_PLAN" in config._flags else plan


def _built(
    state: NetworkState, lowered: Lowered, options: BuildConfig, monitor: MonitorAdapter | None
) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan, and the tensors that it shows because they were not fused."""
    plan = build_plan(lowered.graph, options, monitor)
    unfused = unfused_tensors(plan, lowered) if state.debug_unfused else ()
    if not unfused:
        return plan, ()
    # What is fused is known only now; the times of kernels are known as well.
    show(lowered.graph, lowered, unfused)
    return build_plan(lowered.graph, options, monitor), unfused


def _stripped(plan: Plan, reporter: Reporter) -> Plan:
    try:
        return strip(plan)
    except PlanError as e:
        reporter.warning(f"STRIP_PLAN changes nothing: {e}")
        return plan


def _finish_plugins(
    graph: Graph, shapes: dict[str, Range], cache: str | None, device: str, reporter: Reporter
) -> None:
    """Tell plugins the sizes of the profiles, and choose their tactics."""
    path = cache_folder() / "timing.json" if cache is None else Path(cache) if cache else None
    machine = f"plugins on {device}"
    sizes = size_ranges(graph, shapes)
    times = TimingCache(path, machine)
    finish_plugins(graph, PluginBuild(sizes, times, reporter, on_gpu=device == "cuda"))


def _available(
    precision: Precision, config: IBuilderConfig, device: str, reporter: Reporter
) -> Precision:
    """Return a precision that the device has, with TF32 where that is a choice."""
    if device == "cuda":
        return "tf32" if precision == "fp32" and "TF32" in config._flags else precision
    missing = missing_feature(precision, cpu_features())
    if missing is None:
        return precision
    reporter.warning(f"this CPU has no {missing}: {precision} is not used")
    return "fp32"


def _quantized(
    lowered: Lowered,
    state: NetworkState,
    config: IBuilderConfig,
    reporter: Reporter,
) -> set[str]:
    """Quantize what has a range and return the layers that it came from."""
    skipped = [
        layer._origin
        for layer in state.layers
        if layer._precision is not None and layer._precision.name != "INT8"
    ]
    ranges = given_ranges(state)
    if config._calibrator is not None:
        shapes = _batch_shapes(state, config)
        measured = calibrate(
            lowered.graph, lowered.values, config._calibrator, shapes, platform.device(), reporter
        )
        ranges = {**measured, **ranges}
    found = quantize(lowered.graph, lowered.values, ranges, skipped)
    explicit = any(layer._kind in ("QUANTIZE", "DEQUANTIZE") for layer in state.layers)
    if not explicit and not found:
        reporter.warning(
            "INT8 is enabled, but no tensor has a dynamic range and there is no calibrator; "
            "nothing is quantized"
        )
    return found


def _batch_shapes(state: NetworkState, config: IBuilderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of a calibration batch of each input whose shape is known."""
    profile = config._calibration_profile
    if profile is None and config._profiles:
        profile = config._profiles[0]
    shapes = {}
    for tensor in state.inputs:
        if state.implicit_batch:
            shapes[tensor._name] = (config._calibrator.get_batch_size(), *tensor._given_shape)
        elif profile is not None and tensor._name in profile._shapes:
            shapes[tensor._name] = profile._shapes[tensor._name][1]
        elif -1 not in tensor._given_shape:
            shapes[tensor._name] = tensor._given_shape
    return shapes


def precision_of(network: INetworkDefinition, config: IBuilderConfig) -> Precision:
    """Return the precision that the flags ask for; strongly typed networks say it themselves."""
    if network._state.strongly_typed:
        if wrong := sorted(config._flags & {"FP16", "BF16", "INT8", "FP8", "INT4", "FP4"}):
            raise ConfigError(
                f"the network is strongly typed, but the flags {', '.join(wrong)} are set",
                hint="clear the flags, or create the network without STRONGLY_TYPED",
            )
        return "fp32"
    if "FP16" in config._flags:
        return "fp16"
    return "bf16" if "BF16" in config._flags else "fp32"


def _profile(profile: IOptimizationProfile) -> ProfileInfo:
    return ProfileInfo(shapes=dict(profile._shapes), values=dict(profile._values))


@contextmanager
def _timing_cache(config: IBuilderConfig) -> Iterator[str | None]:
    """Give the build the configuration's timing cache as a file, and take back what it learned."""
    if "DISABLE_TIMING_CACHE" in config._flags:
        yield ""
        return
    cache = config._timing_cache
    if cache is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "timing.json"
        path.write_bytes(cache.serialize())
        yield str(path)
        learned = read_times(path)
        if "ERROR_ON_TIMING_CACHE_MISS" in config._flags:
            _refuse_misses(cache._times, learned)
        cache._times = learned


def _refuse_misses(known: Times, learned: Times) -> None:
    """Raise ConfigError for a tactic that had to be timed."""
    for machine, problems in learned.items():
        for problem, tactics in problems.items():
            row = known.get(machine, {}).get(problem, {})
            if missing := sorted(tactics.keys() - row.keys()):
                raise ConfigError(
                    f"the timing cache has no time of {missing[0]} for {problem}",
                    hint="clear ERROR_ON_TIMING_CACHE_MISS, or fill the cache on this machine",
                )


def _describe(
    network: INetworkDefinition,
    config: IBuilderConfig,
    lowered: Lowered,
    profiles: list[ProfileInfo],
    max_batch_size: int,
) -> EngineMetadata:
    state = network._state
    return EngineMetadata(
        version=persona.current().version,
        name=state.name,
        tensors=lowered.tensors,
        profiles=tuple(profiles) or (ProfileInfo(),),
        layers=lowered.layers,
        weights=tuple(w for w in lowered.weights if _refittable(w.name, state.refittable, config)),
        debug_tensors=lowered.debug_tensors,
        max_batch_size=max_batch_size if state.implicit_batch else 0,
        refittable=bool(config._flags & {*_REFITTABLE, "REFIT_INDIVIDUAL"}),
        capability=config.engine_capability.name,
        verbosity=config.profiling_verbosity.name,
        tactic_sources=config.get_tactic_sources(),
        hardware_compatibility=config.hardware_compatibility_level.name,
        device_types={layer._name: device for layer, device in config._devices.values()},
        weight_streaming="WEIGHT_STREAMING" in config._flags,
    )


def _refittable(name: str, marked: set[str], config: IBuilderConfig) -> bool:
    if config._flags & _REFITTABLE:
        return True
    return "REFIT_INDIVIDUAL" in config._flags and name in marked
