"""Options of a build."""

from __future__ import annotations

from lamina.tensorrt import config_legacy
from lamina.tensorrt.check import checked
from lamina.tensorrt.config_devices import DeviceChoices
from lamina.tensorrt.config_flags import FlagChoices
from lamina.tensorrt.enums import (
    EngineCapability,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    PreviewFeature,
    ProfilingVerbosity,
    RuntimePlatform,
    TacticSource,
    TilingOptimizationLevel,
)
from lamina.tensorrt.error_reporting import Reporter
from lamina.tensorrt.option import Option, bits
from lamina.tensorrt.profile import IOptimizationProfile
from lamina.tensorrt.progress import IProgressMonitor
from lamina.tensorrt.timing_cache import ITimingCache

POOL_BYTES = {
    "WORKSPACE": 1 << 34,
    "DLA_MANAGED_SRAM": 0,
    "DLA_LOCAL_DRAM": 1 << 30,
    "DLA_GLOBAL_DRAM": 1 << 29,
    "TACTIC_DRAM": 1 << 34,
    "TACTIC_SHARED_MEMORY": 1 << 30,
}
"""Limits that nobody has set; that of WORKSPACE then limits nothing."""


class IBuilderConfig(FlagChoices, DeviceChoices, config_legacy.LegacyChoices):
    """Everything that a build may be told; made by Builder.create_builder_config."""

    avg_timing_iterations = Option(int, 1, "Runs over which a time is averaged.")
    engine_capability = Option(EngineCapability, "STANDARD", "Restrictions on the engine.")
    profile_stream = Option(int, 0, "Stream on which tactics are timed.")
    profiling_verbosity = Option(
        ProfilingVerbosity, "LAYER_NAMES_ONLY", "What the engine's inspector tells."
    )
    max_num_tactics = Option(int, -1, "Most tactics to time for a layer, -1 for the default.")
    hardware_compatibility_level = Option(
        HardwareCompatibilityLevel, "NONE", "On which other devices the engine must run."
    )
    runtime_platform = Option(RuntimePlatform, "SAME_AS_BUILD", "Where the engine will run.")
    max_aux_streams = Option(int, -1, "Most streams beside the caller's, -1 for the default.")
    tiling_optimization_level = Option(
        TilingOptimizationLevel, "NONE", "How hard tiling across layers is searched; kept."
    )
    l2_limit_for_tiling = Option(int, 0, "Bytes of L2 that tiling may use; kept.")
    remote_auto_tuning_config = Option(str, "", "Where remote tuning runs; kept.")
    build_route = Option(str, "", "Route of a reproducible build; kept.")

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._level = 3
        self._start()

    def _start(self) -> None:
        """Give every option its default."""
        for key in [k for k in self.__dict__ if k not in ("_reporter",)]:
            del self.__dict__[key]
        self._level = 3
        self._start_flags()
        self._start_devices()
        self._start_legacy()
        self._pools = dict(POOL_BYTES)
        self._profiles: list[IOptimizationProfile] = []
        self._tactic_sources: int | None = None
        self._timing_cache: ITimingCache | None = None
        self._previews: dict[str, bool] = {}
        self._plugins: list[str] = []
        self._monitor: IProgressMonitor | None = None

    def reset(self) -> None:
        """Give every option its default."""
        self._start()

    @property
    def builder_optimization_level(self) -> int:
        """How long to search: 0 takes the first tactic, 3 is the default, 5 the most."""
        return self._level

    @builder_optimization_level.setter
    @checked
    def builder_optimization_level(self, value: int) -> None:
        if 0 <= value <= 5:
            self._level = value
        else:
            self._reporter.error(f"builder_optimization_level {value} is not between 0 and 5")

    @checked
    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        """Limit a memory pool, in bytes.

        Tactics that need a larger WORKSPACE are left out, and on a GPU those whose blocks need more
        of TACTIC_SHARED_MEMORY.  The other pools are kept: DLAs have no part in builds, and tactics
        are timed on what memory a layer needs.
        """
        if pool_size < 0:
            self._reporter.error(f"a memory pool of {pool_size} bytes")
            return
        self._pools[pool.name] = pool_size

    @checked
    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        """Return the limit of a memory pool in bytes."""
        return self._pools[pool.name]

    @checked
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """Add a profile and return its number; -1, after reporting why, for one without shapes."""
        if not profile:
            self._reporter.error(
                "the optimization profile is empty: call its set_shape for each dynamic input, and "
                "its set_shape_input for each shape tensor, or build without a profile"
            )
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        """Number of profiles."""
        return len(self._profiles)

    @checked
    def set_tactic_sources(self, tactic_sources: int) -> bool:
        """Choose libraries by the bits of TacticSource.

        On a GPU, CUBLAS and CUBLAS_LT stand for cuBLASLt, CUDNN for cuDNN; on a CPU each of the
        three allows oneDNN.  Without them all tactics are Lamina's own, which are always allowed.
        """
        self._tactic_sources = tactic_sources
        return True

    def get_tactic_sources(self) -> int:
        """Return the bits of the libraries that tactics may come from."""
        if self._tactic_sources is None:
            return bits(TacticSource.__members__.values())
        return self._tactic_sources

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        """Return the timing cache that ``serialize`` gave, an empty one for no bytes."""
        cache = ITimingCache._read(bytes(serialized_timing_cache))
        if cache is None:
            self._reporter.error("the data is not a timing cache of Lamina's")
        return cache

    @checked
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """Let builds read and extend a timing cache."""
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        """Return the timing cache, None when none was set."""
        return self._timing_cache

    @checked
    def set_preview_feature(self, feature: PreviewFeature, enable: bool) -> None:
        """Switch a feature on or off.

        DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805 leaves libraries out, as no tactic sources do;
        what the others allow is always allowed.
        """
        self._previews[feature.name] = enable

    @checked
    def get_preview_feature(self, feature: PreviewFeature) -> bool:
        """Whether a feature was switched on."""
        return self._previews.get(feature.name, False)

    @property
    def plugins_to_serialize(self) -> list[str]:
        """Plugin libraries to store in the engine."""
        return list(self._plugins)

    @plugins_to_serialize.setter
    def plugins_to_serialize(self, value: list[str]) -> None:
        self._plugins = [str(v) for v in value]

    @property
    def progress_monitor(self) -> IProgressMonitor | None:
        """What is told about the progress of builds."""
        return self._monitor

    @progress_monitor.setter
    @checked
    def progress_monitor(self, value: IProgressMonitor | None) -> None:
        self._monitor = value

    @property
    def all_build_routes(self) -> list[str]:
        """Routes that a build may take: Lamina has the one."""
        return [""]


__all__ = ["IBuilderConfig"]
