"""Large initializers stay in the bytes of a model, and nothing else changes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lamina.errors import ImportFailed
from lamina.importers.onnx import load
from lamina.importers.onnx.detach import INSIDE, without_data
from lamina.importers.onnx.tensors import TensorReader
from lamina.ir.text import print_graph
from lamina.ops import Const
from tests.importers.models import normal


def tensors(names="abc"):
    """Return large initializers, and names of different lengths so that some are not aligned."""
    arrays = [normal(200, 200), normal(200, 200, seed=1).astype(np.float16), normal(200)]
    return [numpy_helper.from_array(a, n * (i + 1)) for i, (a, n) in enumerate(zip(arrays, names))]


def model(initializers):
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "bb"], ["m"]),
        helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "a"], ["n"]),
        helper.make_node("Add", ["f", "n"], ["s"]),
        helper.make_node("Add", ["s", "ccc"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 200])] for name in "xy"]
    graph = helper.make_graph(nodes, "large", *ends, initializers)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, doc_string="of no use")


def constants(graph):
    return [n.op.weight for n in graph.nodes() if isinstance(n.op, Const)]


def test_bytes_and_message_give_the_same_graph(tmp_path):
    proto = model(tensors())
    data = proto.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    expected = print_graph(load(proto), locs=True)
    for source in (data, bytearray(data), memoryview(data), path):
        assert print_graph(load(source), locs=True) == expected


def test_arrays_lie_in_the_bytes_where_they_are_aligned():
    shared = []
    for length in range(1, 5):  # moves the data by a byte
        proto = model(tensors())
        proto.graph.name = "n" * length
        data = proto.SerializeToString()
        whole = np.frombuffer(data, np.uint8)
        found = constants(load(data))
        assert all(w.contents.flags.aligned for w in found)
        shared.append([np.shares_memory(w.contents, whole) for w in found if w.contents.size > 200])
    assert any(map(any, shared))
    small = [w for w in found if w.contents.size == 200]
    assert not any(np.shares_memory(w.contents, whole) for w in small)


def test_the_message_keeps_everything_but_the_data():
    proto = model(tensors())
    data = proto.SerializeToString()
    left = onnx.ModelProto.FromString(without_data(data))
    reader = TensorReader(None, data)
    for tensor, original in zip(left.graph.initializer, proto.graph.initializer, strict=True):
        assert np.array_equal(reader.read(tensor), numpy_helper.to_array(original))
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = original.raw_data
    assert left == proto


def test_a_graph_in_two_parts_is_merged():
    proto = model(tensors())
    extra = onnx.ModelProto()
    extra.graph.initializer.append(proto.graph.initializer.pop(0))
    data = proto.SerializeToString() + extra.SerializeToString()
    assert print_graph(load(data)) == print_graph(load(onnx.ModelProto.FromString(data)))


def test_data_of_the_wrong_size_is_named():
    proto = model(tensors())
    proto.graph.initializer[0].raw_data += b"\0"
    with pytest.raises(ImportFailed, match="has 160001 bytes of data") as e:
        load(proto.SerializeToString())
    assert "tensor 'a'" in str(e.value)


def test_truncated_and_damaged_bytes_are_refused_or_read():
    data = model(tensors()).SerializeToString()
    for size in range(0, len(data), len(data) // 50):
        with pytest.raises(ImportFailed):
            load(data[:size])
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[int(rng.integers(min(300, len(data))))] = int(rng.integers(256))
        assert isinstance(without_data(bytes(damaged)), bytes)


@pytest.mark.parametrize(
    "damage", [b"\x3a", b"\x3a\xff", b"\x3a" + b"\xff" * 11, b"\x3b", b"\x09\0", b"\x3a\x05\x2a"]
)
def test_what_is_not_as_expected_stays(damage):
    assert without_data(damage) == damage


def test_data_that_is_already_outside_stays_outside():
    first, *others = tensors()
    first.data_location = TensorProto.EXTERNAL
    first.external_data.add(key="location", value="w.bin")
    data = model([first, *others]).SerializeToString()
    left = onnx.ModelProto.FromString(without_data(data))
    assert left.graph.initializer[0].external_data[0].value == "w.bin"
    assert left.graph.initializer[1].external_data[0].value == INSIDE


def test_no_file_can_stand_for_the_model_itself(tmp_path):
    first = tensors()[0]
    first.ClearField("raw_data")
    first.data_location = TensorProto.EXTERNAL
    first.external_data.add(key="location", value=INSIDE)
    with pytest.raises(ImportFailed, match="outside the model's folder"):
        TensorReader(tmp_path).read(first)
