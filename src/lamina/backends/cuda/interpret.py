"""Runs CUDA kernels on the processor, in Triton's interpreter: slow, for small shapes.

Pointers are addresses of this process.  Triton wants its interpreter switched on before a kernel
is defined, and the interpreter leaves changes to ``triton.language`` behind.  Here every module
that a kernel can reach is changed for the time of one run and then put back, so that compiling
and interpreting work in one process (though not at the same moment).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from types import ModuleType
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.language.extra import cuda as cuda_language
from triton.language.extra import libdevice
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from lamina.backends.cuda.interpret_gluon import stand_ins
from lamina.backends.cuda.interpret_warps import Warps
from lamina.backends.cuda.request import KernelRequest
from lamina.backends.cuda.tensor_maps import Described, Passed
from lamina.backends.cuda.triton_compile import load_function

_LOCK = threading.RLock()
_LANGUAGE = (tl, tl.core, tl.math, tl.standard, tl.random, libdevice, cuda_language)
_CLASSES = (tl.tensor, tl.dtype, tl.core.tensor_descriptor_base, interpreter.InterpreterBuilder)
_DEPENDENT_LAUNCH = (cuda_language.gdc_wait, cuda_language.gdc_launch_dependents)
_CLOCK = cuda_language.globaltimer

# Floats that NumPy does not have: the interpreter keeps them as bits.
_NUMPY_TYPES = {
    tl.bfloat16: np.dtype(ml_dtypes.bfloat16),
    tl.float8e4nv: np.dtype(ml_dtypes.float8_e4m3fn),
    tl.float8e5: np.dtype(ml_dtypes.float8_e5m2),
}


def run_kernel(
    request: KernelRequest, grid: tuple[int, int, int], values: Sequence[Passed]
) -> None:
    """Run every program of a launch; ``values`` are what the parameters are: see ``Passed``."""
    with _LOCK:  # while another kernel runs, modules hold its functions
        _run(load_function(request), request, grid, values)


def _run(
    function: Any, request: KernelRequest, grid: tuple[int, int, int], values: Sequence[Passed]
) -> None:
    warps = Warps()
    with np.errstate(all="ignore"), _interpreting(function, warps):
        body = _interpreted(function).rewrite()
        arguments: dict[str, Any] = dict(request.constants)
        for (name, type_), value in zip(request.parameters, values, strict=True):
            arguments[name] = _argument(type_, value)
        builder = interpreter.interpreter_builder
        builder.set_grid_dim(*grid)
        for index in product(*(range(n) for n in grid)):
            builder.set_grid_idx(*index)
            body(**arguments)
        warps.finish()


def _argument(type_: str, value: Passed) -> Any:
    kind = tl.str_to_ty(type_, None)
    if isinstance(value, Described):
        return _boxes(kind, value)
    if type_.startswith("*"):
        return _pointer(kind, value)
    dtype = interpreter._get_np_dtype(kind)
    return tl.tensor(interpreter.TensorHandle(np.array([value], dtype), kind), kind)


def _pointer(kind: Any, address: int) -> Any:
    return tl.tensor(interpreter.TensorHandle(np.array([address], np.uint64), kind), kind)


def _boxes(kind: Any, value: Described) -> Any:
    """Return what stands for a tensor map; its box may be a part of the parameter's."""
    block, map = kind.block_type, value.map
    assert all(n % m == 0 for n, m in zip(block.shape, map.box, strict=True)), (kind, map)
    strides = [*map.strides[:-1], tl.constexpr(1)]
    base = _pointer(tl.pointer_type(block.element_ty), value.address)
    shape = [tl.constexpr(n) for n in block.shape]
    semantic = interpreter.interpreter_semantic
    return semantic.make_tensor_descriptor(base, list(map.sizes), strides, shape)


class _Function(interpreter.InterpretedFunction):  # type: ignore[misc]
    """A function that interpreted ones call, in the language as it is changed already."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.rewrite()(*args, **kwargs)


_known: dict[Any, _Function] = {}


def _interpreted(function: Any) -> _Function:
    # By the Python function: hashing a Triton function would analyse its dependencies.
    return _known.setdefault(function.fn, _Function(function.fn))


@contextmanager
def _interpreting(function: Any, warps: Warps) -> Iterator[None]:
    """Make a function and all that it reaches interpreted ones; put everything back."""
    saved = [(space, dict(space)) for space in _reached(function)]
    saved_classes = [(c, dict(vars(c))) for c in _CLASSES]
    gluon = stand_ins(warps)
    try:
        interpreter._patch_lang(_LanguageUser)
        for space, before in saved:
            for name, value in before.items():
                if isinstance(value, JITFunction):
                    space[name] = _interpreted(value)
                elif any(value is x for x in _DEPENDENT_LAUNCH):
                    space[name] = _nothing
                elif value is _CLOCK:
                    space[name] = _timer
                else:
                    _replace(space, name, value, gluon)
            for name, value in vars(interpreter).items():
                space.setdefault(name, value)
        for name, value in dict(vars(tl.tensor)).items():
            if isinstance(value, JITFunction):
                setattr(tl.tensor, name, _method(value))
        # NumPy no longer turns arrays of one element into integers.
        tl.tensor.__index__ = lambda self: self.handle.data.item()
        for module in (tl, tl.core):
            vars(module).update(reduce=_reduce, associative_scan=_scan)
            vars(module).update(inline_asm_elementwise=_assembly)
        interpreter.InterpreterBuilder.cast_impl = _cast
        interpreter.InterpreterBuilder.create_fp_to_fp = _cast
        interpreter.InterpreterBuilder.create_bitcast = _bitcast
        interpreter.InterpreterBuilder.create_dot = _dot
        interpreter.InterpreterBuilder.get_all_ones_value = _all_ones
        interpreter.InterpreterBuilder.create_splat = _splat
        vars(libdevice).update(_LIBDEVICE)
        yield
    finally:
        for space, before in saved:
            space.clear()
            space.update(before)
        for owner, before in saved_classes:
            _restore_class(owner, before)


def _replace(
    space: dict[str, Any], name: str, value: Any, pairs: Sequence[tuple[Any, Any]]
) -> None:
    for known, stand_in in pairs:
        if value is known:
            space[name] = stand_in


class _LanguageUser:
    """What the interpreter takes a function's globals from: the modules that it changes."""

    __globals__: ClassVar[dict[str, Any]] = {"tl": tl, "core": tl.core}


def _reached(function: Any) -> list[dict[str, Any]]:
    """Return the names of every module that a function may reach, the language included."""
    found: dict[int, dict[str, Any]] = {id(vars(m)): vars(m) for m in _LANGUAGE}
    stack = [function.fn.__globals__]
    while stack:
        space = stack.pop()
        if id(space) in found:
            continue
        found[id(space)] = space
        for value in space.values():
            if isinstance(value, JITFunction):
                stack.append(value.fn.__globals__)
            elif isinstance(value, ModuleType) and value.__name__.startswith("lamina"):
                stack.append(vars(value))
    return list(found.values())


def _restore_class(owner: Any, before: dict[str, Any]) -> None:
    for name in set(vars(owner)) - set(before):
        delattr(owner, name)
    for name, value in before.items():
        if vars(owner).get(name) is not value:
            setattr(owner, name, value)


def _nothing(*_: Any, **__: Any) -> None:
    """Stand for an instruction that means nothing where launches do not overlap."""


def _timer(**_: Any) -> Any:
    """Stand for the device's clock of nanoseconds."""
    ticks = np.array([time.perf_counter_ns()], np.int64)
    return tl.tensor(interpreter.TensorHandle(ticks, tl.int64), tl.int64)


def _assembly(text: str, _: str, operands: Sequence[Any], **__: Any) -> Any:
    """Stand for an instruction: one that computes a number, or one that only hints."""
    function = _INSTRUCTIONS.get(text.split(" ")[0])
    if function is not None:
        return function(*operands)
    if "prefetch" not in text:
        raise NotImplementedError(f"the interpreter cannot run {text!r}")
    return None


def _method(function: Any) -> Callable[..., Any]:
    interpreted = _interpreted(function)
    return lambda *args, **kwargs: interpreted(*args, **kwargs)


def _numbers(handle: Any) -> Any:
    """Return the array of a handle with a dtype that computes."""
    dtype = _NUMPY_TYPES.get(handle.dtype.scalar)
    return handle.data if dtype is None else handle.data.view(dtype)


def _cast(_: Any, source: Any, target: Any, *__: Any) -> Any:
    """Convert to another type, rounding to nearest even (the interpreter itself truncates)."""
    scalar = target.scalar
    storage = interpreter._get_np_dtype(scalar)
    converted = _numbers(source).astype(_NUMPY_TYPES.get(scalar, storage))
    return interpreter.TensorHandle(converted.view(storage), scalar)


def _bitcast(_: Any, source: Any, target: Any) -> Any:
    data = np.ascontiguousarray(source.data).view(interpreter._get_np_dtype(target))
    return interpreter.TensorHandle(data.reshape(source.data.shape), target.scalar)


def _all_ones(_: Any, type: Any) -> Any:
    """Return a number of which every bit is set (NumPy has no unsigned -1)."""
    dtype = interpreter._get_np_dtype(type)
    ones = True if dtype == np.bool_ else np.array(-1).astype(dtype)
    return interpreter.TensorHandle(np.full(1, ones, dtype), type.scalar)


def _splat(_: Any, type: Any, source: Any) -> Any:
    """Repeat a scalar (the interpreter gives the result of a comparison the compared type)."""
    data = np.full(type.shape, source.data.reshape(-1)[0], source.data.dtype)
    return interpreter.TensorHandle(data, source.dtype.scalar)


def _dot(_: Any, a: Any, b: Any, d: Any, *__: Any) -> Any:
    """Multiply matrices in the type of the sum; factors are not rounded further (as TF32 does)."""
    dtype = d.data.dtype
    product = np.matmul(_numbers(a).astype(dtype), _numbers(b).astype(dtype))
    return interpreter.TensorHandle(product + d.data, d.dtype.scalar)


def _tensor(data: Any, dtype: Any) -> Any:
    kind = tl.block_type(dtype, list(data.shape)) if data.ndim else dtype
    return tl.tensor(interpreter.TensorHandle(np.atleast_1d(data), dtype), kind)


def _combined(combine: Any, left: list[Any], right: list[Any], dtypes: list[Any]) -> list[Any]:
    """Call a combining function on whole arrays."""
    operands = [_tensor(x, t) for x, t in zip((*left, *right), dtypes * 2, strict=True)]
    result = combine(*operands)
    return [r.handle.data for r in (result if isinstance(result, tuple) else (result,))]


def _reduce(input: Any, axis: Any, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    """Join neighbours until one element is left: the order of a tree, as on the device."""
    inputs = input if isinstance(input, tuple | tl.tuple) else (input,)
    dtypes = [x.dtype.scalar for x in inputs]
    axis = getattr(axis, "value", axis)
    rank = inputs[0].handle.data.ndim
    arrays = [x.handle.data for x in inputs]
    flat = [a.reshape(-1) if axis is None else np.moveaxis(a, axis, -1) for a in arrays]
    while flat[0].shape[-1] > 1:  # a power of two
        left, right = [a[..., 0::2] for a in flat], [a[..., 1::2] for a in flat]
        flat = _combined(combine_fn, left, right, dtypes)
    reduced = [a[..., 0] for a in flat]
    if getattr(keep_dims, "value", keep_dims):
        axes = tuple(range(rank)) if axis is None else axis
        reduced = [np.expand_dims(a, axes) for a in reduced]
    results = tuple(_tensor(np.asarray(a), t) for a, t in zip(reduced, dtypes, strict=True))
    return results if isinstance(input, tuple | tl.tuple) else results[0]


def _scan(input: Any, axis: Any, combine_fn: Any, reverse: bool = False, **_: Any) -> Any:
    """Join each element with those before it, in doubling steps."""
    inputs = input if isinstance(input, tuple | tl.tuple) else (input,)
    dtypes = [x.dtype.scalar for x in inputs]
    axis, backward = getattr(axis, "value", axis), getattr(reverse, "value", reverse)
    arrays = [np.moveaxis(x.handle.data, axis, -1) for x in inputs]
    if backward:
        arrays = [a[..., ::-1] for a in arrays]
    step = 1
    while step < arrays[0].shape[-1]:
        shifted = [np.roll(a, step, axis=-1) for a in arrays]
        joined = _combined(combine_fn, shifted, arrays, dtypes)
        whole = zip(arrays, joined, strict=True)
        arrays = [np.concatenate((a[..., :step], b[..., step:]), axis=-1) for a, b in whole]
        step *= 2
    if backward:
        arrays = [a[..., ::-1] for a in arrays]
    moved = [np.ascontiguousarray(np.moveaxis(a, -1, axis)) for a in arrays]
    results = tuple(_tensor(a, t) for a, t in zip(moved, dtypes, strict=True))
    return results if isinstance(input, tuple | tl.tuple) else results[0]


def _library(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the device's mathematics library, on whole arrays."""

    def call(*operands: Any) -> Any:
        given = [x for x in operands if isinstance(x, tl.tensor)]
        dtype = given[0].dtype.scalar
        arrays = [x.handle.data if isinstance(x, tl.tensor) else x for x in operands]
        data = np.asarray(function(*arrays)).astype(given[0].handle.data.dtype)
        return tl.tensor(interpreter.TensorHandle(data, dtype), given[0].type)

    return call


def _halves(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of numbers of 16 bits, on whole arrays."""

    def call(*operands: Any) -> Any:
        data = function(*(_numbers(x.handle) for x in operands))
        first = operands[0]
        data = data.view(first.handle.data.dtype)
        return tl.tensor(interpreter.TensorHandle(data, first.dtype.scalar), first.type)

    return call


_LIBDEVICE = {
    "tan": _library(np.tan), "asin": _library(np.arcsin), "acos": _library(np.arccos),
    "atan": _library(np.arctan), "sinh": _library(np.sinh), "cosh": _library(np.cosh),
    "tanh": _library(np.tanh), "asinh": _library(np.arcsinh), "acosh": _library(np.arccosh),
    "atanh": _library(np.arctanh), "expm1": _library(np.expm1), "log1p": _library(np.log1p),
    "exp": _library(np.exp), "log": _library(np.log), "log2": _library(np.log2),
    "log10": _library(np.log10), "exp2": _library(np.exp2), "sin": _library(np.sin),
    "cos": _library(np.cos), "pow": _library(np.power), "fmod": _library(np.fmod),
    "trunc": _library(np.trunc), "rint": _library(np.rint), "copysign": _library(np.copysign),
    "floor": _library(np.floor), "ceil": _library(np.ceil), "sqrt": _library(np.sqrt),
    "rsqrt": _library(lambda x: 1 / np.sqrt(x)), "abs": _library(np.abs),
    "erf": _library(np.vectorize(math.erf)), "fast_tanhf": _library(np.tanh),
    "fast_expf": _library(np.exp), "div_rn": _library(np.divide), "sqrt_rn": _library(np.sqrt),
}  # fmt: skip
"""What kernels use of the device's mathematics library."""

_INSTRUCTIONS = {
    "ex2.approx.ftz.f32": _library(np.exp2),
    "rcp.approx.ftz.f32": _library(np.reciprocal),
    "max.NaN.f16x2": _halves(np.maximum),
    "max.NaN.bf16x2": _halves(np.maximum),
    "min.NaN.f16x2": _halves(np.minimum),
    "min.NaN.bf16x2": _halves(np.minimum),
}
"""Machine instructions that kernels use by name; results that round to subnormals stay."""
