"""Options that become settings of the builder's configuration."""

from __future__ import annotations

import re
from typing import Any, Final

from lamina.cli.trtexec import specs
from lamina.cli.trtexec.arguments import Arguments
from lamina.errors import ConfigError
from lamina.tensorrt.builder_config import IBuilderConfig
from lamina.tensorrt.enums import (
    BuilderFlag,
    DeviceType,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    PreviewFeature,
    ProfilingVerbosity,
    RuntimePlatform,
    TacticSource,
    TilingOptimizationLevel,
)
from lamina.tensorrt.network_definition import INetworkDefinition

_FLAGS: Final = {
    "fp16": "FP16",
    "bf16": "BF16",
    "int8": "INT8",
    "fp8": "FP8",
    "int4": "INT4",
    "refit": "REFIT",
    "versionCompatible": "VERSION_COMPATIBLE",
    "excludeLeanRuntime": "EXCLUDE_LEAN_RUNTIME",
    "directIO": "DIRECT_IO",
    "errorOnTimingCacheMiss": "ERROR_ON_TIMING_CACHE_MISS",
    "noCompilationCache": "DISABLE_COMPILATION_CACHE",
    "allowWeightStreaming": "WEIGHT_STREAMING",
    "allowGPUFallback": "GPU_FALLBACK",
    "monitorMemory": "MONITOR_MEMORY",
    "stripWeights": "STRIP_PLAN",
    "stripAllWeights": "STRIP_PLAN",
    "weightless": "STRIP_PLAN",
}
"""Options that set a flag of the builder."""
_BEST: Final = ("fp16", "bf16", "int8")
_NUMBERS: Final = {
    "avgTiming": "avg_timing_iterations",
    "minTiming": "min_timing_iterations",
    "maxTactics": "max_num_tactics",
    "maxAuxStreams": "max_aux_streams",
    "l2LimitForTiling": "l2_limit_for_tiling",
    "builderOptimizationLevel": "builder_optimization_level",
}
_POOLS: Final = {
    "workspace": "WORKSPACE",
    "dlaSRAM": "DLA_MANAGED_SRAM",
    "dlaLocalDRAM": "DLA_LOCAL_DRAM",
    "dlaGlobalDRAM": "DLA_GLOBAL_DRAM",
    "tacticSharedMem": "TACTIC_SHARED_MEMORY",
}
_UNITS: Final = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def configure(a: Arguments, config: IBuilderConfig) -> None:
    """Set what the options say; raises ConfigError for values that do not exist."""
    for name, flag in _FLAGS.items():
        if a.has(name) or (a.has("best") and name in _BEST):
            config.set_flag(_flag(name, flag))
    if a.has("stripAllWeights"):
        config.set_flag(_flag("stripAllWeights", "REFIT"))
    if a.has("noTF32"):
        config.clear_flag(_flag("noTF32", "TF32"))
    constraints = a.text("precisionConstraints")
    if constraints != "none":
        flag = f"{constraints.upper()}_PRECISION_CONSTRAINTS"
        config.set_flag(_flag("precisionConstraints", flag))
    if a.text("sparsity") != "disable":
        config.set_flag(_flag("sparsity", "SPARSE_WEIGHTS"))
    for name, attribute in _NUMBERS.items():
        if a.has(name):
            setattr(config, attribute, a.integer(name))
    config.profiling_verbosity = _named(a, "profilingVerbosity", ProfilingVerbosity)
    if a.has("hardwareCompatibilityLevel"):
        config.hardware_compatibility_level = _named(
            a, "hardwareCompatibilityLevel", HardwareCompatibilityLevel
        )
    if a.has("runtimePlatform"):
        config.runtime_platform = _named(a, "runtimePlatform", RuntimePlatform)
    if a.has("tilingOptimizationLevel"):
        config.tiling_optimization_level = _level(a)
    _pools(a, config)
    _sources(a, config)
    _previews(a, config)


def place_layers(a: Arguments, config: IBuilderConfig, network: INetworkDefinition) -> None:
    """Choose the device of layers; of several patterns that fit, the last one counts."""
    wanted = specs.pairs(a.text("layerDeviceTypes"))
    for layer in network._state.layers if wanted else ():
        kind = specs.matching(dict(reversed(wanted.items())), layer._name)
        if kind is not None:
            if kind.upper() not in DeviceType.__members__:
                raise ConfigError(f"--layerDeviceTypes: {kind!r} is no device", hint="GPU or DLA")
            config.set_device_type(layer, DeviceType.named(kind.upper()))


def byte_count(option: str, text: str, unit: str) -> int:
    """Read a number of bytes such as ``0.5G``; ``unit`` is meant where no suffix stands."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([BKMG]?)", text.strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(
            f"--{option}: {text!r} is no size", hint="write a number and B, K, M or G"
        )
    return int(float(found[1]) * _UNITS[(found[2] or unit).upper()])


def _flag(option: str, flag: str) -> BuilderFlag:
    if flag not in BuilderFlag.__members__:
        raise ConfigError(
            f"--{option} does not exist in this version of TensorRT",
            hint="LAMINA_TENSORRT_VERSION chooses another one",
        )
    return BuilderFlag.named(flag)


def _named(a: Arguments, option: str, kind: Any) -> Any:
    """Return a member of an enumeration by what options call it: sameComputeCapability, ampere+."""
    text = a.text(option).replace("+", "Plus")
    wanted = text.replace("_", "").lower()
    for name in kind.__members__:
        if name.replace("_", "").lower() == wanted:
            return kind.named(name)
    raise ConfigError(
        f"--{option}={a.text(option)} is not known",
        hint=f"there are {', '.join(n.lower() for n in kind.__members__)}",
    )


def _level(a: Arguments) -> TilingOptimizationLevel:
    number = a.integer("tilingOptimizationLevel")
    for member in TilingOptimizationLevel.__members__.values():
        if int(member) == number:
            found: TilingOptimizationLevel = member
            return found
    raise ConfigError(f"--tilingOptimizationLevel={number} is not known", hint="0 to 3")


def _pools(a: Arguments, config: IBuilderConfig) -> None:
    for pool, size in specs.pairs(a.text("memPoolSize")).items():
        if pool not in _POOLS:
            raise ConfigError(
                f"--memPoolSize: there is no pool {pool!r}", hint=f"there are {', '.join(_POOLS)}"
            )
        limit = byte_count("memPoolSize", size, "M")
        config.set_memory_pool_limit(MemoryPoolType.named(_POOLS[pool]), limit)
    if a.has("workspace"):
        limit = byte_count("workspace", a.text("workspace"), "M")
        config.set_memory_pool_limit(MemoryPoolType.named("WORKSPACE"), limit)


def _signed(a: Arguments, option: str) -> list[tuple[str, bool]]:
    """Read ``+name,-name``; a name without a sign is added."""
    return [(w.lstrip("+-"), not w.startswith("-")) for w in specs.split(a.text(option))]


def _sources(a: Arguments, config: IBuilderConfig) -> None:
    bits = config.get_tactic_sources()
    changes = _signed(a, "tacticSources")
    for name, wanted in changes:
        if name.upper() not in TacticSource.__members__:
            known = ", ".join(TacticSource.__members__)
            raise ConfigError(f"--tacticSources: {name!r} is not known", hint=f"there are {known}")
        bit = 1 << int(TacticSource.named(name.upper()))
        bits = bits | bit if wanted else bits & ~bit
    if changes:
        config.set_tactic_sources(bits)


def _previews(a: Arguments, config: IBuilderConfig) -> None:
    for name, wanted in _signed(a, "preview"):
        fitting = [
            m for m in PreviewFeature.__members__ if m.replace("_", "").startswith(name.upper())
        ]
        if not fitting:
            raise ConfigError(f"--preview: there is no feature {name!r}")
        config.set_preview_feature(PreviewFeature.named(fitting[0]), wanted)
