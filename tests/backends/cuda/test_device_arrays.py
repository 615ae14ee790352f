"""Arrays in device memory: used in place, refused with a reason, handed to other libraries."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest
from tests.backends.cuda.sections import (
    Capsules,
    Foreign,
    Recorder,
    TorchLike,
    chain,
    chained,
    context,
    device,
    on_device,
)

from lamina.backends.cuda import dlpack
from lamina.backends.cuda.arrays import DeviceArray
from lamina.errors import InputError
from lamina.ir.types import DType

X = np.arange(8, dtype=np.float32)
KINDS = {"own": lambda a: a, "interface": Foreign, "torch": TorchLike, "dlpack": Capsules}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_read_in_place_and_results_stay_on_the_device(kind):
    on = Recorder()
    runs, x = context(chain(), on), on_device(on, X)
    given = KINDS[kind](x)
    copies = on.calls["copy"]
    for _ in range(4):
        y = runs.run({"x": given})["y"]
        assert type(y) is DeviceArray and y.stream is None and on.calls["copy"] == copies
        np.testing.assert_array_equal(y.numpy(), chained(X))
        copies = on.calls["copy"]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_written_where_the_caller_says(kind):
    on = Recorder()
    runs, x, y = context(chain(), on), on_device(on, X), on_device(on, np.zeros_like(X))
    out = KINDS[kind](y)
    for scale in (1, 2, 3, 4):
        x = on_device(on, X * scale)
        assert runs.run({"x": x}, out={"y": out})["y"] is out
        np.testing.assert_array_equal(y.numpy(), chained(X * scale))


def test_a_host_result_of_a_device_array_and_the_other_way_round():
    on = device()
    runs, y = context(chain(), on), np.zeros(8, np.float32)
    for _ in range(3):
        assert runs.run({"x": on_device(on, X)}, out={"y": y})["y"] is y
        np.testing.assert_array_equal(y, chained(X))
        there = on_device(on, np.zeros_like(X))
        runs.run({"x": X}, out={"y": there})
        np.testing.assert_array_equal(there.numpy(), chained(X))


def test_misaligned_arrays_are_copied():
    on = device()
    runs = context(chain(), on)
    for _ in range(3):
        x, y = on_device(on, X, offset=4), on_device(on, np.zeros_like(X), offset=8)
        runs.run({"x": x}, out={"y": y})
        np.testing.assert_array_equal(y.numpy(), chained(X))


def test_the_same_arrays_again_are_one_graph_launch():
    on = Recorder()
    runs, x, y = context(chain(), on), on_device(on, X), on_device(on, np.zeros_like(X))
    given = TorchLike(x)
    for _ in range(3):
        runs.run({"x": given}, out={"y": y})
    asked, before = given.asked, dict(on.calls)
    for _ in range(5):
        runs.run({"x": given}, out={"y": y})
    done = {name: n - before.get(name, 0) for name, n in on.calls.items()}
    assert {k: n for k, n in done.items() if n} == {"launch_graph": 5, "synchronize": 5}
    assert given.asked == asked
    runs.run({"x": given}, out={"y": y}, stream=99)
    before = dict(on.calls)
    runs.run({"x": given}, out={"y": y}, stream=99)
    done = {name: n - before.get(name, 0) for name, n in on.calls.items()}
    assert {k: n for k, n in done.items() if n} == {"launch_graph": 1}
    assert y.stream == 99


def test_a_tensor_that_moved_is_noticed():
    on = device()
    runs, y = context(chain(), on), on_device(on, np.zeros_like(X))
    given = TorchLike(on_device(on, X))
    for _ in range(4):
        runs.run({"x": given}, out={"y": y})
    given._array = on_device(on, X + 5)
    runs.run({"x": given}, out={"y": y})
    np.testing.assert_array_equal(y.numpy(), chained(X + 5))


def test_work_follows_the_streams_of_arrays_and_of_earlier_runs():
    on, order = device(), []
    record, wait = on.record, on.wait
    on.record = lambda event, stream: (order.append(("record", stream)), record(event, stream))
    on.wait = lambda stream, event: (order.append(("wait", stream)), wait(stream, event))
    runs, x, y = context(chain(), on), on_device(on, X), on_device(on, np.zeros_like(X))
    own = runs._runner._stream.handle
    runs.run({"x": Foreign(x, stream=71)}, out={"y": y})
    assert order == [("record", 71), ("wait", own)]
    order.clear()
    runs.run({"x": x}, out={"y": y}, stream=72)
    assert order == [("record", 72)]
    runs.run({"x": x}, out={"y": y}, stream=73)
    assert order[1:] == [("wait", 73), ("record", 73)]
    order.clear()
    runs.run({"x": x}, out={"y": y})
    assert order[0] == ("wait", own)


def test_arrays_that_cannot_be_used_are_refused_with_the_reason():
    on = device()
    runs, x = context(chain(), on), on_device(on, X)
    elsewhere = on_device(device(ordinal=1), X)
    refused = [
        (elsewhere, r"input 'x' is on cuda:1, the engine runs on cuda:simulated"),
        (Foreign(elsewhere), "input 'x' is in host memory, the engine runs on"),
        (Capsules(elsewhere), "input 'x' is on cuda:1"),
        (
            Foreign(x, shape=(8,), strides=(8,)),
            r"strides \(2,\) \(in elements\): it is not C-contig",
        ),
        (on_device(on, X.astype(np.float64)), "element type float64, expected float32"),
        (on_device(on, X.reshape(2, 4)), "has 2 dimensions, expected 1"),
        (on_device(on, X[:4]), r"input 'x' has shape \(4,\)"),
        (Foreign(x, typestr="<M8"), "element type datetime64, which is not supported"),
        (Foreign(x, typestr="nonsense"), "cannot be read as a device array"),
    ]
    for array, fact in refused:
        with pytest.raises(InputError, match=fact):
            runs.run({"x": array})
    with pytest.raises(InputError, match=r"output 'y' has shape \(4,\), expected \(8,\)"):
        runs.run({"x": x}, out={"y": on_device(on, X[:4])})
    np.testing.assert_array_equal(runs.run({"x": x})["y"].numpy(), chained(X))


def test_axes_of_one_element_may_have_any_stride():
    on = device()
    x = Foreign(on_device(on, X), strides=(4,))
    np.testing.assert_array_equal(context(chain(), on).run({"x": x})["y"].numpy(), chained(X))
    one = Foreign(on_device(on, X[:1]), strides=(400,))
    np.testing.assert_array_equal(
        context(chain(1), on).run({"x": one})["y"].numpy(), chained(X[:1])
    )


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.int64, np.bool_, ml_dtypes.float8_e4m3fn]
)
def test_dlpack_carries_type_shape_and_memory(dtype):
    on = device()
    array = on_device(on, np.ones((2, 1, 3), dtype))
    taken = dlpack.take(array.__dlpack__())
    assert taken.pointer == array.pointer and taken.dtype is DType.of(np.dtype(dtype))
    assert taken.shape == (2, 1, 3) and taken.strides == (3, 3, 1)
    assert (taken.device_type, taken.device_id) == array.__dlpack_device__() == (2, 0)


def test_memory_lives_as_long_as_a_capsule_or_who_took_it():
    on = device()
    x = on_device(on, X)
    used, pointer = on.used_bytes, x.pointer
    capsule = x.__dlpack__()
    del x
    gc.collect()
    assert on.used_bytes == used
    taken = dlpack.take(capsule)
    del capsule
    gc.collect()
    assert on.used_bytes == used and taken.pointer == pointer
    used_up = on_device(on, X).__dlpack__()
    dlpack.take(used_up)
    with pytest.raises(ValueError, match="dltensor|incorrect name"):
        dlpack.take(used_up)
    del taken, used_up
    gc.collect()
    assert on.used_bytes == 0
    dropped = on_device(on, X).__dlpack__()
    assert on.used_bytes == 32
    del dropped
    gc.collect()
    assert on.used_bytes == 0 and not dlpack._given


def test_a_device_array_explains_itself():
    on = device()
    x = on_device(on, X.reshape(2, 4))
    assert repr(x) == "DeviceArray(f32[2, 4] on cuda:simulated)"
    assert (x.ndim, x.nbytes, x.dtype) == (2, 32, np.dtype(np.float32))
    np.testing.assert_array_equal(np.asarray(x), X.reshape(2, 4))
    with pytest.raises(ValueError, match="without a copy"):
        x.__array__(copy=False)
    interface = x.__cuda_array_interface__
    assert interface["data"] == (x.pointer, False) and interface["stream"] is None
    x.stream = 0
    assert x.__cuda_array_interface__["stream"] == 1
