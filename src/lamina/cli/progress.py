"""Progress of a build on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lamina.cli.origins import origins
from lamina.cli.tables import stderr
from lamina.config import BUILT, ProgressEvent

QUIET_SECONDS: Final = 2.0
"""Shorter builds show nothing; in plain form this is also the pause between two lines."""


class BuildProgress:
    """Shows the stage, the layer and the remaining time of what takes longer than 2 s.

    Call it with each ProgressEvent, inside a ``with`` block.  Nothing is ever written on stdout.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = self.spoke = time.perf_counter()
        self.stage, self.stage_started = "", self.started
        self.console = stderr()
        self.bar: Progress | None = None
        self.spent = ""
        """Where the time went, once the build is over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        if event.stage == BUILT:
            self.spent = event.item
            return
        now = time.perf_counter()
        if event.stage != self.stage:
            self.stage, self.stage_started = event.stage, now
        if now - self.started < QUIET_SECONDS:
            return
        if self.console.is_terminal:
            self._draw(event)
        elif now - self.spoke >= QUIET_SECONDS:
            self.spoke = now
            self.console.print(self.line(event, now), markup=False, highlight=False)

    def line(self, event: ProgressEvent, now: float) -> str:
        """Return an event as one line of text."""
        parts = [f"{self.what}: {event.stage} {event.done}/{event.total}"]
        if event.done:
            each = (now - self.stage_started) / event.done
            parts.append(f"about {each * (event.total - event.done):.0f} s left")
        return ", ".join([*parts, item_name(event)] if event.item else parts)

    def _draw(self, event: ProgressEvent) -> None:
        if self.bar is None:
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[item]}"),
                console=self.console,
                transient=True,
            )
            self.bar.add_task(self.what, total=None, item="")
            self.bar.start()
        task = self.bar.tasks[0]
        if task.description != event.stage:
            self.bar.reset(task.id, total=event.total, description=event.stage)
        self.bar.update(
            task.id, completed=event.done, total=event.total, item=escape(item_name(event))
        )


def item_name(event: ProgressEvent) -> str:
    """Return the nodes that an event is about, in at most 60 characters."""
    name = " + ".join(origins(event.item))
    return name if len(name) <= 60 else f"{name[:57]}..."
