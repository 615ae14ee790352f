"""Inputs and outputs in the memory layouts that ``ITensor.allowed_formats`` asks for.

The graph that is built takes and gives memory as row-major arrays, :meth:`Format.physical`; a
movement behind each input and before each output turns them into tensors.  Where the layout is one
that kernels work on, that movement is a view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lamina import ops
from lamina.builder import Progress, build_plan
from lamina.config import BuildConfig
from lamina.errors import BuildError, ConfigError
from lamina.ir.dims import evaluate, symbols
from lamina.ir.graph import Graph, Value, emit
from lamina.ir.loc import Loc
from lamina.passes.specialize import copy
from lamina.plan.plan import Plan, Step
from lamina.tensorrt.engine.formats import FORMATS, Format
from lamina.tensorrt.engine.layers import sources
from lamina.tensorrt.enums import TensorFormat
from lamina.tensorrt.metadata import Range, TensorInfo
from lamina.tensorrt.network.state import NetworkState
from lamina.tensorrt.network.tensor import ITensor
from lamina.tensorrt.option import names

_COPY = "Reformatting CopyNode for"
_KERNELS = (
    "HWC", "DHWC", "CHW16", "HWC8", "DHWC8", "HWC16", "LINEAR", "CHW2", "CHW4", "CHW32", "CDHW32",
)  # fmt: skip
"""What kernels may read as it is first; row-major before what they never do."""

_ROWS = ("LINEAR", *(name for name in _KERNELS if name != "LINEAR"))


def possible_formats(state: NetworkState, tensors: Sequence[TensorInfo]) -> list[dict[str, Format]]:
    """Return the formats of inputs and outputs that are not row-major, by name.

    Where tensors allow several there are two choices: row-major and kernels' own.  Raises
    ConfigError, naming the tensor, for formats that it cannot have.
    """
    rows, own = (_formats(state, tensors, order) for order in (_ROWS, _KERNELS))
    return [rows] if rows == own else [rows, own]


def _formats(
    state: NetworkState, tensors: Sequence[TensorInfo], order: Sequence[str]
) -> dict[str, Format]:
    ends: dict[str, ITensor] = {t._name: t for t in (*state.inputs, *state.outputs)}
    found = {}
    for info in tensors:
        tensor = ends.get(info.name)
        if tensor is None:
            continue
        allowed = names(TensorFormat, tensor._formats)
        name = next((f for f in order if f in allowed), None)
        if name is None:
            raise ConfigError(
                f"{info.name!r} allows the formats {sorted(allowed)} alone, which are a DLA's",
                hint="there is no DLA: allow LINEAR or another format",
            )
        if not FORMATS[name].is_linear:
            _check(info, name, rank=len(info.shape) + state.implicit_batch)
            found[info.name] = FORMATS[name]
    return found


def _check(info: TensorInfo, name: str, rank: int) -> None:
    axis = FORMATS[name].axis(rank)
    if axis < 0:
        raise ConfigError(f"{info.name!r} has {rank} axes, too few for the format {name}")
    channels = info.shape[axis - rank]
    if channels < 0 and FORMATS[name].components > 1:
        raise ConfigError(
            f"{info.name!r} has a dynamic number of channels, which cannot be laid out as {name}",
            hint="give the channels a fixed size, or allow LINEAR or HWC",
        )
    if info.location == "HOST":
        raise ConfigError(f"{info.name!r} holds sizes: such tensors are LINEAR, not {name}")


def described(info: TensorInfo, formats: Mapping[str, Format]) -> TensorInfo:
    """Return what the engine says about a tensor, its format included."""
    chosen = formats.get(info.name)
    if chosen is None:
        return info
    name = next(n for n, f in FORMATS.items() if f is chosen)
    axis = chosen.axis(len(info.shape)) if chosen.components > 1 else -1
    return replace(info, formats=(name,), vectorized_dim=axis)


def apply_formats(
    graph: Graph, formats: Mapping[str, Format], shapes: Mapping[str, Range]
) -> dict[str, Range]:
    """Let a graph take and give memory in these formats, in place; return the memory's shapes."""
    for i, v in enumerate(graph.inputs):
        if (format := formats.get(v.name)) is not None:
            _take(graph, i, v, format)
    for i, (v, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        if (format := formats.get(name)) is not None:
            loc = Loc(f"{_COPY} Output Tensor {name}")
            graph.outputs[i] = _moved(v, format, loc, packs=True)
    return physical_shapes(formats, shapes)


def physical_shapes(formats: Mapping[str, Format], shapes: Mapping[str, Range]) -> dict[str, Range]:
    """Return the shapes of the memory of inputs."""
    result = dict(shapes)
    for name, ranges in shapes.items():
        if (format := formats.get(name)) is not None:
            low, opt, high = (format.physical(shape) for shape in ranges)
            result[name] = (low, opt, high)  # type: ignore[assignment]
    return result


def _take(graph: Graph, index: int, v: Value, format: Format) -> None:
    memory = Value(v.tensor.with_shape(format.physical(v.tensor.shape)), v.name, v.loc)
    loc = Loc(f"{_COPY} Input Tensor {v.name}")
    channels = v.tensor.shape[format.axis(v.tensor.rank)]
    tensor = _moved(memory, format, loc, packs=False, channels=channels)
    graph.replace(v, tensor)
    graph.inputs[index] = memory


def _moved(source: Value, format: Format, loc: Loc, *, packs: bool, channels: object = 0) -> Value:
    """Return memory for a tensor (``packs``), or the tensor in memory.

    A single transpose stays one, which the passes know; others are a region, one copy at most.
    """
    body = Graph()
    inner = body.input("i0", source.type, loc)
    if packs:
        inner = _pack(inner, format, loc)
    else:
        inner = _unpack(inner, format, channels, loc)
    body.output(inner, "o0")
    nodes = list(body.nodes())
    if len(nodes) == 1:
        return emit(nodes[0].op, (source,), loc=loc)
    return emit(ops.Region(body=body), (source,), loc=loc)


def _unpack(x: Value, format: Format, channels: object, loc: Loc) -> Value:
    shape = x.tensor.shape
    last = x.tensor.rank - 1
    if format.last:
        axis = format.axis(last + 1)
        x = _cut(x, last, channels, loc)
        return emit(ops.Transpose(perm=(*range(axis), last, *range(axis, last))), (x,), loc=loc)
    axis = format.axis(last)
    perm = (*range(axis + 1), last, *range(axis + 1, last))
    x = emit(ops.Transpose(perm=perm), (x,), loc=loc)
    whole = (*shape[:axis], shape[axis] * format.components, *shape[axis + 1 : last])
    return _cut(emit(ops.Reshape(shape=whole), (x,), loc=loc), axis, channels, loc)


def _cut(x: Value, axis: int, size: object, loc: Loc) -> Value:
    """Return the first ``size`` elements along an axis: what lies behind them is padding."""
    shape = x.tensor.shape
    if shape[axis] == size:
        return x
    sizes = tuple(size if a == axis else d for a, d in enumerate(shape))
    rank = len(shape)
    cut = ops.Slice(starts=(0,) * rank, sizes=sizes, steps=(1,) * rank)  # type: ignore[arg-type]
    return emit(cut, (x,), loc=loc)


def _pack(x: Value, format: Format, loc: Loc) -> Value:
    rank = x.tensor.rank
    axis = format.axis(rank)
    channels = x.tensor.shape[axis]
    memory = format.physical(x.tensor.shape)
    whole = memory[-1] if format.last else memory[axis] * format.components
    if whole != channels:
        ends = tuple(whole - channels if a == axis else 0 for a in range(rank))
        x = emit(ops.Pad(pads_begin=(0,) * rank, pads_end=ends), (x,), loc=loc)
    if format.last:
        perm = (*range(axis), *range(axis + 1, rank), axis)
        return emit(ops.Transpose(perm=perm), (x,), loc=loc)
    shape = x.tensor.shape
    split = (*shape[:axis], memory[axis], format.components, *shape[axis + 1 :])
    x = emit(ops.Reshape(shape=split), (x,), loc=loc)
    perm = (*range(axis + 1), *range(axis + 2, rank + 1), axis + 1)
    return emit(ops.Transpose(perm=perm), (x,), loc=loc)


def fewest_copies(
    choices: Sequence[dict[str, Format]],
    graph: Graph,
    options: BuildConfig,
    monitor: Progress | None,
) -> dict[str, Format]:
    """Return the formats with which the fewest bytes are copied into other layouts."""
    if len(choices) == 1:
        return choices[0]
    sizes = []
    for formats in choices:
        own = copy(graph)
        shapes = apply_formats(own, formats, options.shapes)
        sizes.append(_copied_bytes(build_plan(own, replace(options, shapes=shapes), monitor)))
    return choices[sizes.index(min(sizes))]


def _copied_bytes(plan: Plan) -> int:
    """Return the bytes that steps write which do nothing but change a layout."""
    likely = {symbol: opt for symbol, _, opt, _ in plan.ranges}
    program = plan.sections[0].program
    total = 0
    for step in program.steps:
        if step.name == "reorder" or _is_copy(step):
            written = [program.tensors[t].size_bytes for t in step.writes]
            total += sum(evaluate(n, likely) for n in written if set(symbols(n)) <= likely.keys())
    return total


def _is_copy(step: Step) -> bool:
    layers = sources(step.loc)
    return bool(layers) and all(layer.startswith(_COPY) for layer in layers)


def copy_names(formats: Mapping[str, Format]) -> tuple[str, ...]:
    """Return the names of the nodes that :func:`apply_formats` adds."""
    return tuple(f"{_COPY} {end} Tensor {name}" for name in formats for end in ("Input", "Output"))


def refuse_copies(plan: Plan) -> None:
    """Raise BuildError when a step does nothing but bring an input or output into its format."""
    for section in plan.sections:
        for step in section.program.steps:
            if _is_copy(step):
                raise BuildError(
                    f"DIRECT_IO is set, but {sources(step.loc)[0]!r} cannot be left out",
                    hint="allow other formats for the tensor, or clear the flag DIRECT_IO",
                )
