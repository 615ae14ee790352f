"""What a backend's compiler returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lamina.plan.plan import Section
from lamina.tactics.spent import Spent

Report = Callable[[str, int, int, str], None]
"""Called with a stage, how much of it is done, of how much, and what is at hand."""


@dataclass
class Compiled:
    """A section, what in it runs on the host, and for people what tuning left out, if any.

    ``spent`` says where the time went.
    """

    section: Section
    fallbacks: list[str]
    untuned: str = ""
    spent: Spent = field(default_factory=Spent)
