"""Loading plans."""

from __future__ import annotations

import os
from typing import Any

from lamina.plan.format import load_plan, read_plan
from lamina.runtime.engine import Engine


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    device: str = "cpu",
    threads: int = 0,
    native_code: bool = True,
    allocator: Any | None = None,
) -> Engine:
    """Load a plan from a file or from bytes and return its engine.

    A plan without a section that fits this machine is compiled again from its portable graph;
    ``native_code=False`` does so always, and then nothing compiled in the file is ever run.
    ``device`` is ``cpu``, ``cuda`` or, with several GPUs, ``cuda:1``; memory of contexts (on a GPU
    all memory) comes from ``allocator``, if given, with methods ``allocate(size_bytes, stream)``
    and ``free(pointer, size_bytes, stream)``.  Raises PlanError for a file that is damaged,
    truncated or of another version, DeviceError for a device that is not there.
    """
    plan = read_plan(source) if isinstance(source, bytes) else load_plan(source)
    return Engine(
        plan, threads=threads, device=device, native_code=native_code, allocator=allocator
    )
