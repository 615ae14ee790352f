"""From a network and a configuration to the plan of an engine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from lamina.backends.cpu.features import cpu_features
from lamina.builder import build_plan
from lamina.config import BuildConfig, Precision
from lamina.errors import ConfigError
from lamina.plan.plan import Plan
from lamina.precision.pipeline import missing_feature
from lamina.tactics.cache import read_times
from lamina.tensorrt import metadata, persona, platform
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.calibration.run import calibrate
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.lower import Lowered, lower, union_of_profiles
from lamina.tensorrt.metadata import EngineMetadata, ProfileInfo
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.profile import IOptimizationProfile
from lamina.tensorrt.progress import MonitorAdapter
from lamina.tensorrt.ranges import given_ranges, quantize


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
    if "INT8" in config._flags and not state.strongly_typed:
        precision = _quantized(lowered, state, config, reporter, precision)
    with _timing_cache(config) as cache:
        options = BuildConfig(
            target=device,
            precision=precision,
            shapes=shapes,
            optimization_level=config._level,
            timing_cache=cache,
        )
        plan = build_plan(lowered.graph, options, monitor)
    notes = metadata.encode(_describe(network, config, lowered, profiles, max_batch_size))
    return replace(plan, notes=((metadata.NOTE, notes),))


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
    otherwise: Precision,
) -> Precision:
    """Quantize what has a range and return the precision to build with."""
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
    if quantize(lowered.graph, lowered.values, ranges, skipped):
        return "int8"
    explicit = any(layer._kind in ("QUANTIZE", "DEQUANTIZE") for layer in state.layers)
    if not explicit:
        reporter.warning(
            "INT8 is enabled, but no tensor has a dynamic range and there is no calibrator; "
            "nothing is quantized"
        )
    return otherwise


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
        cache._times = read_times(path)


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
        refittable=bool(config._flags & {"REFIT", "REFIT_INDIVIDUAL", "REFIT_IDENTICAL"}),
        capability=config.engine_capability.name,
        verbosity=config.profiling_verbosity.name,
        tactic_sources=config.get_tactic_sources(),
        hardware_compatibility=config.hardware_compatibility_level.name,
        device_types={layer._name: device for layer, device in config._devices.values()},
    )


def _refittable(name: str, marked: set[str], config: IBuilderConfig) -> bool:
    if config._flags & {"REFIT", "REFIT_IDENTICAL"}:
        return True
    return "REFIT_INDIVIDUAL" in config._flags and name in marked
