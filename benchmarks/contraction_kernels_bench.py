"""How fast our own convolution kernels are beside oneDNN's direct convolution, layer by layer.

Run ``python -m benchmarks.contraction_kernels_bench [--network NAME] [--json FILE]``. Every
candidate of a layer runs in turn with oneDNN in one process; times are the least of all rounds,
as other programs disturb the rest.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from lamina.backends.cpu import image
from lamina.backends.cpu.kernels import depthwise, direct, winograd
from lamina.backends.cpu.kernels.convolution import (
    ActivationLayout,
    ConvolutionProblem,
    Epilogue,
)
from lamina.backends.cpu.onednn import library, packing, primitives
from lamina.backends.cpu.onednn.attributes import Attributes, EltwisePostOp
from lamina.backends.cpu.onednn.convolution import Convolution
from lamina.backends.cpu.onednn.memory import Layout
from lamina.codegen.llvm import link, target
from lamina.codegen.llvm.builder import I32, I64, Module

# network, input channels, output channels, side, filter, stride, groups
LAYERS = (
    ("resnet50", 3, 64, 224, 7, 2, 1),
    ("resnet50", 64, 64, 56, 3, 1, 1),
    ("resnet50", 128, 128, 28, 3, 1, 1),
    ("resnet50", 256, 256, 14, 3, 1, 1),
    ("resnet50", 512, 512, 7, 3, 1, 1),
    ("resnet50", 64, 256, 56, 1, 1, 1),
    ("resnet50", 256, 64, 56, 1, 1, 1),
    ("resnet50", 1024, 256, 14, 1, 1, 1),
    ("resnet50", 512, 2048, 7, 1, 1, 1),
    ("resnet50", 128, 128, 56, 3, 2, 1),
    ("resnet50", 256, 256, 28, 3, 2, 1),
    ("resnet50", 512, 512, 14, 3, 2, 1),
    ("inception", 64, 96, 28, 3, 2, 1),
    ("inception", 128, 160, 28, 3, 2, 1),
    ("inception", 192, 256, 14, 3, 2, 1),
    ("vgg19", 3, 64, 224, 3, 1, 1),
    ("vgg19", 64, 64, 224, 3, 1, 1),
    ("vgg19", 128, 128, 112, 3, 1, 1),
    ("vgg19", 256, 256, 56, 3, 1, 1),
    ("vgg19", 512, 512, 28, 3, 1, 1),
    ("vgg19", 512, 512, 14, 3, 1, 1),
    ("inception", 64, 192, 56, 3, 1, 1),
    ("inception", 96, 128, 28, 3, 1, 1),
    ("inception", 128, 192, 28, 3, 1, 1),
    ("inception", 112, 224, 14, 3, 1, 1),
    ("inception", 192, 384, 7, 3, 1, 1),
    ("inception", 16, 32, 28, 5, 1, 1),
    ("inception", 32, 96, 28, 5, 1, 1),
    ("inception", 32, 128, 14, 5, 1, 1),
    ("squeezenet", 16, 64, 55, 3, 1, 1),
    ("squeezenet", 32, 128, 27, 3, 1, 1),
    ("squeezenet", 64, 256, 13, 3, 1, 1),
    ("densenet", 128, 32, 56, 3, 1, 1),
    ("densenet", 128, 32, 28, 3, 1, 1),
    ("densenet", 128, 32, 14, 3, 1, 1),
    ("alexnet", 96, 256, 26, 5, 1, 2),
    ("alexnet", 256, 384, 12, 3, 1, 1),
    ("alexnet", 384, 384, 12, 3, 1, 2),
    ("alexnet", 384, 256, 12, 3, 1, 2),
    ("zfnet", 512, 512, 12, 3, 1, 1),
    ("shufflenet", 3, 24, 224, 3, 2, 1),
    ("shufflenet", 136, 136, 28, 1, 1, 4),
    ("shufflenet", 272, 272, 14, 1, 1, 4),
    ("shufflenet", 544, 544, 7, 1, 1, 4),
    ("mobilenet", 96, 96, 112, 3, 2, 96),
    ("mobilenet", 144, 144, 56, 3, 1, 144),
    ("mobilenet", 192, 192, 28, 3, 1, 192),
    ("mobilenet", 384, 384, 14, 3, 1, 384),
    ("mobilenet", 960, 960, 7, 3, 1, 960),
    ("mobilenet", 576, 576, 14, 3, 2, 576),
)
KERNELS = (("winograd", winograd), ("direct", direct), ("depthwise", depthwise))
THREADS = 2


def aligned(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return zeros that start at a cache line."""
    count = int(np.prod(shape))
    raw = np.zeros(count + 16, np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + count].reshape(shape)


def placed(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return a copy that starts at a cache line."""
    result = aligned(x.shape)
    result[...] = x
    return result


def blocked(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an NCHW array as nChw16c."""
    n, c, h, w = x.shape
    padded = np.zeros((n, -(-c // 16) * 16, h, w), np.float32)
    padded[:, :c] = x
    return placed(padded.reshape(n, -1, 16, h, w).transpose(0, 1, 3, 4, 2))


def arranged(x: NDArray[np.float32], layout: ActivationLayout) -> NDArray[np.float32]:
    """Return an NCHW array in memory as the layout says."""
    if layout.channel != 4:
        return placed(x)
    return placed(x.transpose(0, 2, 3, 1)) if layout.block == 64 else blocked(x)


def described(layout: ActivationLayout, dims: tuple[int, ...]) -> Layout:
    """Return oneDNN's name of a layout."""
    if layout.channel != 4:
        return Layout.dense(dims)
    return Layout.channels_last(dims) if layout.block == 64 else Layout.blocked(dims, 16)


class Team:
    """Calls a kernel with two threads of the OpenMP runtime that oneDNN uses."""

    def __init__(self, lib: library.Library) -> None:
        module = Module(target.host_isa())
        with module.kernel("run") as k:
            number = k.call(module.declare("omp_get_thread_num", I32, ()))
            count = k.call(module.declare("omp_get_num_threads", I32, ()))
            function, args = k.arg(0), k.arg(1)
            k.emit_void(
                f"call void {function.text}({args}, ptr null, "
                f"{k.convert(number, I64)}, {k.convert(count, I64)})"
            )
        built = link.link([target.compile_module(str(module), module.isa)])
        addresses = {name: lib.openmp_address(name) for name, _ in built.externals}
        self.loaded = image.load_image(built.code, built.symbols, built.externals, addresses)
        self.parallel = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
        )(lib.openmp_address("GOMP_parallel"))

    def run(self, function: int, args: ctypes.Array[ctypes.c_void_p]) -> None:
        """Run one phase."""
        record = (ctypes.c_void_p * 2)(function, ctypes.addressof(args))
        self.parallel(self.loaded.address("run"), ctypes.byref(record), THREADS, 0)


def problem_of(layer: tuple[str, int, int, int, int, int, int]) -> ConvolutionProblem:
    """Return the layer as a problem in oneDNN's favourite layouts, with bias and ReLU."""
    _, c, o, side, filter_side, stride, groups = layer
    out = (side + 2 * (filter_side // 2) - filter_side) // stride + 1
    split = c > groups > 1 and (c // groups % 16 or o // groups % 16)
    usual = ActivationLayout.channels_last if split else ActivationLayout.blocked
    first = ActivationLayout.planar if c < 16 else usual
    return ConvolutionProblem(
        1, c, o, side, side, (filter_side, filter_side),
        first(c, side, side), usual(o, out, out),
        strides=(stride, stride), pads=(filter_side // 2,) * 4, groups=groups,
        activation=Epilogue("relu"),
    )  # fmt: skip


def onednn_run(
    lib: library.Library, p: ConvolutionProblem, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any]
) -> tuple[Callable[[], None], NDArray[np.float32]]:
    """Return a call of oneDNN's direct convolution and its output buffer."""
    out = (1, p.out_channels, p.out_height, p.out_width)
    groups = (p.groups, p.out_channels // p.groups, p.in_channels // p.groups, *p.kernel)
    weights = w if p.groups == 1 else w.reshape(groups)
    spec = Convolution(
        described(p.src, (1, p.in_channels, p.height, p.width)), Layout.any(weights.shape),
        described(p.dst, out), Layout.dense((p.out_channels,)),
        p.strides, (1, 1), p.pads[:2], p.pads[2:],
        attributes=Attributes(post_ops=(EltwisePostOp("relu", 0, 0),)),
    )  # fmt: skip
    primitive = primitives.create(lib, spec)
    y = arranged(np.zeros(out, np.float32), p.dst)
    buffers = {
        "src": x,
        "weights": packing.pack(primitive, weights, "weights"),
        "bias": b,
        "dst": y,
    }
    if primitive.scratchpad_bytes:
        buffers["scratchpad"] = aligned((primitive.scratchpad_bytes // 4 + 1,))
    arguments = primitive.arguments()
    for name, buffer in buffers.items():
        arguments.point(name, buffer.ctypes.data)
    stream = lib.stream()

    def call(keep: object = buffers) -> None:
        arguments.run(stream)

    return call, y


def own_runs(
    team: Team, p: ConvolutionProblem, x: NDArray[Any], w: NDArray[Any], b: NDArray[Any]
) -> Iterator[tuple[str, Callable[[], None], NDArray[np.float32]]]:
    """Yield every candidate of every kernel: its description, a call, and its output buffer."""
    isa = target.host_isa()
    for name, kernel in KERNELS:
        if kernel.why_not(p) is not None:
            continue
        if name == "direct" and p.groups == p.in_channels > 1:
            continue
        configs = list(kernel.configs(p, isa, THREADS))
        module = Module(isa)
        phases = [kernel.build(module, f"k{i}", p, c) for i, c in enumerate(configs)]
        built = link.link([target.compile_module(str(module), isa)])
        loaded = image.load_image(built.code, built.symbols, built.externals)
        for config, names in zip(configs, phases, strict=True):
            out = (1, p.out_channels, p.out_height, p.out_width)
            y = arranged(np.zeros(out, np.float32), p.dst)
            workspace = aligned((kernel.workspace_bytes(p, config, isa, THREADS) // 4 + 16,))
            packed = placed(kernel.pack_weights(w, p, config, isa))
            args = (ctypes.c_void_p * 5)(*(v.ctypes.data for v in (x, packed, b, y, workspace)))
            functions = [loaded.address(n) for n in names]

            def call(
                functions: list[int] = functions,
                args: Any = args,
                keep: object = (packed, workspace, loaded),
            ) -> None:
                for function in functions:
                    team.run(function, args)

            shown = ", ".join(f"{k}={v}" for k, v in dataclasses.asdict(config).items())
            yield f"{name}({shown})", call, y


def measure(lib: library.Library, team: Team, layer: Any, rounds: int) -> dict[str, Any]:
    """Return the layer's times in milliseconds and errors against oneDNN."""
    p = problem_of(layer)
    rng = np.random.default_rng(0)
    depth = p.in_channels // p.groups * p.kernel[0] * p.kernel[1]
    x = rng.normal(size=(1, p.in_channels, p.height, p.width)).astype(np.float32)
    w = rng.normal(size=(p.out_channels, p.in_channels // p.groups, *p.kernel)) / np.sqrt(depth)
    w, b = w.astype(np.float32), placed(rng.normal(size=p.out_channels))
    x = arranged(x, p.src)
    base, expected = onednn_run(lib, p, x, w, b)
    base()
    runs = list(own_runs(team, p, x, w, b))
    errors = {}
    for name, call, y in runs:
        call()
        errors[name] = float(np.abs(y - expected).max() / np.abs(expected).max())
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, call in [("onednn", base), *((n, c) for n, c, _ in runs)]:
            start = time.perf_counter()
            call()
            times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
    best = {name: min(values) for name, values in times.items()}
    return {
        "layer": layer, "gflop": 2e-9 * p.multiply_adds,
        "onednn_ms": best.pop("onednn"), "own_ms": best, "error": errors,
    }  # fmt: skip


def main() -> None:
    """Measure the chosen layers and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--top", type=int, default=3, help="candidates to print per layer")
    parser.add_argument("--json")
    options = parser.parse_args()
    lib = library.load()
    lib.set_threads(THREADS)
    team = Team(lib)
    results = []
    for layer in LAYERS:
        if options.network and options.network != layer[0]:
            continue
        result = measure(lib, team, layer, options.rounds)
        results.append(result)
        base = result["onednn_ms"]
        print(
            f"{layer}: oneDNN {base:.3f} ms, {1e3 * result['gflop'] / base:.0f} GFLOP/s", flush=True
        )
        ranked = sorted(result["own_ms"].items(), key=lambda item: item[1])[: options.top]
        for name, ms in ranked:
            print(f"    {base / ms:5.2f}x {ms:.3f} ms  error {result['error'][name]:.1e}  {name}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine.describe(), "layers": results}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
