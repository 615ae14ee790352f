"""Measure oneDNN's primitives on this machine, by layout, and what making them costs.

Sections: load, layers (each convolution of ResNet-50 alone), networks (all 53 in a row, each with
its own weights), whole (Lamina's whole network next to these), precisions, alternatives, depthwise,
grouped, pooling, matmul, attention, fully_connected, concat, recurrent.
Everything compared is interleaved in this process; times are lower quartiles, because the machine
may be shared.  Run it alone::

    python -m benchmarks.onednn_primitives_bench --sections layers networks --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lamina
from benchmarks import machine, models
from benchmarks.convolution_layers import RELU, Layer, activation, convolution, resnet50
from benchmarks.primitive_timing import Row, Runnable, compare, interleaved_ms, timed
from lamina.backends.cpu.onednn import library
from lamina.backends.cpu.onednn.attributes import (
    Attributes,
    DepthwisePostOp,
    EltwisePostOp,
    Scale,
)
from lamina.backends.cpu.onednn.library import OneDnnError
from lamina.backends.cpu.onednn.matmul import InnerProduct, MatMul
from lamina.backends.cpu.onednn.memory import Layout
from lamina.backends.cpu.onednn.normalization import LocalResponseNormalization
from lamina.backends.cpu.onednn.pooling import Pooling
from lamina.backends.cpu.onednn.rnn import BIASES, GATES, Recurrent

LAYOUTS = ("nchw", "nhwc", "nChw16c")


def layers(onednn: library.Library) -> list[Row]:
    """Each distinct convolution alone, its data in cache as far as it fits."""
    rows, count = [], resnet50()
    for layer in dict.fromkeys(count):
        specs = {layout: convolution(layer, layout) for layout in LAYOUTS}
        if layer.channels == 3:
            nhwc = specs["nhwc"]
            specs["nhwc to nChw16c"] = replace(nhwc, dst=specs["nChw16c"].dst)
            specs["nchw to nhwc"] = replace(nhwc, src=specs["nchw"].src)
        for row in compare(onednn, str(layer), specs):
            rows.append({**row, "times_in_network": count.count(layer)})
    for layout in LAYOUTS:
        mine = [row for row in rows if row["variant"] == layout]
        total = sum(row["ms"] * row["times_in_network"] for row in mine)
        rows.append({"case": "sum of layers alone", "variant": layout, "ms": round(total, 2)})
    best: dict[str, float] = {}
    for row in rows:
        if "times_in_network" in row and "ms" in row:
            ms = row["ms"] * row["times_in_network"]
            best[row["case"]] = min(ms, best.get(row["case"], ms))
    total = round(sum(best.values()), 2)
    return [*rows, {"case": "sum of layers alone", "variant": "best of each", "ms": total}]


def networks(onednn: library.Library) -> list[Row]:
    """All 53 convolutions in a row, each with its own weights and buffers, as a network runs."""
    variants = [("f32", layout, 1) for layout in LAYOUTS]
    variants += [("bf16", "nhwc", 1), ("bf16", "nChw16c", 1), ("u8", "nhwc", 1)]
    variants += [("f32", "nhwc", 8), ("f32", "nChw16c", 8)]
    multiply_adds = sum(convolution(layer, "nchw").multiply_adds for layer in resnet50())
    calls: dict[str, Callable[[], None]] = {}
    for dtype, layout, batch in variants:
        chain = [Runnable(onednn, convolution(la, layout, dtype, batch)) for la in resnet50()]
        calls[f"{dtype} {layout} batch {batch}"] = lambda chain=chain: [run() for run in chain]
    return [
        {
            "case": "ResNet-50 convolutions",
            "variant": name,
            "ms": round(ms, 2),
            "gflops": round(2e-6 * multiply_adds * int(name.split()[-1]) / ms, 1),
        }
        for name, ms in interleaved_ms(calls, rounds=9).items()
    ]


def whole(onednn: library.Library) -> list[Row]:
    """Time the whole of ResNet-50, batch 1, next to its convolutions alone, f32."""
    model = models.find("resnet50").build(1)
    engine = lamina.build(model, threads=onednn.threads)
    x = engine.example_inputs()
    calls: dict[str, Callable[[], None]] = {"Lamina, the whole network": lambda: engine.run(x)}  # type: ignore[dict-item]
    for layout in LAYOUTS:
        chain = [Runnable(onednn, convolution(la, layout)) for la in resnet50()]
        calls[f"oneDNN, convolutions, {layout}"] = lambda chain=chain: [run() for run in chain]
    return [
        {"case": "ResNet-50 batch 1", "variant": name, "ms": round(ms, 2)}
        for name, ms in interleaved_ms(calls, rounds=25).items()
    ]


def precisions(onednn: library.Library) -> list[Row]:
    """Time a few layers in bf16 and int8 beside f32."""
    rows = []
    for layer in (
        Layer(3, 224, 64, 7, 2),
        Layer(64, 56, 64, 3),
        Layer(256, 14, 256, 3),
        Layer(256, 14, 1024, 1),
        Layer(512, 7, 2048, 1),
    ):
        specs: dict[str, Any] = {}
        for dtype, layout in (
            ("f32", "nhwc"),
            ("f32", "nChw16c"),
            ("bf16", "nhwc"),
            ("bf16", "nChw16c"),
            ("u8", "nhwc"),
        ):
            specs[f"{dtype} {layout}"] = convolution(layer, layout, dtype)
        fast = replace(specs["f32 nhwc"].attributes, fpmath_mode="bf16")
        specs["f32 as bf16 nhwc"] = replace(specs["f32 nhwc"], attributes=fast)
        rows += compare(onednn, str(layer), specs)
    return rows


def alternatives(onednn: library.Library) -> list[Row]:
    """Time the library's other implementations of channels-last and blocked layers."""
    rows = []
    for layer in dict.fromkeys(resnet50()):
        specs: dict[str, Any] = {}
        for layout, count in (("nhwc", 3), ("nChw16c", 2)):
            spec = convolution(layer, layout)
            for n in range(count):
                attributes = replace(spec.attributes, alternative=n)
                specs[f"{layout} alternative {n}"] = replace(spec, attributes=attributes)
        rows += compare(onednn, str(layer), specs)
    return rows


def depthwise(onednn: library.Library) -> list[Row]:
    """MobileNet-v2: depthwise layers alone, and fused behind their 1x1 expansion."""
    rows = []
    shapes = ((32, 112, 1), (96, 112, 2), (144, 56, 1), (144, 56, 2), (192, 28, 1), (192, 28, 2))
    shapes += ((384, 14, 1), (576, 14, 1), (576, 14, 2), (960, 7, 1))
    for channels, size, stride in shapes:
        layer = Layer(channels, size, channels, 3, stride, channels)
        specs = {layout: convolution(layer, layout) for layout in LAYOUTS}
        rows += compare(onednn, str(layer), specs)
    for inputs, expanded, size, stride in ((24, 144, 56, 1), (32, 192, 28, 1), (96, 576, 14, 1)):
        expand = Layer(inputs, size, expanded, 1)
        spatial = Layer(expanded, size, expanded, 3, stride, expanded)
        for layout in ("nhwc", "nChw16c"):
            fused = convolution(expand, layout)
            ops = (RELU, DepthwisePostOp(3, stride, 1), RELU)
            fused = replace(fused, attributes=Attributes(ops))
            pair = [Runnable(onednn, convolution(la, layout)) for la in (expand, spatial)]
            calls = {"separate": lambda pair=pair: [run() for run in pair]}
            try:
                calls["fused"] = Runnable(onednn, fused)
            except OneDnnError as e:
                rows.append({"case": f"{expand} + {spatial}", "variant": layout, "no": e.status})
            rows += [
                {"case": f"{expand} + depthwise", "variant": f"{layout} {name}", "ms": round(ms, 4)}
                for name, ms in interleaved_ms(calls).items()
            ]
    return rows


def grouped(onednn: library.Library) -> list[Row]:
    """Time ShuffleNet's grouped 1x1 layers, also as one matrix product a group."""
    rows = []
    shapes = ((24, 56, 112), (112, 28, 112), (136, 28, 136), (272, 14, 272), (544, 7, 544))
    for channels, size, outputs in shapes:
        groups, positions = 4, size * size
        k, n = channels // groups, outputs // groups
        layer = Layer(channels, size, outputs, 1, 1, groups)
        specs: dict[str, Any] = {layout: convolution(layer, layout) for layout in LAYOUTS}
        specs["nChw8c"] = replace(
            specs["nhwc"],
            src=Layout.blocked(specs["nhwc"].src.dims, 8),
            dst=Layout.blocked(specs["nhwc"].dst.dims, 8),
        )
        specs["nhwc matmul"] = MatMul(
            Layout((groups, positions, k), strides=(k, channels, 1)),
            Layout.any((groups, k, n)),
            Layout((groups, positions, n), strides=(n, outputs, 1)),
            attributes=Attributes((RELU,)),
        )
        specs["nchw matmul"] = MatMul(
            Layout.dense((groups, n, k)), Layout.dense((groups, k, positions)),
            Layout.dense((groups, n, positions)), attributes=Attributes((RELU,)),
        )  # fmt: skip
        specs["nhwc with zeros between groups"] = convolution(replace(layer, groups=1), "nhwc")
        rows += compare(onednn, str(layer), specs)
    return rows


def pooling(onednn: library.Library) -> list[Row]:
    """Time pooling and local response normalization in each layout."""
    rows = []
    cases = ((64, 112, 3, 2, "max"), (192, 56, 3, 2, "max"), (480, 14, 3, 1, "max"))
    cases += ((2048, 7, 7, 1, "average_include_padding"),)
    for channels, size, kernel, stride, algorithm in cases:
        pad = 0 if kernel == size else 1
        out = (size + 2 * pad - kernel) // stride + 1
        calls = {}
        for layout in LAYOUTS:
            spec = Pooling(
                activation(layout, (1, channels, size, size)),
                activation(layout, (1, channels, out, out)),
                (kernel,) * 2, (stride,) * 2, (), (pad,) * 2, (pad,) * 2, algorithm,
            )  # fmt: skip
            calls[layout] = Runnable(onednn, spec)
        rows += timed(f"{algorithm} {kernel} s{stride} of {channels}x{size}", calls)
    for channels, size in ((96, 54), (256, 26), (64, 56), (192, 56)):
        calls = {}
        for layout in LAYOUTS:
            place = activation(layout, (1, channels, size, size))
            calls[layout] = Runnable(onednn, LocalResponseNormalization(place, place, 5))
        rows += timed(f"lrn 5 of {channels}x{size}", calls)
    return rows


def matmul(onednn: library.Library) -> list[Row]:
    """BERT-base at sequence 128, batch 1 and 8; weights packed or plain; bias fused."""
    rows = []
    for m, k, n in (
        (128, 768, 768),
        (128, 768, 2304),
        (128, 768, 3072),
        (128, 3072, 768),
        (1024, 768, 768),
        (1024, 768, 3072),
    ):
        specs: dict[str, Any] = {}
        for dtype in ("f32", "bf16"):
            for name, weights in (
                ("any", Layout.any((k, n), dtype)),
                ("plain", Layout.dense((k, n), dtype)),
                ("transposed", Layout((k, n), dtype, strides=(1, k))),
            ):
                specs[f"{dtype} {name}"] = MatMul(
                    Layout.dense((m, k), dtype), weights, Layout.dense((m, n), dtype),
                    Layout.dense((1, n)),
                )  # fmt: skip
        gelu = Attributes((EltwisePostOp("gelu_erf"),))
        specs["f32 any + gelu"] = replace(specs["f32 any"], attributes=gelu)
        specs["f32 inner product"] = InnerProduct(
            Layout.dense((m, k)), Layout.any((n, k)), Layout.dense((m, n)), Layout.dense((n,))
        )
        scales = Attributes((), (Scale("src"), Scale("weights", 2, n)))
        specs["u8 any"] = MatMul(
            Layout.dense((m, k), "u8"), Layout.any((k, n), "i8"), Layout.dense((m, n)),
            Layout.dense((1, n)), scales,
        )  # fmt: skip
        rows += compare(onednn, f"{m}x{k} @ {k}x{n}", specs)
    return rows


def attention(onednn: library.Library) -> list[Row]:
    """Time BERT-base's two batched products, heads apart or where the projections leave them."""
    rows = []
    heads, steps, width = 12, 128, 64
    dense = {
        "scores": ((steps, width), (width, steps), (steps, steps)),
        "context": ((steps, steps), (steps, width), (steps, width)),
    }
    inside = Layout((heads, steps, width), strides=(width, heads * width, 1))
    transposed = Layout((heads, width, steps), strides=(width, 1, heads * width))
    for name, shapes in dense.items():
        src, weights, dst = (Layout.dense((heads, *dims)) for dims in shapes)
        if name == "scores":
            placed = MatMul(inside, transposed, dst)
        else:
            placed = MatMul(src, inside, inside)
        specs: dict[str, Any] = {
            "heads apart": MatMul(src, weights, dst),
            "heads apart, alternative 1": MatMul(
                src, weights, dst, attributes=Attributes(alternative=1)
            ),
            "heads in place": placed,
        }
        rows += compare(onednn, f"attention {name}", specs)
    return rows


def fully_connected(onednn: library.Library) -> list[Row]:
    """AlexNet's fully connected layers at batch 1: bound by reading the weights."""
    rows = []
    for k, n in ((9216, 4096), (4096, 4096), (4096, 1000)):
        specs: dict[str, Any] = {}
        for dtype in ("f32", "bf16"):
            shape = ((1, k), (n, k), (1, n))
            src, weights, dst = (Layout.dense(dims, dtype) for dims in shape)
            bias = Layout.dense((n,))
            packed = Layout.any((n, k), dtype)
            specs[f"{dtype} inner product any"] = InnerProduct(src, packed, dst, bias)
            specs[f"{dtype} inner product plain"] = InnerProduct(src, weights, dst, bias)
            row = Layout.dense((1, n))
            transposed = Layout((k, n), dtype, strides=(1, k))
            specs[f"{dtype} matmul any"] = MatMul(src, Layout.any((k, n), dtype), dst, row)
            specs[f"{dtype} matmul transposed"] = MatMul(src, transposed, dst, row)
            plain = Layout.dense((k, n), dtype)
            specs[f"{dtype} matmul plain"] = MatMul(src, plain, dst, row)
        for row in compare(onednn, f"1x{k} @ {k}x{n}", specs):
            size = 4 if row["variant"].startswith("f32") else 2
            gigabytes = k * n * size / row["ms"] * 1e-6 if "ms" in row else 0
            rows.append({**row, "weights_gb_s": round(gigabytes, 1)})
    return rows


def concat(onednn: library.Library) -> list[Row]:
    """Time convolutions that write or read a slice of a wider buffer."""
    rows = []
    for layer, parent in (
        (Layer(64, 56, 192, 3), 256),
        (Layer(128, 28, 32, 3), 512),
        (Layer(512, 14, 128, 1), 512),
        (Layer(256, 28, 64, 1), 480),
        (Layer(480, 14, 192, 1), 512),
    ):
        specs: dict[str, Any] = {}
        for layout, batch in (*((layout, 1) for layout in LAYOUTS), ("nChw16c", 4)):
            spec = convolution(layer, layout, batch=batch)
            name = f"{layout} batch {batch}"
            wide_dst = (batch, max(parent, layer.outputs), *spec.dst.dims[2:])
            wide_src = (batch, max(parent, layer.channels), *spec.src.dims[2:])
            specs[name] = spec
            specs[f"{name} dst slice"] = replace(spec, dst=spec.dst.within(wide_dst))
            specs[f"{name} src slice"] = replace(spec, src=spec.src.within(wide_src))
        rows += compare(onednn, f"{layer} in {parent} channels", specs)
    return rows


def recurrent(onednn: library.Library) -> list[Row]:
    """One layer, 256 inputs and units, sequence 32, batch 1 and 8."""
    rows = []
    steps, inputs, hidden = 32, 256, 256
    for batch in (1, 8):
        specs: dict[str, Any] = {}
        for cell in ("lstm", "gru", "lbr_gru", "vanilla"):
            specs[cell] = Recurrent(
                cell,
                Layout.dense((steps, batch, inputs)),
                Layout.any((1, 1, inputs, GATES[cell], hidden)),
                Layout.any((1, 1, hidden, GATES[cell], hidden)),
                Layout.dense((steps, batch, hidden)),
                Layout.dense((1, 1, BIASES[cell], hidden)),
            )
        rows += compare(onednn, f"{steps} steps of {inputs} -> {hidden}, batch {batch}", specs)
    return rows


LOAD_SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
import numpy, ml_dtypes
start = time.perf_counter()
from lamina.backends.cpu.onednn import library, primitives
from benchmarks.convolution_layers import convolution, resnet50
imported = time.perf_counter()
onednn = library.load()
loaded = time.perf_counter()
onednn.set_threads(2)
specs = [convolution(layer, {layout!r}) for layer in resnet50()]
made = [primitives.create(onednn, spec) for spec in specs]
created = time.perf_counter()
tables = [p.arguments() for p in made]
done = time.perf_counter()
print((imported - start) * 1e3, (loaded - imported) * 1e3, (created - loaded) * 1e3,
      (done - created) * 1e3)
"""


def load(onednn: library.Library) -> list[Row]:
    """Fresh processes: import, library load, the 53 convolutions of ResNet-50, their tables."""
    rows = []
    for layout in LAYOUTS:
        script = LOAD_SCRIPT.format(folder=str(Path(__file__).parents[1]), layout=layout)
        runs = []
        for _ in range(7):
            command = [sys.executable, "-c", script]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            runs.append([float(word) for word in text.split()])
        names = ("import_ms", "library_ms", "create_53_ms", "argument_tables_ms")
        medians = [round(statistics.median(column), 2) for column in zip(*runs, strict=True)]
        rows.append({"case": "load", "variant": layout, **dict(zip(names, medians, strict=True))})
    tiny = MatMul(Layout.dense((1, 16)), Layout.any((16, 16)), Layout.dense((1, 16)))
    rows += compare(onednn, "call overhead: 1x16 @ 16x16 from Python", {"f32": tiny})
    return rows


_SECTIONS = (
    load, layers, networks, whole, precisions, alternatives, depthwise, grouped, pooling, matmul,
    attention, fully_connected, concat, recurrent,
)  # fmt: skip
SECTIONS: dict[str, Callable[[library.Library], list[Row]]] = {s.__name__: s for s in _SECTIONS}


def main() -> None:
    """Run the chosen sections, print rows, write them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--library", help="path of another libdnnl.so.3")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    onednn = library.load(options.library)
    onednn.set_threads(options.threads)
    others = machine.OthersWatch()
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "onednn": ".".join(map(str, onednn.version)),
        "isa": onednn.isa,
        "threads": options.threads,
    }
    for name in options.sections:
        print(f"== {name}")
        results[name] = SECTIONS[name](onednn)
        for row in results[name]:
            print("  ", *(f"{key}={value}" for key, value in row.items()))
    results["others_busy_cores"] = round(others.cores(), 2)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
