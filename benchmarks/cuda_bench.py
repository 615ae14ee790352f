"""Answer: how fast is Lamina on a GPU next to torch, eager in a CUDA graph and compiled.

    python -m benchmarks.cuda_bench [--cases resnet50:1,bert_base:32] [--dtype f16|bf16|f32|tf32]
            [--engines lamina,eager] [--compile resnet50:1,...] [--seconds 1] [--level 3]
            [--layers 8] [--json FILE] [--merge]

Networks come from ``benchmarks.torch_models`` and are exported to ONNX in the element type of the
case.  Engines take turns in rounds on the same device arrays; times are those of CUDA events around
a run of consecutive calls, divided by their number.  ``host`` is the time of one call of the
engine's Python interface until the work is on the stream.  ``sqnr`` compares with torch in f32
(TF32 off), in decibels.  The cases of ``--compile`` are also run by torch.compile at
``max-autotune``, which takes 40 to 180 s each to compile.  The engine ``products`` is the network's
matrix products and convolutions alone, by torch's libraries, in the same seconds at the same clock.
Layers come with their floors: the time for their bytes or operations at what the device was
measured to reach; printed are those that lose most.  Needs torch, torchvision and transformers.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import lamina
from benchmarks import machine, torch_models
from benchmarks.products import products

DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "tf32": torch.float32}
CASES = (
    "resnet50:1,resnet50:8,resnet50:128,mobilenet_v2:1,mobilenet_v2:128,googlenet:1,"
    "inception_v3:1,vit_b16:1,vit_b16:64,bert_base:1,bert_base:32,bert_large:1,bert_large:32,"
    "unet:1,unet:16,detector:1,detector:16"
)


def sqnr(expected: Any, actual: Any) -> float:
    """Return the ratio of signal to noise in decibels; -inf for anything that is not finite."""
    e, a = expected.double(), actual.double()
    if not bool(torch.isfinite(a).all()):
        return -math.inf
    noise = float(((e - a) ** 2).sum())
    return math.inf if noise == 0 else 10 * math.log10(float((e**2).sum()) / noise)


class Engine:
    """Something to time: ``call`` puts one inference on the current stream."""

    def __init__(self, call: Callable[[], None], output: Any, build_seconds: float) -> None:
        self.call, self.output, self.build_seconds = call, output, build_seconds
        self.rounds: list[float] = []

    def time(self, runs: int) -> float:
        """Return the microseconds of one of ``runs`` consecutive calls."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(runs):
            self.call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e3 / runs

    def host(self, bursts: int = 9, runs: int = 20) -> float:
        """Return the microseconds that a call takes of the host, without waiting for the device.

        The median over bursts so short that the device's queue never fills.
        """
        seconds = []
        for _ in range(bursts):
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(runs):
                self.call()
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds) / runs * 1e6


def eager(module: Any, x: Any, compiled: bool) -> Engine:
    """Return torch, as it is or compiled for the most speed, in a CUDA graph."""
    if compiled:
        module = torch.compile(module, mode="max-autotune-no-cudagraphs")
    return captured(lambda: module(x))


def captured(compute: Callable[[], Any]) -> Engine:
    """Return what torch computes, as a CUDA graph."""
    begin = time.perf_counter()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        y = compute()
    graph.replay()
    torch.cuda.synchronize()
    return Engine(graph.replay, y, time.perf_counter() - begin)


def own(model: bytes, x: Any, shape: Any, dtype: str, level: int) -> tuple[Engine, Any, float]:
    """Return Lamina, its engine, and the seconds of a second build, with a warm timing cache."""
    precision = "tf32" if dtype == "tf32" else "fp32"  # the model's own types otherwise
    begin = time.perf_counter()
    engine = lamina.build(model, target="cuda", precision=precision, optimization_level=level)
    seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    again = lamina.build(model, target="cuda", precision=precision, optimization_level=level)
    warm = time.perf_counter() - begin
    cold_steps, warm_steps = (e.plan.sections[0].program.steps for e in (engine, again))
    if [s.spec for s in cold_steps] != [s.spec for s in warm_steps]:
        raise RuntimeError("a build with the times of the first one chose otherwise")
    del again
    context = engine.create_context()
    kind = engine.outputs[0].type.dtype.value  # type: ignore[union-attr]
    y = torch.empty(shape, dtype=DTYPES[kind], device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    inputs, outputs = {"x": x}, {"y": y}
    context.run(inputs, out=outputs, stream=stream)
    torch.cuda.synchronize()
    return Engine(lambda: context.run(inputs, out=outputs, stream=stream), y, seconds), engine, warm


def run_case(name: str, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one case and return its figures."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module, x = torch_models.make(name, batch)
    module, x = module.cuda(), x.cuda()
    with torch.no_grad():
        parts = [module(x[i : i + 16]) for i in range(0, batch, 16)]
        expected = torch.cat(parts)
    dtype = DTYPES[options.dtype]
    module = module.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    model = torch_models.export(module, x)
    tf32 = options.dtype == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    engines: dict[str, Engine] = {}
    result: dict[str, Any] = {"model": name, "batch": batch, "dtype": options.dtype}
    chosen = [*options.engines, *(["compile"] if f"{name}:{batch}" in options.compile else [])]
    if "lamina" in chosen:
        ids = x.to(torch.int64) if not x.is_floating_point() else x
        engines["lamina"], engine, result["warm_build_seconds"] = own(
            model, ids, expected.shape, options.dtype, options.level
        )
        result["layers"] = layers(engine, ids)
        result["fallbacks"] = list(engine.plan.fallbacks)
    image = x.dim() == 4
    fast = module.to(memory_format=torch.channels_last) if image else module
    data = x.contiguous(memory_format=torch.channels_last) if image else x
    for peer in ("eager", "compile"):
        if peer in chosen:
            engines[peer] = eager(fast, data, peer == "compile")
    if "products" in chosen:
        compute, operations = products(fast, data)
        engines["products"] = captured(compute)
        result["products_gigaflop"] = operations / 1e9
    for e in engines.values():
        e.time(3)
    for number in range(options.rounds):
        order = list(engines.values())
        for e in order[number % len(order) :] + order[: number % len(order)]:
            runs = max(3, min(1000, int(options.seconds * 1e6 / options.rounds / e.time(2))))
            e.rounds.append(e.time(runs))
    for key, e in engines.items():
        result[key] = {
            "microseconds": statistics.median(e.rounds),
            "host_microseconds": e.host(),
            "build_seconds": e.build_seconds,
            "sqnr_db": None if key == "products" else sqnr(expected, e.output),
        }
    return result


def layers(engine: Any, x: Any) -> list[dict[str, Any]]:
    """Return the time of each layer next to the least that it could take."""
    times = engine.profile({"x": x}, runs=3, ceilings=engine.ceilings())
    return [
        {
            "layer": t.name,
            "tactic": t.tactic,
            "microseconds": round(t.microseconds, 2),
            "floor_microseconds": round(t.floor_microseconds, 2),
            "megabytes": round(t.bytes_moved / 1e6, 3),
            "gigaflop": round(t.operations / 1e9, 4),
        }
        for t in times
    ]


def lost(layer: dict[str, Any]) -> float:
    """Return the microseconds of a layer above its floor."""
    return max(0.0, float(layer["microseconds"]) - float(layer["floor_microseconds"]))


def show(result: dict[str, Any], most: int) -> None:
    """Print a line for each engine, and the slowest layers."""
    name = f"{result['model']}:{result['batch']}"
    if "error" in result:
        print(f"{name:18s} FAILED: {result['error']}", flush=True)
        return
    own_time = result.get("lamina", {}).get("microseconds")
    for engine in ("lamina", "eager", "compile"):
        if engine in result:
            r = result[engine]
            ratio = f"{r['microseconds'] / own_time:5.2f}x" if own_time else ""
            print(
                f"{name:18s} {engine:8s} {r['microseconds']:9.1f} us {ratio} host "
                f"{r['host_microseconds']:6.1f} us  build {r['build_seconds']:6.1f} s  "
                f"sqnr {r['sqnr_db']:5.1f} dB",
                flush=True,
            )
    if "products" in result:
        us, gigaflop = result["products"]["microseconds"], result["products_gigaflop"]
        rate = gigaflop / us * 1e3
        print(f"{name:18s} products {us:9.1f} us at {rate:.0f} TFLOP/s", flush=True)
    if "layers" in result:
        total = sum(t["microseconds"] for t in result["layers"])
        floor = sum(t["floor_microseconds"] for t in result["layers"])
        print(
            f"   {len(result['layers'])} layers, sum {total:.1f} us, floors {floor:.1f} us, warm "
            f"build {result['warm_build_seconds']:.1f} s, fallbacks {len(result['fallbacks'])}"
        )
        groups: dict[str, list[dict[str, Any]]] = {}
        for t in result["layers"]:
            groups.setdefault(f"{t['layer']} {t['tactic']}", []).append(t)
        for key, alike in sorted(groups.items(), key=lambda g: -sum(map(lost, g[1])))[:most]:
            us = sum(t["microseconds"] for t in alike)
            least = sum(t["floor_microseconds"] for t in alike)
            print(f"   {us:8.1f} us of {least:8.1f}  {len(alike):3d} x  {key}")


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--dtype", default="f16", choices=sorted(DTYPES))
    parser.add_argument("--engines", default="lamina,eager")
    parser.add_argument("--compile", default="", help="cases for torch.compile, or 'all'")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--merge", action="store_true", help="keep other cases of the JSON file")
    options = parser.parse_args()
    options.engines = options.engines.split(",")
    every = options.cases if options.compile == "all" else options.compile
    options.compile = every.split(",")
    results: list[dict[str, Any]] = []
    if options.merge and options.json and options.json.exists():
        results = json.loads(options.json.read_text())["results"]
    for case in options.cases.split(","):
        name, _, batch = case.partition(":")
        try:
            result = run_case(name, int(batch), options)
        except Exception as e:  # one case must not end the others
            result = {"model": name, "batch": int(batch), "error": f"{type(e).__name__}: {e}"}
            result["dtype"] = options.dtype
        key = (name, int(batch), options.dtype)
        results = [r for r in results if (r["model"], r["batch"], r.get("dtype")) != key]
        results.append(result)
        show(result, options.layers)
        torch.cuda.empty_cache()
        if options.json:
            device = torch.cuda.get_device_name()
            versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
            about = {"device": device, **versions, **machine.describe()}
            options.json.write_text(json.dumps({"machine": about, "results": results}, indent=1))


if __name__ == "__main__":
    main()
