"""From the options to an engine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lamina.cli.trtexec import specs
from lamina.cli.trtexec.arguments import Arguments
from lamina.cli.trtexec.cache_ranges import CacheCalibrator
from lamina.cli.trtexec.console import Console
from lamina.cli.trtexec.settings import configure, place_layers
from lamina.errors import ConfigError, PlanError
from lamina.tensorrt.builder import Builder
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.engine.cuda_engine import ICudaEngine
from lamina.tensorrt.engine.runtime import deserialize
from lamina.tensorrt.enums import (
    BuilderFlag,
    DataType,
    NetworkDefinitionCreationFlag,
    OnnxParserFlag,
    TensorFormat,
)
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.network_definition import INetworkDefinition
from lamina.tensorrt.onnx.parser import OnnxParser
from lamina.tensorrt.option import bits
from lamina.tensorrt.persona import current

_DESERIALIZATIONS = 20
_INPUT_RANGE, _RESULT_RANGE = 2.0, 4.0
"""Largest magnitudes of tensors where no calibration says better."""


def load(console: Console, a: Arguments) -> bytes:
    """Return the bytes of ``--loadEngine``; raises PlanError."""
    path = Path(a.text("loadEngine"))
    started = time.perf_counter()
    try:
        data = path.read_bytes()
    except OSError as e:
        raise PlanError(f"cannot read the engine {str(path)!r}: {e.strerror}") from e
    console.info(f"Engine loaded in {time.perf_counter() - started:.6g} sec.")
    console.info(f"Loaded engine with size: {len(data) / (1 << 20):.6g} MiB")
    return data


def build(console: Console, a: Arguments) -> bytes | None:
    """Return a serialized engine of the model; None, after saying why, when that fails."""
    started = time.perf_counter()
    builder = Builder(console)
    network = builder.create_network(_network_flags(a))
    if not _parse(console, a, network):
        return None
    config = builder.create_builder_config()
    configure(a, config)
    if a.has("calib"):
        config._calibrator = CacheCalibrator(Path(a.text("calib")))
    _set_types(a, network)
    _set_layers(a, network)
    place_layers(a, config, network)
    _make_up_ranges(console, config, network)
    _mark_debug(a, network)
    for profile in _profiles(console, a, network):
        made = builder.create_optimization_profile()
        for name, ranges in profile.items():
            try:
                made.set_shape(name, *ranges)
            except RuntimeError as e:
                raise ConfigError(str(e)) from e
        config.add_optimization_profile(made)
    cache = _timing_cache(console, a, config)
    data = builder.build_serialized_network(network, config)
    if data is None:
        return None
    if cache is not None and config._timing_cache is not None:
        cache.write_bytes(config._timing_cache.serialize())
    console.info(f"Created engine with size: {len(data) / (1 << 20):.6g} MiB")
    console.info(f"Engine built in {time.perf_counter() - started:.6g} sec.")
    if a.has("saveEngine"):
        _save(Path(a.text("saveEngine")), data)
    return bytes(data)


def _save(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as e:
        raise ConfigError(f"cannot write the engine to {str(path)!r}: {e.strerror}") from e


def time_deserialization(console: Console, data: bytes) -> None:
    """Deserialize an engine several times and print how long it takes."""
    console.info("Begin deserialization engine timing...")
    times = []
    for _ in range(_DESERIALIZATIONS):
        started = time.perf_counter()
        deserialize(data, Reporter(Console(least="ERROR")))
        times.append(1000 * (time.perf_counter() - started))
    total = sum(times)
    console.info(
        f"Total deserialization time = {total:.6g} milliseconds in {len(times)} iterations, "
        f"average time = {total / len(times):.6g} milliseconds, first time = {times[0]:.6g} "
        f"milliseconds."
    )
    rate = len(data) * len(times) / total / 1e6
    console.info(f"Deserialization Bandwidth = {rate:.6g} GB/s")


def deserialized(console: Console, data: bytes) -> ICudaEngine | None:
    """Return the engine in bytes; None, after saying why, when there is none."""
    started = time.perf_counter()
    engine = deserialize(data, Reporter(console))
    if engine is not None:
        console.info(f"Engine deserialized in {time.perf_counter() - started:.6g} sec.")
    return engine


def _network_flags(a: Arguments) -> int:
    flags = 0
    wanted = ["EXPLICIT_BATCH"] * (current().major != "11")
    wanted += ["STRONGLY_TYPED"] * (a.has("stronglyTyped") and current().major != "8")
    for name in wanted:
        flags |= 1 << int(NetworkDefinitionCreationFlag.named(name))
    return flags


def _parse(console: Console, a: Arguments, network: INetworkDefinition) -> bool:
    console.info("Start parsing network model.")
    started = time.perf_counter()
    parser = OnnxParser(network, console)
    if a.has("enablePluginOverride"):
        parser.set_flag(OnnxParserFlag.named("ENABLE_PLUGIN_OVERRIDE"))
    if not parser.parse_from_file(a.text("onnx")):
        console.error(f"Failed to parse {a.text('onnx')}")
        console.error("Parsing model failed")
        return False
    console.info(f"Finished parsing network model. Parse time: {time.perf_counter() - started:.6g}")
    return True


def _set_types(a: Arguments, network: INetworkDefinition) -> None:
    for option, tensors in (
        ("inputIOFormats", network._state.inputs),
        ("outputIOFormats", network._state.outputs),
    ):
        listed = specs.io_types(a.text(option), len(tensors))
        for tensor, given in zip(tensors, listed, strict=False):
            if given is not None:
                tensor._given_dtype = DataType.named(given[0])
                tensor._formats = bits(TensorFormat.named(name) for name in given[1])
    network._state.changed(None)


def _set_layers(a: Arguments, network: INetworkDefinition) -> None:
    precisions = specs.pairs(a.text("layerPrecisions"))
    types = specs.pairs(a.text("layerOutputTypes"))
    for layer in network._state.layers:
        kind = specs.matching(precisions, layer._name)
        if kind is not None:
            layer._precision = _type(kind)
        listed = specs.matching(types, layer._name)
        for i, name in enumerate(listed.split("+") if listed else ()):
            layer.set_output_type(i, _type(name))


def _make_up_ranges(console: Console, config: IBuilderConfig, network: INetworkDefinition) -> None:
    """Let INT8 be timed without calibration: give every tensor a range."""
    state = network._state
    explicit = any(layer._kind in ("QUANTIZE", "DEQUANTIZE") for layer in state.layers)
    if "INT8" not in config._flags or config._calibrator is not None or explicit:
        return
    console.warning(
        "INT8 without --calib: the ranges of all tensors are made up; use it for times only"
    )
    for tensor in state.inputs:
        tensor._range = (-_INPUT_RANGE, _INPUT_RANGE)
    for layer in state.layers:
        for tensor in layer._outputs:
            tensor._range = (-_RESULT_RANGE, _RESULT_RANGE)


def _type(name: str) -> DataType:
    if name not in specs.TYPES:
        raise ConfigError(f"{name!r} is not a type", hint=f"types are {', '.join(specs.TYPES)}")
    return DataType.named(specs.TYPES[name])


def _mark_debug(a: Arguments, network: INetworkDefinition) -> None:
    wanted = {name.strip("'") for name in specs.split(a.text("markDebug"))}
    tensors = [t for layer in network._state.layers for t in layer._outputs]
    for tensor in tensors:
        if tensor._name in wanted:
            network.mark_debug(tensor)
    if missing := wanted - {t._name for t in tensors}:
        raise ConfigError(f"the network has no tensor {sorted(missing)[0]!r} to debug")


def _profiles(console: Console, a: Arguments, network: INetworkDefinition) -> list[Any]:
    """Return the ranges of shapes of each profile; unset sizes become one, with a warning."""
    names = [t._name for t in network._state.inputs]
    fallback = _shapes(a, "shapes", 0, names)
    options = ("minShapes", "optShapes", "maxShapes")
    numbers = a.numbers(*options) or [0]
    listed = [[_shapes(a, option, number, names) for option in options] for number in numbers]
    dynamic = [t for t in network._state.inputs if -1 in t._given_shape]
    if not dynamic:
        return []
    profiles = []
    for given in listed:
        profile = {}
        for tensor in dynamic:
            found = [specs.matching(g, tensor._name) for g in given]
            known = [s for s in found if s is not None]
            middle = found[1] or (known[0] if known else specs.matching(fallback, tensor._name))
            if middle is None:
                middle = tuple(max(d, 1) if d >= 0 else 1 for d in tensor._given_shape)
                console.warning(
                    f"Dynamic dimensions required for input: {tensor._name}, but no shapes were "
                    f"provided. Automatically overriding shape to: {specs.text_of(middle)}"
                )
            profile[tensor._name] = (found[0] or middle, middle, found[2] or middle)
        profiles.append(profile)
    return profiles


def _shapes(a: Arguments, option: str, number: int, names: list[str]) -> dict[str, specs.Shape]:
    """Return the shapes of an option; raises ConfigError for a name that no input has."""
    found = specs.shapes(a.text(option, number))
    specs.require_inputs(option, found, names)
    return found


def _timing_cache(console: Console, a: Arguments, config: IBuilderConfig) -> Path | None:
    if a.has("noBuilderCache"):
        config.set_flag(BuilderFlag.named("DISABLE_TIMING_CACHE"))
        return None
    if not a.has("timingCacheFile"):
        return None
    path = Path(a.text("timingCacheFile"))
    data = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(data)
    if cache is None:
        console.warning(f"{path} is not a timing cache; it will be written anew")
        cache = config.create_timing_cache(b"")
    assert cache is not None
    config.set_timing_cache(cache, ignore_mismatch=False)
    return path
