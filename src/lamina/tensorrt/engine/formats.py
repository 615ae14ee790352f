"""Memory layouts of inputs and outputs, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A layout: the words that describe it, and the channels that lie together."""

    sentence: str
    components: int = 1


FORMATS = {
    "LINEAR": Format("Row major linear"),
    "CHW2": Format("Two wide channel vectorized row major", 2),
    "HWC8": Format("Eight wide channel vectorized, channel last", 8),
    "CHW4": Format("Four wide channel vectorized row major", 4),
    "CHW16": Format("Sixteen wide channel vectorized row major", 16),
    "CHW32": Format("Thirty-two wide channel vectorized row major", 32),
    "DHWC8": Format("Eight wide channel vectorized, channel last, with depth", 8),
    "CDHW32": Format("Thirty-two wide channel vectorized row major, with depth", 32),
    "HWC": Format("Channel major"),
    "DLA_LINEAR": Format("Row major linear DLA"),
    "DLA_HWC4": Format("Four wide channel last DLA", 4),
    "HWC16": Format("Sixteen wide channel vectorized, channel last", 16),
    "DHWC": Format("Channel major, with depth"),
}
"""Layouts by their name in TensorFormat."""
