"""``lamina demo``: real handwritten digits, in every precision this machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lamina.backends.cpu.features import cpu_features, cpu_name
from lamina.cli import options as opt
from lamina.cli.bench import load_seconds
from lamina.cli.options import BuildOptions
from lamina.cli.others import OthersWatch, tell_disturbance
from lamina.cli.peers import installed, load_peer
from lamina.cli.source import build_engine
from lamina.cli.tables import mark, note, print_json, show_bytes, show_number, stdout, table
from lamina.cli.timing import Budget, measure, speedup
from lamina.config import default_threads

Array = npt.NDArray[Any]
Classify = Callable[[Array], Array]

DATA: Final = Path(__file__).parent / "data"
BATCH: Final = 60
_BUDGET: Final = Budget(seconds=0.2, block_seconds=0.04)
_SHADES: Final = " .:-=+*#%@"
_GAP: Final = "   "


@dataclass(frozen=True)
class Row:
    """What one engine did in one precision, while others kept ``other_cores`` busy.

    ``error`` says why it did nothing.
    """

    precision: str
    engine: str
    accuracy: float = 0.0
    microseconds_per_call: float = 0.0
    images_per_second: float = 0.0
    other_cores: float = 0.0
    plan_bytes: int = 0
    times_as_fast_one: float | None = None
    times_as_fast_many: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Variant:
    """A precision, the model file that it starts from, and an instruction set that it needs."""

    precision: str
    file: str
    needs: str = ""
    compared: bool = True


VARIANTS: Final = (
    Variant("fp32", "digits.onnx"),
    Variant("bf16", "digits.onnx", needs="avx512bf16", compared=False),
    Variant("int8", "digits_int8.onnx"),
)


def command(threads: opt.Threads = 0, json: opt.Json = False) -> None:
    """Classify real handwritten digits in f32, bf16 and int8."""
    images, labels = held_out()
    count = threads or default_threads()
    if not json:
        stdout().print(
            f"{len(images)} handwritten digits that the network never saw; {cpu_name()}, "
            f"threads: {count}",
            markup=False,
        )
    rows: list[Row] = []
    guesses: Array | None = None
    for variant in VARIANTS:
        measured, guessed = measure_variant(variant, images, labels, count)
        rows += measured
        guesses = guessed if guesses is None else guesses
    if json:
        print_json([asdict(row) for row in rows])
        return
    show(rows)
    if guesses is not None:
        console = stdout()
        console.print(draw(images, labels, guesses, console.width), markup=False)
        console.print(f"\n{(guesses != labels).sum()} of {len(labels)} are read wrongly in f32.")
    if not installed("onnxruntime"):
        note("install onnxruntime to see it beside these rows: pip install onnxruntime")


def held_out() -> tuple[Array, Array]:
    """Return the images ``f32[n,1,8,8]`` and labels ``i64[n]`` that training never saw."""
    with np.load(DATA / "digits_held_out.npz") as data:
        return data["images"], data["labels"]


def measure_variant(
    variant: Variant, images: Array, labels: Array, threads: int
) -> tuple[list[Row], Array | None]:
    """Build and measure one precision, beside onnxruntime; also returns the predicted labels."""
    if variant.needs and variant.needs not in cpu_features():
        missing = f"this CPU has no {variant.needs}"
        return [Row(variant.precision, "lamina", error=missing)], None
    one, many, size = build_pair(variant, threads)
    guessed = classify(many, images)
    runs = {"lamina": (one, many)}
    if variant.compared and installed("onnxruntime"):
        peer = load_peer("onnxruntime", DATA / variant.file, threads=threads)
        run = partial(_logits, peer.run)
        runs["onnxruntime"] = (run, run)
    calls = {f"{name} one": partial(r[0], images[:1]) for name, r in runs.items()}
    calls |= {f"{name} many": partial(r[1], images[:BATCH]) for name, r in runs.items()}
    others = OthersWatch()
    samples = measure(calls, _BUDGET)
    busy = others.cores()
    rows = []
    for name, (_, run_many) in runs.items():
        single, batch = samples[f"{name} one"], samples[f"{name} many"]
        own = name == "lamina"
        rows.append(
            Row(
                variant.precision,
                name,
                accuracy=float((classify(run_many, images) == labels).mean()),
                microseconds_per_call=single.median * 1e6,
                images_per_second=BATCH / batch.median,
                other_cores=busy,
                plan_bytes=size if own else (DATA / variant.file).stat().st_size,
                times_as_fast_one=None if own else speedup(samples["lamina one"], single),
                times_as_fast_many=None if own else speedup(samples["lamina many"], batch),
            )
        )
    return rows, guessed


def build_pair(variant: Variant, threads: int) -> tuple[Classify, Classify, int]:
    """Return engines for one image and for ``BATCH`` images, and the size of the first's plan."""
    engines = []
    for batch in (1, BATCH):
        options = BuildOptions(
            precision=variant.precision, threads=threads, shapes={"image": (batch, 1, 8, 8)}
        )
        model = DATA / variant.file
        engines.append(build_engine(model, options, f"{variant.precision}, batch {batch}").engine)
    one, many = engines
    return one, many, load_seconds(one, "cpu")[1]


def classify(logits: Classify, images: Array) -> Array:
    """Return the label of each image, running ``BATCH`` at a time."""
    parts = [logits(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    labels: Array = np.concatenate(parts).argmax(1)
    return labels


def show(rows: list[Row]) -> None:
    """Print the rows for people."""
    cells = []
    for r in rows:
        if r.error:
            cells.append([r.precision, r.engine, *("-" * 5)])
            continue
        ratio = "-"
        if r.times_as_fast_one is not None and r.times_as_fast_many is not None:
            ratio = f"{r.times_as_fast_one:.2f} x, {r.times_as_fast_many:.2f} x"
        cells.append(
            [
                r.precision,
                r.engine,
                f"{r.accuracy:.2%}",
                show_number(r.microseconds_per_call),
                f"{r.images_per_second:,.0f}",
                show_bytes(r.plan_bytes),
                ratio,
            ]
        )
    columns = [
        "",
        "engine",
        "accuracy",
        "us a call",
        "images/s",
        "file",
        "lamina is as fast",
    ]
    stdout().print(table(columns, cells, left=2))
    for r in rows:
        if r.error:
            stdout().print(mark(None, f"{r.precision}: {r.error}"))
    note(f"us a call: 1 image; images/s: {BATCH} at a time; ratios: of the two, in this order")
    tell_disturbance(max(r.other_cores for r in rows))


def draw(images: Array, labels: Array, guesses: Array, columns: int = 112) -> str:
    """Return digits as text, side by side, the first one that is read wrongly among them."""
    width = 2 * images.shape[3] + len(_GAP)
    wrong = np.flatnonzero(guesses != labels)[:1].tolist()
    different = np.unique(labels, return_index=True)[1].tolist()
    right = max(1, (columns + len(_GAP)) // width - len(wrong))
    chosen = [*(i for i in different if i not in wrong)][:right] + wrong
    lines = []
    for row in range(images.shape[2]):
        line = [_pixels(images[i, 0, row]) for i in chosen]
        lines.append(_GAP.join(line))
    captions = [_caption(int(guesses[i]), int(labels[i])) for i in chosen]
    lines.append(_GAP.join(c.ljust(2 * images.shape[3]) for c in captions).rstrip())
    return "\n".join(lines)


def _pixels(values: Array) -> str:
    shades = np.clip((values * len(_SHADES)).astype(int), 0, len(_SHADES) - 1)
    return "".join(2 * _SHADES[s] for s in shades)


def _caption(guess: int, label: int) -> str:
    return f"read as {guess}" if guess == label else f"read as {guess}, is {label}"


def _logits(run: Callable[[dict[str, Array]], dict[str, Array]], images: Array) -> Array:
    return run({"image": images})["logits"]
