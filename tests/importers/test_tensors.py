import os

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lamina.errors import ImportFailed
from lamina.importers.onnx import load
from lamina.importers.onnx.tensors import DTYPES, TensorReader
from lamina.ir.types import DType
from tests.importers.models import normal

READER = TensorReader(None)
NUMERIC = [(number, dtype) for number, dtype in DTYPES.items() if dtype is not DType.STR]
SUB_BYTE = {DType.I4: (-8, 8), DType.U4: (0, 16), DType.I2: (-2, 2), DType.U2: (0, 4)}


def values(dtype, count):
    rng = np.random.default_rng(3)
    if dtype in SUB_BYTE:
        return rng.integers(*SUB_BYTE[dtype], count).astype(dtype.numpy)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, count).astype(bool)
    if dtype.is_integer:
        return rng.integers(0, 100, count).astype(dtype.numpy)
    return rng.normal(size=count).astype(np.float32).astype(dtype.numpy)


@pytest.mark.parametrize(("number", "dtype"), NUMERIC, ids=[str(d) for _, d in NUMERIC])
def test_raw_data_of_every_type(number, dtype):
    array = values(dtype, 15).reshape(3, 5)
    read = READER.read(numpy_helper.from_array(array, "t"))
    assert read.dtype == array.dtype
    assert read.shape == (3, 5)
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize(("number", "dtype"), NUMERIC, ids=[str(d) for _, d in NUMERIC])
def test_typed_fields_of_every_type(number, dtype):
    array = values(dtype, 15)
    proto = helper.make_tensor("t", number, [15], array)
    assert not proto.HasField("raw_data")
    read = READER.read(proto)
    assert read.tobytes() == array.tobytes()


def test_strings():
    proto = helper.make_tensor("t", TensorProto.STRING, [2], ["naïve", ""])
    assert READER.read(proto).tolist() == ["naïve", ""]


def test_raw_data_is_not_copied_again():
    read = READER.read(numpy_helper.from_array(normal(100), "t"))
    assert read.base is not None
    assert not read.flags.writeable


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: setattr(t, "raw_data", t.raw_data[:-1]), "has 23 bytes of data.*takes 24"),
        (lambda t: t.dims.append(1 << 60), "24 bytes of data"),
        (lambda t: t.dims.__setitem__(0, -2), "negative dimension"),
        (lambda t: setattr(t, "data_type", 99), "element type 99"),
    ],
)
def test_damaged_tensors(change, text):
    proto = numpy_helper.from_array(normal(2, 3), "weights")
    change(proto)
    with pytest.raises(ImportFailed, match=text):
        READER.read(proto)


def test_typed_field_of_the_wrong_length():
    proto = helper.make_tensor("t", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    proto.dims[0] = 4
    with pytest.raises(ImportFailed, match="3 elements, its shape"):
        READER.read(proto)


def test_sparse_tensors():
    proto = onnx.SparseTensorProto(dims=[3, 4])
    proto.values.CopyFrom(numpy_helper.from_array(np.float32([5, 6]), "v"))
    proto.indices.CopyFrom(numpy_helper.from_array(np.int64([[0, 1], [2, 3]]), "i"))
    dense = np.zeros((3, 4), np.float32)
    dense[0, 1], dense[2, 3] = 5, 6
    np.testing.assert_array_equal(READER.read_sparse(proto), dense)
    proto.dims[:] = [1 << 30, 1 << 30]
    with pytest.raises(ImportFailed, match="too large"):
        READER.read_sparse(proto)


def external_model(tmp_path, location="weights.bin", **entries):
    """A model y = x + w with w in a file; ``entries`` replace the external data entries."""
    w = normal(4, 5, seed=2)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64 + w.tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 5])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "64", **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 5])
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, w


def test_external_data_is_memory_mapped(tmp_path):
    path, w = external_model(tmp_path)
    (const,) = (n for n in load(path).nodes() if n.op.name == "const")
    array = const.op.weight.array
    np.testing.assert_array_equal(array, w)
    base = array
    while not isinstance(base, np.memmap):
        base = base.base
    assert not base.flags.writeable


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"location": "none.bin"}, "cannot be read"),
        ({"offset": 65}, "needs bytes 65 to 145 of 'weights.bin', which has 144"),
        ({"offset": -1}, "needs bytes -1"),
        ({"length": 8}, "8 bytes of data"),
        ({"offset": "many"}, "damaged external data"),
        ({"location": "../weights.bin"}, "outside the model's folder"),
        ({"location": "sub/../../weights.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
    ],
)
def test_external_data_that_is_refused(tmp_path, entries, text):
    path, _ = external_model(tmp_path, **entries)
    with pytest.raises(ImportFailed, match=text):
        load(path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path, _ = external_model(folder, location="link.bin")
    os.symlink(folder / "weights.bin", folder / "link.bin")
    assert load(path).outputs  # a link inside the folder is fine
    (folder / "link.bin").unlink()
    (tmp_path / "secret.bin").write_bytes(b"\0" * 200)
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    with pytest.raises(ImportFailed, match=r"a link to .*secret\.bin"):
        load(path)


def test_external_data_needs_a_folder(tmp_path):
    path, _ = external_model(tmp_path)
    with pytest.raises(ImportFailed, match="folder is not known"):
        load(path.read_bytes())


def test_unaligned_data_is_aligned(tmp_path):
    path, w = external_model(tmp_path, offset=63)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 63 + w.tobytes())
    (const,) = (n for n in load(path).nodes() if n.op.name == "const")
    np.testing.assert_array_equal(const.op.weight.array, w)
    assert const.op.weight.array.flags.aligned


def test_float4_is_packed_two_to_a_byte():
    codes = np.arange(16, dtype=np.uint8)
    proto = TensorProto(name="t", data_type=TensorProto.FLOAT4E2M1, dims=[15])
    proto.raw_data = (codes[0::2] | codes[1::2] << 4).tobytes()
    read = READER.read(proto)
    assert read.dtype == ml_dtypes.float4_e2m1fn
    np.testing.assert_array_equal(read.view(np.uint8), codes[:15])


def test_external_data_beyond_two_gibibytes_takes_no_memory(tmp_path):
    offset = 5 << 30
    path, w = external_model(tmp_path, offset=offset)
    with open(tmp_path / "weights.bin", "r+b") as file:  # a file with a hole
        file.seek(offset)
        file.write(w.tobytes())
    (const,) = (n for n in load(path).nodes() if n.op.name == "const")
    np.testing.assert_array_equal(const.op.weight.array, w)
