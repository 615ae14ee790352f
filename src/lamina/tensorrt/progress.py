"""Progress of a build."""

from __future__ import annotations

from lamina.config import BUILT, ProgressEvent
from lamina.errors import BuildInterrupted
from lamina.tensorrt.foundation.interface import IVersionedInterface

_ROOT = "Building the engine"


class IProgressMonitor(IVersionedInterface):
    """Is told how far a build is; subclass it and define all three methods."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Learn that a phase begins, inside another one or at the top."""
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Learn that a step is done; return False to cancel the build."""
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        """Learn that a phase ends."""
        raise NotImplementedError


class MonitorAdapter:
    """Tells a monitor about the stages of a build."""

    def __init__(self, monitor: IProgressMonitor) -> None:
        self.monitor = monitor
        self._stage = ""
        self._stages = 0
        self._step = -1

    def start(self) -> None:
        """Begin the outermost phase."""
        self.monitor.phase_start(_ROOT, None, 3)

    def __call__(self, event: ProgressEvent) -> None:
        """Pass one event on; raises BuildInterrupted when the monitor wants no more."""
        if event.stage == BUILT:
            return
        if event.stage != self._stage:
            self._close()
            self._stage, self._step = event.stage, -1
            self.monitor.phase_start(event.stage, _ROOT, max(event.total, 1))
        for step in range(self._step + 1, min(event.done, max(event.total, 1))):
            self._step = step
            if not self.monitor.step_complete(event.stage, step):
                raise BuildInterrupted("the progress monitor cancelled the build")

    def _close(self) -> None:
        if self._stage:
            self.monitor.phase_finish(self._stage)
            self._stage = ""
            step, self._stages = self._stages, self._stages + 1
            if not self.monitor.step_complete(_ROOT, min(step, 2)):
                raise BuildInterrupted("the progress monitor cancelled the build")

    def finish(self) -> None:
        """End all phases that were begun."""
        if self._stage:
            self.monitor.phase_finish(self._stage)
            self._stage = ""
        self.monitor.phase_finish(_ROOT)


__all__ = ["IProgressMonitor"]
