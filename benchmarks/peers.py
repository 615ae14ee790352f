"""onnxruntime, OpenVINO and Lamina behind one small protocol, each with its best CPU settings.

``load`` gets a file, so that each engine may map the weights; what it returns is called with
named arrays and gives named arrays. An engine that cannot run a precision says so in
``precisions`` and is left out: onnxruntime has no bf16 kernels for x86.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import pathlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lamina.cli.peers import load_peer

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

PRECISIONS = ("f32", "bf16", "int8")


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A model ready to run in one engine."""

    run: Callable[[Arrays], Arrays]
    build_seconds: float


class Peer(Protocol):
    """An engine that loads ONNX files and runs them on this machine's CPU."""

    @property
    def name(self) -> str:
        """The name used on the command line and in results."""

    @property
    def version(self) -> str:
        """The version of the installed package."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions, of ``PRECISIONS``, that the engine has kernels for."""

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Build or compile the model; the time it takes is in the result."""


@dataclasses.dataclass(frozen=True)
class Installed:
    """An engine that ``lamina bench --compare`` knows too, loaded as it does."""

    threads: int
    name: str
    precisions: tuple[str, ...]

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return importlib.metadata.version(self.name)

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Return a session; int8 models run what is not quantized in f32."""
        peer = load_peer(self.name, file, threads=self.threads, precision=precision)
        return Loaded(peer.run, peer.seconds)


def onnxruntime(threads: int) -> Installed:
    """Return onnxruntime, whose workers spin as they do by default."""
    return Installed(threads, "onnxruntime", ("f32", "int8"))


def openvino(threads: int) -> Installed:
    """Return OpenVINO."""
    return Installed(threads, "openvino", PRECISIONS)


@dataclasses.dataclass(frozen=True)
class Lamina:
    """Lamina itself; int8 comes from the model's own Q/DQ nodes, the rest of it in fp32."""

    threads: int
    name: str = "lamina"
    precisions: tuple[str, ...] = PRECISIONS

    @property
    def version(self) -> str:
        """The version of the package that is imported."""
        return str(importlib.import_module("lamina").__version__)

    def load(self, file: pathlib.Path, precision: str) -> Loaded:
        """Build an engine; the timing cache is used as the environment sets it up."""
        lamina = importlib.import_module("lamina")
        asked = "bf16" if precision == "bf16" else "fp32"
        started = time.perf_counter()
        engine = lamina.build(file, target="cpu", precision=asked, threads=self.threads)
        return Loaded(engine.run, time.perf_counter() - started)


PEERS: dict[str, Callable[[int], Peer]] = {
    "lamina": Lamina,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far outputs are from a reference's.

    ``max_relative`` is the largest absolute error over the reference's largest magnitude, the
    worst of all outputs; ``sqnr_db`` is the signal power over the error's, in decibels, likewise
    (infinite where equal).
    """

    max_relative: float
    sqnr_db: float


def compare(outputs: Arrays, reference: Arrays) -> Difference:
    """Return the worst difference over all outputs of the reference.

    A name or shape that is missing raises ``ValueError``; a NaN or infinity counts as infinitely
    far.
    """
    worst = Difference(0.0, float("inf"))
    for name, expected in reference.items():
        if name not in outputs or np.shape(outputs[name]) != expected.shape:
            found = {k: np.shape(v) for k, v in outputs.items()}
            raise ValueError(f"expected output {name!r} of shape {expected.shape}, got {found}")
        given, wanted = (np.asarray(a, np.float64) for a in (outputs[name], expected))
        if not np.isfinite(given).all():
            return Difference(float("inf"), float("-inf"))
        error = given - wanted
        power, noise = float(np.sum(wanted**2)), float(np.sum(error**2))
        peak = float(np.abs(wanted).max(initial=0.0)) or 1.0
        decibels = 10 * np.log10(max(power, 1e-300) / noise) if noise else float("inf")
        worst = Difference(
            max(worst.max_relative, float(np.abs(error).max(initial=0.0)) / peak),
            min(worst.sqnr_db, float(decibels)),
        )
    return worst
