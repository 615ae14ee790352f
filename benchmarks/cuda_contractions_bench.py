"""Measures how fast the contraction kernels are on a GPU and how far from their floors.

Compiles the most promising candidates of each problem in parallel, checks each against torch in
f32, times it in a CUDA graph, and prints the best beside the floor and what torch's library takes
(convolution or linear layer with bias, without residual and activation).  Needs a GPU,
cuda-bindings and torch.

    python benchmarks/cuda_contractions_bench.py --json results.json --only resnet50-b1
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cuda.bindings import driver as cu

from lamina.backends.cuda.compile import Compiler, MachineCode
from lamina.backends.cuda.request import Counters, CudaDraft, Launch, Scalar
from lamina.backends.cuda.tactics.convolution import TritonConvolution, TritonConvolutionBoxes
from lamina.backends.cuda.tactics.direct import TritonDirect
from lamina.backends.cuda.tactics.few_channels import TritonFewChannels
from lamina.backends.cuda.tactics.matmul import TritonMatmul, TritonMatmulBoxes, TritonMatvec
from lamina.backends.cuda.tactics.winograd import TritonWinograd
from lamina.backends.cuda.target import TARGETS
from lamina.ir.dims import evaluate
from lamina.ir.graph import Graph, Node, emit, emit_node
from lamina.ir.loc import Loc
from lamina.ir.types import DType, TensorType
from lamina.ops import (
    ActivationKind,
    Const,
    Convolution,
    Epilogue,
    Matmul,
    QuantizedConvolution,
    Scaling,
)
from lamina.tactics.candidate import Blob, Candidate, Packed, Placement, Read, Scratch, Write
from lamina.tactics.form import Form, layout

HERE = Loc("benchmark")
RELU, GELU = Epilogue(ActivationKind.RELU), Epilogue(ActivationKind.GELU)
TACTICS = (
    TritonConvolution(), TritonConvolutionBoxes(), TritonDirect(), TritonFewChannels(),
    TritonMatmul(), TritonMatmulBoxes(), TritonMatvec(), TritonWinograd(),
)  # fmt: skip
TOLERANCE = 3e-3
ROTATED_BYTES = 2.5e8
"""What the copies of the operands take together, so that none is found in the L2 cache."""
LATENCY_BYTES = 2e7
"""Problems that move less are timed as a chain, with their operands in the L2 cache."""
TORCH = {DType.F16: torch.float16, DType.BF16: torch.bfloat16, DType.F32: torch.float32,
         DType.I8: torch.int8, DType.U8: torch.uint8}  # fmt: skip


@dataclass
class Problem:
    """A node, how often the workload has it, and its operands on the device, row-major."""

    group: str
    name: str
    node: Node
    count: int
    operands: list[torch.Tensor]
    reference: Callable[[], torch.Tensor]
    library: Callable[[], torch.Tensor] | None
    flops: float
    candidates: list[tuple[Candidate, CudaDraft]] = field(default_factory=list)

    @property
    def moved_bytes(self) -> float:
        """Bytes that must be read and written at least."""
        values = (*self.node.inputs, self.node.output)
        return float(
            sum(math.prod(v.tensor.static_shape) * v.tensor.dtype.itemsize for v in values)
        )


def check(result: Any) -> Any:
    """Return what a driver call gave; raise for an error."""
    if result[0] != cu.CUresult.CUDA_SUCCESS:
        raise RuntimeError(str(result[0]))
    return result[1] if len(result) == 2 else result[1:]


def random(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Return normal numbers on the device (integers: of the whole range)."""
    if dtype in (torch.int8, torch.uint8):
        low, high = (-127, 128) if dtype is torch.int8 else (0, 256)
        return torch.randint(low, high, shape, device="cuda", dtype=dtype)
    return (torch.randn(shape, device="cuda") * scale).to(dtype)


def node_of(op: Any, operands: list[torch.Tensor], constants: tuple[int, ...]) -> Node:
    """Return the node of an operator whose operands ``constants`` are constant."""
    graph, values = Graph(), []
    for i, t in enumerate(operands):
        if i in constants:
            values.append(emit(Const.of(t.cpu().numpy()), (), loc=HERE))
        else:
            kind = next(d for d, k in TORCH.items() if k is t.dtype)
            values.append(graph.input(f"x{i}", TensorType(kind, tuple(t.shape))))
    return emit_node(op, values, loc=HERE)


def convolution(
    group: str, batch: int, c: int, size: int, k: int, r: int, s: int, count: int = 1,
    groups: int = 1, residual: bool = False, dtype: torch.dtype = torch.float16,
) -> Problem:  # fmt: skip
    """Return a convolution with bias and ReLU."""
    pad, out = r // 2, (size + 2 * (r // 2) - r) // s + 1
    x = random((batch, c, size, size), dtype)
    w = random((k, c // groups, r, r), dtype, (2 / (c // groups * r * r)) ** 0.5)
    b = random((k,), dtype, 0.1)
    rest = [random((batch, k, out, out), dtype)] if residual else []
    op = Convolution(
        strides=(s, s), dilations=(1, 1), pads_begin=(pad, pad), pads_end=(pad, pad),
        groups=groups, activation=RELU,
    )  # fmt: skip

    def reference() -> torch.Tensor:
        y = F.conv2d(x.float(), w.float(), b.float(), s, pad, 1, groups)
        return torch.relu(y + rest[0].float() if rest else y)

    xl, wl = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    return Problem(
        group, f"conv {c}x{size} {k} {r}x{r}/{s}{' res' if residual else ''}"
        + (f" g{groups}" if groups > 1 else ""),
        node_of(op, [x, w, b, *rest], (1, 2)), count, [x, w, b, *rest], reference,
        lambda: F.conv2d(xl, wl, b, s, pad, 1, groups),
        2.0 * batch * out * out * k * (c // groups) * r * r,
    )  # fmt: skip


def integers(group: str, batch: int, c: int, size: int, k: int, r: int) -> Problem:
    """Return an 8-bit convolution with scales, bias and ReLU, to 8 bits."""
    x, w = random((batch, c, size, size), torch.int8), random((k, c, r, r), torch.int8)
    scale = torch.full((k,), 1e-2 / (c * r * r) ** 0.5, device="cuda")
    b = random((k,), torch.float32)
    op = QuantizedConvolution(
        strides=(1, 1), dilations=(1, 1), pads_begin=(r // 2,) * 2, pads_end=(r // 2,) * 2,
        x_scaling=Scaling(0.05), activation=RELU, dtype=DType.I8, y_scaling=Scaling(0.1),
    )  # fmt: skip

    def reference() -> torch.Tensor:
        y = F.conv2d(x.float(), w.float(), None, 1, r // 2)
        y = y * (scale * 0.05).view(-1, 1, 1) + b.view(-1, 1, 1)
        return torch.clamp(torch.round(torch.relu(y) / 0.1), -128, 127)

    return Problem(
        group, f"int8 conv {c}x{size} {k} {r}x{r}", node_of(op, [x, w, scale, b], (1, 2, 3)), 1,
        [x, w, scale, b], reference, None, 2.0 * batch * size * size * k * c * r * r,
    )  # fmt: skip


def linear(group: str, m: int, k: int, n: int, count: int = 1, gelu: bool = False,
           dtype: torch.dtype = torch.float16) -> Problem:  # fmt: skip
    """Return a linear layer with bias, perhaps with GELU."""
    x, w = random((m, k), dtype), random((k, n), dtype, k**-0.5)
    b = random((n,), dtype, 0.1)
    op = Matmul(activation=GELU if gelu else None)
    wt = w.T.contiguous()

    def reference() -> torch.Tensor:
        y = x.float() @ w.float() + b.float()
        return F.gelu(y) if gelu else y

    name = f"linear {m}x{k}x{n}{' gelu' if gelu else ''}{' f32' if dtype is torch.float32 else ''}"
    return Problem(
        group, name, node_of(op, [x, w, b], (1, 2)), count, [x, w, b], reference,
        lambda: F.linear(x, wt, b), 2.0 * m * k * n,
    )  # fmt: skip


RESNET = (
    (64, 56, 64, 1, 1, 1), (64, 56, 64, 3, 1, 3), (64, 56, 256, 1, 1, 4), (256, 56, 64, 1, 1, 2),
    (256, 56, 128, 1, 1, 1), (128, 56, 128, 3, 2, 1), (128, 28, 128, 3, 1, 3),
    (128, 28, 512, 1, 1, 4), (256, 56, 512, 1, 2, 1), (512, 28, 128, 1, 1, 3),
    (512, 28, 256, 1, 1, 1), (256, 28, 256, 3, 2, 1), (256, 14, 256, 3, 1, 5),
    (256, 14, 1024, 1, 1, 6), (512, 28, 1024, 1, 2, 1), (1024, 14, 256, 1, 1, 5),
    (1024, 14, 512, 1, 1, 1), (512, 14, 512, 3, 2, 1), (512, 7, 512, 3, 1, 2),
    (512, 7, 2048, 1, 1, 3), (1024, 14, 2048, 1, 2, 1), (2048, 7, 512, 1, 1, 2),
)  # fmt: skip
"""Channels, size, filters, taps, stride and count of the layers of ResNet-50 but the first."""


def problems() -> Iterator[Callable[[], Problem]]:
    """Yield the problems, each made when it is called."""
    for batch in (1, 128):
        group = f"resnet50-b{batch}"
        yield lambda g=group, b=batch: convolution(g, b, 3, 224, 64, 7, 2)
        for c, size, k, r, s, count in RESNET:
            residual = k == 4 * c and s == 1
            yield lambda g=group, b=batch, a=(c, size, k, r, s, count), q=residual: convolution(
                g, b, *a, residual=q
            )
    for batch in (1, 8, 128):
        for c, size, r in ((64, 56, 3), (128, 28, 3), (256, 14, 3), (512, 7, 3), (64, 28, 5)):
            yield lambda b=batch, a=(c, size, c, r, 1): convolution(
                f"f32-b{b}", b, *a, dtype=torch.float32
            )
    for batch in (1, 128):
        group = f"mobilenet-b{batch}"
        for c, size, s in ((96, 112, 2), (144, 56, 1), (384, 14, 1), (960, 7, 1)):
            yield lambda g=group, b=batch, a=(c, size, c, 3, s): convolution(g, b, *a, groups=a[0])
    for tokens, group in ((128, "bert-b1"), (4096, "bert-b32"), (12608, "vit-b64")):
        yield lambda g=group, m=tokens: linear(g, m, 768, 2304, 12)
        yield lambda g=group, m=tokens: linear(g, m, 768, 768, 12)
        yield lambda g=group, m=tokens: linear(g, m, 768, 3072, 12, gelu=True)
        yield lambda g=group, m=tokens: linear(g, m, 3072, 768, 12)
    yield lambda: linear("other", 1, 2048, 1000)
    yield lambda: linear("other", 8192, 8192, 8192)
    yield lambda: linear("other", 1024, 1024, 1024, dtype=torch.float32)
    yield lambda: integers("int8-b128", 128, 256, 14, 256, 3)
    yield lambda: integers("int8-b128", 128, 64, 56, 256, 1)


def placement(node: Node, candidate: Candidate) -> Placement:
    """Return dense layouts."""
    forms = [f or Form.PLAIN for f in candidate.reads]
    operands = [layout(v.tensor, f) for v, f in zip(node.inputs, forms, strict=True)]
    return Placement(tuple(operands), (layout(node.output.tensor, candidate.writes[0]),), "")


def gather(problem: Problem, most: int, target: Any) -> None:
    """Fill in the candidates with the best estimates of every tactic."""
    for tactic in TACTICS:
        offered = tactic.candidates(problem.node, target)
        if isinstance(offered, list):
            best = sorted(offered, key=lambda c: c.estimate_microseconds)[:most]
            problem.candidates += [(c, c.draft(placement(problem.node, c))) for c in best]


class Runner:
    """Loads kernels and launches drafts on torch's stream."""

    def __init__(self, code: dict[Any, Any]) -> None:
        self.code = code
        self.functions: dict[Any, Any] = {}

    def function(self, launch: Launch) -> tuple[Any, MachineCode]:
        """Return a loaded kernel; raises RuntimeError when it did not compile."""
        code = self.code[launch.kernel]
        if isinstance(code, str):
            raise RuntimeError(code)  # noqa: TRY004
        if launch.kernel not in self.functions:
            module = check(cu.cuModuleLoadData(code.cubin))
            f = check(cu.cuModuleGetFunction(module, code.function.encode()))
            attribute = cu.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            check(cu.cuFuncSetAttribute(f, attribute, code.shared_bytes))
            self.functions[launch.kernel] = f
        return self.functions[launch.kernel], code

    def bind(
        self, draft: CudaDraft, operands: list[torch.Tensor], y: torch.Tensor, kept: list[Any]
    ) -> Callable[[], None]:
        """Return a function that enqueues a draft's launches on the current stream."""
        space = torch.empty(max(16, int(evaluate(draft.workspace_bytes, {}))), device="cuda",
                            dtype=torch.uint8)  # fmt: skip
        kept.append(space)
        calls = [self._call(launch, operands, y, space, kept) for launch in draft.launches]

        def run() -> None:
            stream = torch.cuda.current_stream().cuda_stream
            for config, f, values in calls:
                config.hStream = stream
                check(cu.cuLaunchKernelEx(config, f, values, 0))

        return run

    def _call(
        self, launch: Launch, operands: list[torch.Tensor], y: torch.Tensor, space: torch.Tensor,
        kept: list[Any],
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        f, code = self.function(launch)
        values: list[int] = []
        kinds: list[Any] = []
        for argument in launch.arguments:
            match argument:
                case Scalar(value):
                    values.append(evaluate(value, {}))
                    kinds.append(ctypes.c_int32)
                    continue
                case Read(i):
                    t = operands[i]
                case Write():
                    t = y
                case Scratch():
                    t = space
                case Counters(count):
                    t = torch.zeros(count, device="cuda", dtype=torch.int32)
                case Blob() | Packed():
                    weight = argument.weight if isinstance(argument, Blob) else argument.make()
                    raw = np.ascontiguousarray(weight.array).reshape(-1).view(np.uint8)
                    t = torch.from_numpy(raw).cuda()
            kept.append(t)
            values.append(t.data_ptr())
            kinds.append(ctypes.c_void_p)
        grid = [evaluate(n, {}) for n in launch.grid]
        scratch = torch.empty(max(16, code.scratch_bytes * math.prod(grid)), device="cuda",
                              dtype=torch.uint8)  # fmt: skip
        kept.append(scratch)
        config = cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = code.warps * 32, 1, 1
        config.sharedMemBytes = code.shared_bytes
        if launch.kernel.dependent:
            a = cu.CUlaunchAttribute()
            a.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            a.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [a], 1
        pointers = (scratch.data_ptr(), 0)
        return config, f, ((*values, *pointers), (*kinds, ctypes.c_void_p, ctypes.c_void_p))


def laid_out(t: torch.Tensor, form: Form | None) -> torch.Tensor:
    """Return a copy whose memory has a form."""
    if form == Form.CHANNELS_LAST:
        return torch.movedim(t, 1, -1).contiguous()
    return t.contiguous().clone()


def graph_microseconds(run: Callable[[int], Any], calls: int, repeats: int = 7) -> float:
    """Return microseconds a call, of ``calls`` calls in one CUDA graph; the median of repeats."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(0)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(calls):
                run(i)
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def relative_error(got: torch.Tensor, wanted: torch.Tensor, integer: bool) -> float:
    """Return the error's norm over the result's; of integers whether any is off by two."""
    if integer:
        return float((got.float() - wanted).abs().max() > 1)
    return float((got.float() - wanted).norm() / wanted.norm())


def measure(problem: Problem, runner: Runner) -> list[dict[str, Any]]:
    """Check and time every candidate of a problem."""
    wanted = problem.reference()
    y = problem.node.output.tensor
    copies = 1
    if problem.moved_bytes > LATENCY_BYTES:
        copies = max(2, min(8, math.ceil(ROTATED_BYTES / problem.moved_bytes)))
    calls = 20 if problem.moved_bytes <= LATENCY_BYTES else max(4, copies)
    found = []
    for candidate, draft in problem.candidates:
        row = {"tactic": candidate.tactic, "reads": str(candidate.reads[0]),
               "estimate_us": candidate.estimate_microseconds}  # fmt: skip
        found.append(row)
        try:
            kept: list[Any] = []
            bound = []
            for _ in range(copies):
                inputs = [
                    laid_out(t, f) for t, f in zip(problem.operands, candidate.reads, strict=True)
                ]
                last = candidate.writes[0] == Form.CHANNELS_LAST
                shape = list(y.static_shape)
                shape = [shape[0], *shape[2:], shape[1]] if last else shape
                result = torch.empty(shape, device="cuda", dtype=TORCH[y.dtype])
                kept += [inputs, result]
                bound.append((runner.bind(draft, inputs, result, kept), result))
            bound[0][0]()
            torch.cuda.synchronize()
            got = torch.movedim(bound[0][1], -1, 1) if last else bound[0][1]
            row["error"] = relative_error(got, wanted, y.dtype.is_integer)
            if not row["error"] <= TOLERANCE:
                raise RuntimeError(f"wrong: relative error {row['error']:.2e}")
            row["us"] = graph_microseconds(lambda i, b=bound: b[i % len(b)][0](), calls)
        except RuntimeError as e:
            row["failed"] = str(e).splitlines()[0][:200]
            if any(word in str(e).lower() for word in ("illegal", "misaligned", "launch")):
                raise RuntimeError(f"{candidate.tactic} broke the context") from e
    return found


def report(
    problem: Problem, rows: list[dict[str, Any]], rate: float, memory: float
) -> dict[str, Any]:
    """Print one line and return it as data."""
    timed = sorted((r for r in rows if "us" in r), key=lambda r: r["us"])
    failed = [r for r in rows if "failed" in r]
    floor = max(problem.flops / rate, problem.moved_bytes / memory)
    library = float("nan")
    if problem.library is not None:
        run = problem.library
        library = graph_microseconds(lambda _: run(), 20)
    best = timed[0] if timed else {"us": float("nan"), "tactic": "none"}
    print(
        f"{problem.group:14} {problem.name:32} {best['us']:8.2f} us  floor {floor:7.2f}  "
        f"{problem.flops / best['us'] / 1e6:6.0f} TFLOP/s  torch {library:8.2f}  "
        f"{best['tactic']}" + (f"  [{len(failed)} failed]" if failed else ""),
        flush=True,
    )
    for r in failed[:2]:
        print(f"    {r['tactic']}: {r['failed']}", flush=True)
    return {"group": problem.group, "problem": problem.name, "count": problem.count,
            "floor_us": floor, "torch_us": library, "flops": problem.flops,
            "bytes": problem.moved_bytes, "candidates": rows}  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where everything measured goes")
    parser.add_argument("--only", default="", help="groups or names that contain this")
    parser.add_argument("--most", type=int, default=8, help="candidates of each tactic")
    parser.add_argument("--workers", type=int, default=16, help="processes that compile")
    parser.add_argument("--seconds", type=float, default=230, help="stop starting problems then")
    options = parser.parse_args()
    began = time.perf_counter()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    major, minor = torch.cuda.get_device_capability()
    target = TARGETS[major * 10 + minor]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
    chosen = [make() for make in problems()]
    chosen = [p for p in chosen if options.only in p.group or options.only in p.name]
    for problem in chosen:
        gather(problem, options.most, target)
    requests = [
        launch.kernel for p in chosen for _, draft in p.candidates for launch in draft.launches
    ]
    with Compiler(target.arch, options.workers) as compiler:
        code = dict(compiler.compile(requests))
    print(f"{len(set(requests))} kernels after {time.perf_counter() - began:.0f} s", flush=True)
    runner, results = Runner(code), []
    for problem in chosen:
        if time.perf_counter() - began > options.seconds:
            print("out of time", file=sys.stderr)
            break
        rate = target.rate(problem.node.inputs[0].tensor.dtype)
        rows = measure(problem, runner)
        results.append(report(problem, rows, rate, target.bytes_per_microsecond))
        problem.operands.clear()
    for group in dict.fromkeys(r["group"] for r in results):
        mine = [r for r in results if r["group"] == group]
        best = sum(r["count"] * min((c["us"] for c in r["candidates"] if "us" in c), default=0)
                   for r in mine)  # fmt: skip
        floor = sum(r["count"] * r["floor_us"] for r in mine)
        library = sum(r["count"] * r["torch_us"] for r in mine)
        print(f"{group:14} sum {best:9.1f} us  floor {floor:9.1f}  torch {library:9.1f}")
    if options.json:
        device = torch.cuda.get_device_name()
        text = json.dumps({"device": device, "torch": torch.__version__, "results": results})
        options.json.write_text(text)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
