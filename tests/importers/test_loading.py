from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lamina.errors import ConfigError, ImportFailed
from lamina.importers.onnx import load
from lamina.ir.loc import Loc
from tests.importers.models import model, normal, ops_of, run

RELU = "agraph (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"


def test_every_kind_of_source_gives_the_same_graph(tmp_path):
    proto = model(RELU)
    path = tmp_path / "relu.onnx"
    onnx.save(proto, path)
    for source in (proto, proto.SerializeToString(), path, str(path)):
        graph = load(source)
        assert ops_of(graph) == ["activation"]
        assert str(graph.inputs[0].type) == "f32[N,3]"
        assert graph.output_names == ["y"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 rest", "PyTorch checkpoint"),
        (b"\x89HDF\r\n", "Keras"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"ftrt\x00\x01", "TensorRT engine"),
        (b"this is not a model at all", "not an ONNX model"),
        (b"\x08\x0a", "no graph"),
    ],
)
def test_files_that_are_not_models(tmp_path, data, text):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ImportFailed) as e:
        load(path)
    assert text in str(e.value)
    assert "hint:" in str(e.value)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ImportFailed, match="cannot read the model"):
            load(path)


def test_a_file_too_large_for_one_message(tmp_path):
    path = tmp_path / "large.onnx"
    with open(path, "wb") as file:  # a file with a hole
        file.truncate(1 << 31)
    with pytest.raises(ImportFailed, match="has 2147483648 bytes") as e:
        load(path)
    assert "external data" in str(e.value)


def test_truncated_models_fail_cleanly():
    data = model(RELU).SerializeToString()
    for size in range(len(data)):
        with pytest.raises(ImportFailed):
            load(data[:size])


def test_opsets_outside_the_range_are_named():
    newest = onnx.defs.onnx_opset_version()
    proto = model(RELU)
    proto.opset_import[0].version = newest + 1
    with pytest.raises(ImportFailed, match=f"opset {newest + 1}, supported are 1 to {newest}"):
        load(proto)


def test_unknown_domain_is_named():
    proto = model("agraph (float[N] x) => (float[N] y) { y = acme.Blend(x) }")
    with pytest.raises(ImportFailed, match=r"domain 'acme'"):
        load(proto)


def test_symbols_are_identifiers_and_distinct():
    shape = ["batch size", "batch_size", "1st", "for", None, -1, ""]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    dims = [str(d) for d in load(proto).inputs[0].tensor.shape]
    assert dims == ["batch_size", "batch_size_1", "_1st", "_for", "x_dim4", "x_dim5", "x_dim6"]


def test_shapes_fix_symbols_and_whole_inputs():
    text = "agraph (float[N, M] x, float[N] z) => (float[N, M] y) { y = Relu(x) }"
    proto = model(text)
    assert [str(v.type) for v in load(proto, shapes={"N": 4}).inputs] == ["f32[4,M]", "f32[4]"]
    graph = load(proto, shapes={"x": ("N", 7)})
    assert [str(v.type) for v in graph.inputs] == ["f32[N,7]", "f32[N]"]
    with pytest.raises(ConfigError, match="3 dimensions for the input 'x'"):
        load(proto, shapes={"x": (1, 2, 3)})
    with pytest.raises(ConfigError, match="'w', which the model does not have"):
        load(proto, shapes={"w": (1, 2)})


def test_input_without_a_shape_needs_one():
    proto = model(RELU)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ImportFailed, match="input 'x' has no declared rank"):
        load(proto)
    assert str(load(proto, shapes={"x": (2, 3)}).inputs[0].type) == "f32[2,3]"


def test_initializers_listed_as_inputs_are_constants():
    proto = model(
        "agraph (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Add(x, w) }"
    )
    graph = load(proto)
    assert [v.name for v in graph.inputs] == ["x"]
    (const,) = (n for n in graph.nodes() if n.op.name == "const")
    assert const.op.weight.name == "w"


def test_locations_and_value_names_come_from_the_model():
    graph = load(
        model("agraph (float[2] x) => (float[2] y) { [first] h = Relu(x) y = Sigmoid(h) }")
    )
    locs = [node.loc for node in graph.nodes()]
    assert locs == [Loc("first (Relu)"), Loc("Sigmoid#1 (Sigmoid)")]
    assert [node.output.name for node in graph.nodes()] == ["h", "y"]


def test_dead_shape_arithmetic_leaves_no_users():
    graph = load(
        model(
            """agraph (float[N, 6] x) => (float[N, 2, 3] y) {
              s = Shape(x)
              i = Constant<value_ints = [0]>()
              n = Gather(s, i)
              rest = Constant<value_ints = [2, 3]>()
              target = Concat<axis = 0>(n, rest)
              y = Reshape(x, target)
            }"""
        )
    )
    assert ops_of(graph) == ["reshape"]
    assert len(graph.inputs[0].users) == 1
    assert str(graph.outputs[0].type) == "f32[N,2,3]"


def test_type_errors_name_the_node():
    proto = model("agraph (float[2] x, int64[2] i) => (float[2] y) { [sum] y = Add(x, i) }")
    with pytest.raises(Exception, match=r"(?s)f32.*i64.*sum \(Add\)"):
        load(proto)


def test_malformed_attribute_names_the_node():
    proto = model("agraph (float[2, 3] x) => (float[3, 2] y) { [t] y = Transpose<perm=[0, 0]>(x) }")
    with pytest.raises(ImportFailed, match=r"(?s)perm \[0, 0\].*t \(Transpose\)"):
        load(proto)


def test_missing_operand_is_named():
    proto = model("agraph (float[2] x) => (float[2] y) { y = Add(x) }")
    with pytest.raises(ImportFailed, match="input 1 is missing"):
        load(proto)


def test_results_of_a_small_network():
    w = normal(4, 3, seed=1)
    proto = model(
        "agraph (float[N, 4] x, float[4, 3] w) => (float[N, 3] y) { h = MatMul(x, w) y = Relu(h) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    x = normal(5, 4)
    np.testing.assert_allclose(run(proto, x)[0], np.maximum(x @ w, 0), rtol=1e-6)


def test_path_objects_and_strings_agree(tmp_path):
    path = Path(tmp_path) / "m.onnx"
    onnx.save(model(RELU), path)
    assert ops_of(load(path)) == ops_of(load(str(path)))
