"""What a backend's compiler returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lamina.plan.plan import Section

Report = Callable[[str, int, int, str], None]
"""Called with a stage, how much of it is done, of how much, and what is at hand."""


@dataclass
class Compiled:
    """A section, what in it runs on the host, and for people what tuning left out, if any."""

    section: Section
    fallbacks: list[str]
    untuned: str = ""
