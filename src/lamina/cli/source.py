"""Opens what a command is given: a plan is loaded, a model is built."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lamina
from lamina.cli.options import BuildOptions
from lamina.cli.progress import BuildProgress
from lamina.errors import ImportFailed
from lamina.plan.format import MAGIC
from lamina.runtime.engine import Engine


@dataclass(frozen=True)
class Opened:
    """An engine, whether it was loaded from a plan, and the seconds that took.

    ``spent`` says where the time of a build went.
    """

    engine: Engine
    from_plan: bool
    seconds: float
    spent: str = ""


def is_plan(path: Path) -> bool:
    """Return whether a file is, or is called, a plan; raises ImportFailed for no file."""
    try:
        with path.open("rb") as f:
            return f.read(len(MAGIC)) == MAGIC or path.suffix == ".plan"
    except OSError as e:
        raise ImportFailed(
            f"cannot read {str(path)!r}: {e.strerror or e}", hint="check the path"
        ) from e


def open_engine(path: Path, options: BuildOptions) -> Opened:
    """Load a plan, or build a model with ``options`` and show the progress."""
    if not is_plan(path):
        return build_engine(path, options, path.name)
    started = time.perf_counter()
    engine = lamina.load(path, threads=options.threads, device=options.device)
    return Opened(engine, from_plan=True, seconds=time.perf_counter() - started)


def build_engine(model: Any, options: BuildOptions, what: str) -> Opened:
    """Build a model and show the progress under the name ``what``."""
    started = time.perf_counter()
    with BuildProgress(f"building {what}") as progress:
        engine = lamina.build(model, progress=progress, **options.arguments())
    seconds = time.perf_counter() - started
    return Opened(engine, from_plan=False, seconds=seconds, spent=progress.spent)
