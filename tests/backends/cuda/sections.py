"""Small sections for the CUDA runtime, written by hand, and devices that run them in NumPy.

The "machine code" of a kernel is its name in :data:`KERNELS`, a function of a grid and values.
"""

from __future__ import annotations

import ctypes
import json
from collections import Counter

import numpy as np

from lamina.backends.cuda.arrays import DeviceArray
from lamina.backends.cuda.device import current
from lamina.backends.cuda.driver import CudaDriver
from lamina.backends.cuda.memory import Memory, Stream
from lamina.backends.cuda.resources import RunOptions
from lamina.backends.cuda.simulated import SimulatedDevice
from lamina.ir.dims import sym
from lamina.ir.parse import parse_type
from lamina.ir.types import DType, TensorType
from lamina.ir.weight import Weight
from lamina.plan.plan import CodeImage, Place, Plan, Port, Program, Section, Step, StepKind, Tensor
from lamina.runtime.context import ExecutionContext

TARGET = (("arch", "sm_90"), ("device", "cuda"), ("driver", "13000"))


def floats(address, n):
    assert address % 16 == 0, "kernels count on 16-byte alignment"
    return np.ctypeslib.as_array((ctypes.c_float * n).from_address(address))


def _double_plus(grid, values):
    x, y, n, plus = values
    floats(y, n)[:] = floats(x, n) * 2 + plus


def _add(grid, values):
    x, y, z, n = values
    floats(z, n)[:] = floats(x, n) + floats(y, n)


def _add_through_workspace(grid, values):
    x, y, z, w, n = values
    floats(w, n)[:] = floats(x, n)
    floats(z, n)[:] = floats(w, n) + floats(y, n)


def _count(grid, values):
    x, y, counters, n = values
    numbers = np.ctypeslib.as_array((ctypes.c_int32 * 3).from_address(counters))
    floats(y, n)[:] = floats(x, n) + numbers.sum()
    numbers[:] += 1
    numbers[:] = 0


def _last_greater(grid, values):
    x, y, limit = values
    ctypes.c_bool.from_address(y).value = bool(floats(x, 1)[0] < limit)


KERNELS = {
    "double_plus": _double_plus,
    "add": _add,
    "add_through_workspace": _add_through_workspace,
    "count": _count,
    "less": _last_greater,
}


def compile_kernel(text):
    return KERNELS[text]


class Net:
    """Collects the tensors and steps of a program; methods return numbers of tensors."""

    def __init__(self):
        self.tensors, self.steps, self.inputs, self.outputs, self.blobs = [], [], [], [], []
        self.kernels = {}

    def _tensor(self, name, type, place, index=0, offset=0):
        type = parse_type(type) if isinstance(type, str) else type
        size = type.size * type.dtype.itemsize if isinstance(type, TensorType) else 0
        if place is Place.HOST:
            size = 0
        self.tensors.append(
            Tensor(
                name=name,
                type=type,
                layout="dense",
                place=place,
                index=index,
                offset=offset,
                size_bytes=size,
            )
        )
        return len(self.tensors) - 1

    def input(self, name, type):
        tensor = self._tensor(name, type, Place.INPUT, len(self.inputs))
        self.inputs.append(Port(name=name, type=self.tensors[tensor].type, tensor=tensor))
        return tensor

    def output(self, name, type):
        tensor = self._tensor(name, type, Place.OUTPUT, len(self.outputs))
        return self.result(name, tensor)

    def result(self, name, tensor):
        self.outputs.append(Port(name=name, type=self.tensors[tensor].type, tensor=tensor))
        return tensor

    def arena(self, name, type):
        return self._tensor(name, type, Place.ARENA)

    def host(self, name, type):
        return self._tensor(name, type, Place.HOST)

    def view(self, name, base, offset, type):
        return self._tensor(name, type, Place.VIEW, base, offset)

    def constant(self, name, array):
        self.blobs.append(Weight(array, name))
        types = {"float32": "f32", "int64": "i64"}
        type = f"{types[str(array.dtype)]}[{','.join(map(str, array.shape))}]"
        return self._tensor(name, type, Place.CONSTANT, len(self.blobs) - 1)

    def kernel(self, kernel, reads, writes, scalars, /, *, counters=0, workspace=0, **options):
        """Add a step with one launch: operands, results, workspace, counters, scalars."""
        tensors = [*reads, *writes]
        arguments = [f"t{i}" for i in range(len(tensors))]
        arguments += ["w"] if workspace else []
        arguments += [f"c0:{counters}"] if counters else []
        arguments += [f"s{i}" for i in range(len(scalars))]
        launch = {
            "kernel": kernel,
            "function": kernel,
            "grid": [1, 1, 1],
            "warps": 4,
            "shared": 0,
            "dependent": False,
            "scratch": 0,
            "arguments": arguments,
        }
        launch |= options
        self.kernels.setdefault(kernel, kernel.encode())
        self.step(
            StepKind.KERNEL,
            reads,
            writes,
            name=f"{kernel}{len(self.steps)}",
            tactic=f"test-{kernel}",
            arguments=tuple(tensors),
            symbols=(kernel,),
            parameters=tuple(scalars),
            workspace_bytes=workspace,
            spec=json.dumps({"launches": [launch]}),
        )

    def step(self, kind, reads, writes, **rest):
        rest = {"name": f"{kind.value}{len(self.steps)}", "tactic": "", **rest}
        loc = f"node {len(self.steps)}"
        self.steps.append(
            Step(kind=kind, loc=loc, reads=tuple(reads), writes=tuple(writes), **rest)
        )

    def program(self):
        return Program(
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            tensors=tuple(self.tensors),
            steps=tuple(self.steps),
        )

    def section(self, halves=(), target=TARGET, more=()):
        kernels = dict(self.kernels)
        for net in more:
            kernels |= net.kernels
        symbols, code = {}, b""
        for name, text in sorted(kernels.items()):
            symbols[name] = len(code)
            code += text + b"\0" * (64 - len(text) % 64)
        return Section(
            target=target,
            program=self.program(),
            image=CodeImage(code=code, symbols=symbols),
            blobs=tuple(self.blobs),
            halves=tuple(halves),
        )


def plan_of(section, ranges=()):
    return Plan(graph="", weights={}, config=(), ranges=tuple(ranges), sections=(section,))


def device(**options):
    return SimulatedDevice(compile_kernel, **options)


def context(section, on=None, ranges=(), options=None, allocator=None):
    """Return an execution context of a section on a simulated device."""
    driver = CudaDriver(on or device(), options=options or RunOptions(), allocator=allocator)
    loaded = driver.load(section)
    program = section.program
    plan = plan_of(section, ranges)
    return ExecutionContext(plan, program.inputs, program.outputs, loaded.runner())


def chain(n=8, steps=3):
    """y = x doubled plus 1, ``steps`` times."""
    net = Net()
    size = n if isinstance(n, int) else sym(n)
    at = net.input("x", f"f32[{n}]")
    for i in range(steps):
        last = i == steps - 1
        to = net.output("y", f"f32[{n}]") if last else net.arena(f"a{i}", f"f32[{n}]")
        net.kernel("double_plus", [at], [to], [size, 1])
        at = to
    return net.section()


def chained(x, steps=3):
    for _ in range(steps):
        x = x * 2 + 1
    return x


class Recorder(SimulatedDevice):
    """A simulated device that counts what it is asked for; ``fail`` makes a call fail once."""

    def __init__(self, **options):
        super().__init__(compile_kernel, **options)
        self.calls = Counter()
        self.updated = []
        self.edges = []
        self.fail = {}

    def _called(self, name):
        self.calls[name] += 1
        error = self.fail.pop(name, None)
        if error is not None:
            raise error

    def instantiate(self, graph):
        self._called("instantiate")
        return super().instantiate(graph)

    def launch_graph(self, executable, stream):
        self._called("launch_graph")
        super().launch_graph(executable, stream)

    def update_kernel(self, executable, node, launch):
        self._called("update_kernel")
        self.updated.append(node)
        super().update_kernel(executable, node, launch)

    def add_kernel(self, graph, launch, after, *, programmatic):
        self._called("add_kernel")
        self.edges.append((tuple(after), programmatic))
        return super().add_kernel(graph, launch, after, programmatic=programmatic)

    def allocate(self, size_bytes, stream):
        self._called("allocate")
        return super().allocate(size_bytes, stream)

    def synchronize(self, stream):
        self._called("synchronize")
        super().synchronize(stream)

    def copy(self, destination, source, size_bytes, stream):
        self._called("copy")
        super().copy(destination, source, size_bytes, stream)

    def destroy_graph(self, graph, executable):
        self._called("destroy_graph")
        super().destroy_graph(graph, executable)


def on_device(device, array, offset=0):
    """Return a copy of an array in the memory of a device, ``offset`` bytes behind a boundary."""
    dense = np.ascontiguousarray(array)
    with current(device):
        stream = Stream(device)
        buffer = Memory(device).buffer(array.nbytes + offset, "a test", stream)
        device.copy(buffer.pointer + offset, dense.ctypes.data, dense.nbytes, stream.handle)
        device.synchronize(stream.handle)
    pointer = buffer.pointer + offset
    return DeviceArray(device, pointer, DType.of(array.dtype), array.shape, buffer)


class Foreign:
    """An array of another library, as the CUDA array interface describes it."""

    def __init__(self, array, **changes):
        self.shape, self._array, self._changes = array.shape, array, changes

    @property
    def __cuda_array_interface__(self):
        return {**self._array.__cuda_array_interface__, **self._changes}


class TorchLike(Foreign):
    """A tensor that tells its address cheaply and counts how often more is asked."""

    asked = 0

    def data_ptr(self):
        return self._array.pointer

    @property
    def __cuda_array_interface__(self):
        self.asked += 1
        return {**self._array.__cuda_array_interface__, **self._changes}


class Capsules:
    """An array of another library that speaks DLPack only."""

    def __init__(self, array):
        self.shape, self._array = array.shape, array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()
