"""Loading, errors, threads, ownership."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from lamina.backends.cpu.onednn import library, packing, primitives
from lamina.backends.cpu.onednn.attributes import Attributes, BinaryPostOp, EltwisePostOp
from lamina.backends.cpu.onednn.convolution import Convolution
from lamina.backends.cpu.onednn.elementwise import Eltwise
from lamina.backends.cpu.onednn.matmul import MatMul
from lamina.backends.cpu.onednn.memory import Layout
from lamina.errors import DeviceError, InputError


def matmul_spec(m=4, k=8, n=16):
    return MatMul(Layout.dense((m, k)), Layout.any((k, n)), Layout.dense((m, n)))


def test_version_and_instruction_set(onednn):
    assert onednn.version >= (3, 0, 0)
    assert onednn.isa.startswith(("sse41", "avx"))
    assert onednn.has_exact_int8 == any(s in onednn.isa for s in ("vnni", "bf16", "fp16", "amx"))
    assert onednn.has_bf16 or not onednn.has_native_bf16
    assert onednn.address("primitive_execute") != onednn.address("memory_set_data_handle")
    assert onednn.openmp_address("GOMP_parallel")


def test_each_path_is_loaded_once(onednn):
    assert library.load() is onednn
    given = library.load(onednn.path)
    assert given.path == onednn.path and library.load(onednn.path) is given


def test_missing_library_names_what_to_install(tmp_path):
    with pytest.raises(DeviceError, match=r"nowhere\.so") as caught:
        library.load(tmp_path / "nowhere.so")
    assert "apt-get install libgomp1" in str(caught.value)


def test_missing_distribution_names_it(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(DeviceError, match="onednn-cpu-gomp is not installed") as caught:
        library.installed_path()
    assert "pip install onednn-cpu-gomp" in str(caught.value)


def test_damaged_distribution_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    folder = tmp_path / "onednn_cpu_gomp-2023.2.0.dist-info"
    folder.mkdir()
    (folder / "RECORD").write_text("other.so,,\n")
    with pytest.raises(DeviceError, match=r"lists no libdnnl\.so\.3"):
        library.installed_path()
    (folder / "RECORD").write_text("lib/libdnnl.so.3,sha256=x,1\n")
    with pytest.raises(DeviceError, match="but the file is not there"):
        library.installed_path()


def test_missing_openmp_names_it(monkeypatch, onednn):
    monkeypatch.setattr(library, "OPENMP_NAME", "libgomp-not-here.so.1")
    with pytest.raises(DeviceError, match="libgomp-not-here") as caught:
        library.Library(onednn.path)
    assert "apt-get install libgomp1" in str(caught.value)


def test_another_library_is_refused():
    with pytest.raises(DeviceError, match="does not export dnnl_version"):
        library.Library("libgomp.so.1")


def test_refusals_name_call_and_status(onednn):
    spec = MatMul(Layout.dense((4, 8)), Layout.dense((7, 16)), Layout.dense((4, 16)))
    with pytest.raises(library.OneDnnError, match="dnnl_matmul_primitive_desc_create") as caught:
        primitives.create(onednn, spec)
    assert caught.value.status == "invalid arguments"
    double = MatMul(*(Layout.dense(dims, "f64") for dims in ((4, 8), (8, 16), (4, 16))))
    with pytest.raises(library.OneDnnError) as caught:
        primitives.create(onednn, double)
    assert caught.value.status == "unimplemented"
    unknown = Eltwise("no such function", Layout.dense((4,)), Layout.dense((4,)))
    with pytest.raises(DeviceError, match="no such function"):
        primitives.create(onednn, unknown)


def test_alternatives_are_tried_until_the_last(onednn, rng, assert_close):
    a, b = (rng.standard_normal((8, 8)).astype(np.float32) for _ in range(2))
    names = []
    with pytest.raises(library.OneDnnError) as caught:
        for alternative in range(20):
            spec = replace(matmul_spec(8, 8, 8), attributes=Attributes(alternative=alternative))
            primitive = primitives.create(onednn, spec)
            names.append(primitive.implementation)
            out = np.zeros((8, 8), np.float32)
            primitive.execute({"src": a, "weights": packing.pack(primitive, b), "dst": out})
            assert_close(out, a.astype(np.float64) @ b, 1e-5)
    assert caught.value.status == "last implementation reached"
    assert len(names) > 1 and "ref" in names[-1]


def test_missing_and_small_buffers_are_refused(onednn, rng):
    primitive = primitives.create(onednn, matmul_spec())
    a = rng.standard_normal((4, 8)).astype(np.float32)
    b = packing.pack(primitive, rng.standard_normal((8, 16)).astype(np.float32))
    with pytest.raises(InputError, match="argument dst"):
        primitive.execute({"src": a, "weights": b})
    with pytest.raises(InputError, match="dst has 252 bytes but 256 are needed"):
        primitive.execute({"src": a, "weights": b, "dst": np.empty(63, np.float32)})
    with pytest.raises(InputError, match=r"weights is of shape \(8, 16\)"):
        packing.pack(primitive, a)


def test_thread_count_is_set_for_the_block(onednn):
    before = onednn.threads
    with onednn.using_threads(3):
        assert onednn.threads == 3
    assert onednn.threads == before


def test_native_execution_through_raw_pointers(onednn, rng, assert_close):
    """The sequence that compiled step lists perform: re-point memory, execute."""
    primitive = primitives.create(onednn, matmul_spec())
    a = rng.standard_normal((4, 8)).astype(np.float32)
    b = rng.standard_normal((8, 16)).astype(np.float32)
    arrays = {"src": a, "weights": packing.pack(primitive, b), "dst": np.zeros((4, 16), "f")}
    scratchpad = np.empty(primitive.scratchpad_bytes, np.uint8)
    arguments, stream = primitive.arguments(), onednn.stream()
    point = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(
        onednn.address("memory_set_data_handle")
    )
    for name, memory in arguments.memory.items():
        assert point(memory, arrays.get(name, scratchpad).ctypes.data) == 0
    execute = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p
    )(onednn.address("primitive_execute"))
    assert execute(primitive.pointer, stream.pointer, arguments.count, arguments.array) == 0
    assert_close(arrays["dst"], a.astype(np.float64) @ b, 1e-5)


def test_one_primitive_runs_in_many_threads(onednn, rng, assert_close):
    primitive = primitives.create(onednn, matmul_spec(64, 64, 64))
    weights = rng.standard_normal((64, 64)).astype(np.float32)
    packed = packing.pack(primitive, weights)
    inputs = [rng.standard_normal((64, 64)).astype(np.float32) for _ in range(4)]
    outputs = [np.zeros((64, 64), np.float32) for _ in inputs]

    def work(i):
        onednn.set_threads(1)
        for _ in range(50):
            primitive.execute({"src": inputs[i], "weights": packed, "dst": outputs[i]})
            other = primitives.create(onednn, matmul_spec(5 + i, 8, 16))
            assert other.layout("dst").dims == (5 + i, 16)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, y in zip(inputs, outputs, strict=True):
        assert_close(y, x.astype(np.float64) @ weights, 1e-5)


def resident_bytes():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


def test_creating_many_primitives_does_not_leak(onednn):
    shape = (1, 16, 8, 8)
    ops = (EltwisePostOp("relu"), BinaryPostOp("add", Layout.channels_last(shape)))
    spec = Convolution(
        Layout.channels_last(shape), Layout.any((16, 16, 3, 3)), Layout.channels_last(shape),
        Layout.dense((16,)), padding_begin=(1, 1), padding_end=(1, 1), attributes=Attributes(ops),
    )  # fmt: skip

    def churn(times):
        for _ in range(times):
            primitive = primitives.create(onednn, spec)
            primitive.arguments()
            primitive.layout("weights")
            onednn.stream()
        gc.collect()

    churn(300)
    before = resident_bytes()
    churn(3000)
    # One leaked handle per round would be at least 3000 * 300 bytes; a primitive far more.
    assert resident_bytes() - before < 700_000


def test_failed_creation_does_not_leak(onednn):
    spec = MatMul(Layout.dense((4, 8)), Layout.dense((7, 16)), Layout.dense((4, 16)))

    def churn(times):
        for _ in range(times):
            with pytest.raises(library.OneDnnError):
                primitives.create(onednn, spec)

    churn(300)
    before = resident_bytes()
    churn(3000)
    assert resident_bytes() - before < 700_000


EXIT_SCRIPT = """
from lamina.backends.cpu.onednn import library, primitives
from lamina.backends.cpu.onednn.elementwise import Eltwise
from lamina.backends.cpu.onednn.matmul import MatMul
from lamina.backends.cpu.onednn.memory import Layout
onednn = library.load()
spec = MatMul(Layout.dense((4, 8)), Layout.any((8, 16)), Layout.dense((4, 16)))
kept = primitives.create(onednn, spec)
arguments, stream = kept.arguments(), onednn.stream()
import sys
loaded = [m for m in ("onnx", "llvmlite", "torch") if m in sys.modules]
assert not loaded, loaded
"""


def test_interpreter_exits_cleanly_with_live_primitives():
    done = subprocess.run(
        [sys.executable, "-c", EXIT_SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
