"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from lamina.cli.shapes import Given, parse_shapes
from lamina.config import parse_targets

_BUILD = "Build options"

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX model.", show_default=False)]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="PLAN|MODEL",
        help="Plan, or ONNX model that is built first.",
        show_default=False,
    ),
]
Target = Annotated[
    str,
    typer.Option(
        metavar="TARGETS",
        help="cpu, cuda (this GPU), cuda:sm_90, or several: cpu,cuda:sm_80.",
        rich_help_panel=_BUILD,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--target", metavar="TARGET", help="What to compile for and to run on: cpu or cuda."
    ),
]
Precision = Annotated[
    str, typer.Option(help="fp32, tf32, fp16, bf16 or int8 (Q/DQ models).", rich_help_panel=_BUILD)
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:SHAPE",
        help="x:1x3x224x224, or smallest..likeliest..largest. May be repeated.",
        rich_help_panel=_BUILD,
    ),
]
Threads = Annotated[int, typer.Option(help="Number of threads, 0 for all cores.", min=0)]
Level = Annotated[
    int,
    typer.Option(
        "--optimization-level",
        help="0 takes each layer's first tactic, 3 and more time all.",
        rich_help_panel=_BUILD,
    ),
]
TimeBudget = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="Time layers no longer than this, what counts most first; 0: as long as it takes.",
        rich_help_panel=_BUILD,
        min=0.0,
    ),
]
TimingCache = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Where measured times are kept; '' for nowhere. Default: the user's cache.",
        rich_help_panel=_BUILD,
        show_default=False,
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option(metavar="PASS", help="Leave out a pass. May be repeated.", rich_help_panel=_BUILD),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The build options of one call."""

    target: str = "cpu"
    precision: str = "fp32"
    shapes: dict[str, Given] = field(default_factory=dict)
    threads: int = 0
    optimization_level: int = 3
    time_budget: float = 0.0
    timing_cache: str | None = None
    without: tuple[str, ...] = ()
    verify: bool = False

    @property
    def device(self) -> str:
        """The device that plans are loaded on."""
        return parse_targets(self.target)[0].device

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of ``lamina.build``."""
        return dict(vars(self))


def build_options(
    *, shapes: Sequence[str] | None = None, without: Sequence[str] | None = None, **rest: Any
) -> BuildOptions:
    """Return the options from their command-line form; raises ConfigError for a bad shape."""
    return BuildOptions(shapes=parse_shapes(shapes or ()), without=tuple(without or ()), **rest)
