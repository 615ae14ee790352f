"""Loading engines."""

from __future__ import annotations

from typing import Any

from lamina.plan.format import read_plan
from lamina.plan.plan import Plan, Section
from lamina.runtime.engine import Engine, find_driver
from lamina.tensorrt import metadata as notes
from lamina.tensorrt import persona, platform
from lamina.tensorrt.check import checked
from lamina.tensorrt.engine.allocators import AllocatorAdapter, IGpuAllocator
from lamina.tensorrt.engine.cuda_engine import ICudaEngine, wrap
from lamina.tensorrt.engine.foreign_files import refuse_foreign
from lamina.tensorrt.engine.streams import IStreamReader, IStreamReaderV2, read_all
from lamina.tensorrt.engine.weight_streaming import first_budget
from lamina.tensorrt.enums import TempfileControlFlag
from lamina.tensorrt.error_reporting import IErrorRecorder, Reporter
from lamina.tensorrt.logger import ILogger
from lamina.tensorrt.option import Option, bits
from lamina.tensorrt.plugin_api.registry import IPluginRegistry, get_plugin_registry


def deserialize(
    data: Any, reporter: Reporter, allocator: IGpuAllocator | None = None
) -> ICudaEngine | None:
    """Return the engine in ``data``; None, after reporting why, when there is none."""
    with reporter.reporting("deserialization failed"):
        refuse_foreign(bytes(memoryview(data).cast("B")[:64]))
        plan = read_plan(data if isinstance(data, bytes) else bytes(data))
        engine = deserialize_plan(plan, reporter, allocator)
        if engine is not None:
            _compare_versions(engine, reporter)
        return engine
    return None


def deserialize_plan(
    plan: Plan, reporter: Reporter, allocator: IGpuAllocator | None = None
) -> ICudaEngine | None:
    """Return the engine of a plan; None, after reporting why, when it cannot run here."""
    with reporter.reporting():
        adapter = None if allocator is None else AllocatorAdapter(allocator)
        device = platform.place()
        budget = first_budget(plan, notes.of_plan(plan), find_driver(device, 0))
        engine = Engine(plan, device=device, allocator=adapter, resident_bytes=budget)
        if engine.plan is not plan:
            built = " and ".join(_machine(section) for section in plan.sections)
            reporter.warning(
                f"the engine was built for {built} and does not fit {engine.driver.name}: it was "
                f"compiled again from its graph, which takes as long as a build"
            )
        return wrap(engine, reporter)
    return None


def _machine(section: Section) -> str:
    target = dict(section.target)
    return " ".join(target[k] for k in ("device", "arch", "features") if k in target)


def _compare_versions(engine: ICudaEngine, reporter: Reporter) -> None:
    built, here = engine._metadata.version, persona.current().version
    if built and built != here:
        reporter.warning(
            f"the engine was built through the API of TensorRT {built}, this is {here}; it "
            f"runs all the same"
        )


class Runtime:
    """Loads engines."""

    DLA_core = Option(int, -1, "Number of the DLA that is used, -1 for none; kept.")
    max_threads = Option(int, 1, "Most threads that the runtime uses; kept.")
    temporary_directory = Option(str, "", "Folder of temporary files; none are written.")
    engine_host_code_allowed = Option(bool, False, "Whether engines may hold host code; kept.")
    gpu_allocator = Option(IGpuAllocator | None, None, "What gives memory to engines loaded later.")

    @checked
    def __init__(self, logger: ILogger) -> None:
        """Take what messages go to."""
        self._reporter = Reporter(logger)
        self._tempfiles: int | None = None

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """Return the engine in bytes or a stream; None, after reporting why, when that fails."""
        reporter = Reporter(self._reporter.logger, self._reporter.recorder)
        data: Any = serialized_engine
        if isinstance(serialized_engine, IStreamReader | IStreamReaderV2):
            with reporter.reporting("deserialization failed") as outcome:
                data = read_all(serialized_engine)
            if outcome.failed:
                return None
        else:
            try:
                memoryview(data)
            except TypeError as e:
                raise TypeError(
                    "deserialize_cuda_engine(): incompatible function arguments: expected bytes "
                    f"or a stream reader, got {type(data).__name__}"
                ) from e
        return deserialize(data, reporter, self.gpu_allocator)

    @checked
    def load_runtime(self, path: str) -> Runtime | None:
        """Report that there are no lean runtimes: engines carry what other versions need."""
        self._reporter.error(
            f"cannot load a runtime from {path!r}: engines need no runtime of their version",
            "UNSUPPORTED_STATE",
        )
        return None

    def get_plugin_registry(self) -> IPluginRegistry:
        """Return the registry of plugins, of which there is one."""
        return get_plugin_registry()

    @property
    def num_DLA_cores(self) -> int:
        """Number of deep-learning accelerators."""
        return 0

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """What collects errors."""
        return self._reporter.recorder

    @error_recorder.setter
    @checked
    def error_recorder(self, value: IErrorRecorder | None) -> None:
        self._reporter.recorder = value

    @property
    def logger(self) -> ILogger:
        """What messages go to."""
        return self._reporter.logger

    @property
    def tempfile_control_flags(self) -> int:
        """Bits of TempfileControlFlag; kept, as no temporary files are written."""
        if self._tempfiles is None:
            return bits(TempfileControlFlag.__members__.values())
        return self._tempfiles

    @tempfile_control_flags.setter
    @checked
    def tempfile_control_flags(self, value: int) -> None:
        self._tempfiles = value

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __del__(self) -> None:
        """Nothing is left to do; programs call it all the same."""


__all__ = ["Runtime"]
