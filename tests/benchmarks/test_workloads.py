"""The benchmark workloads build, are valid ONNX and give outputs that depend on the inputs."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import onnxruntime
import pytest
from benchmarks import light_models, mobile_models, models, transformer_models

TINY = transformer_models.EncoderShape(layers=2, hidden=32, heads=4, feed_forward=64)
TINY_BUILDERS = {
    "bert": functools.partial(
        transformer_models.bert,
        shape=transformer_models.BertShape(TINY, vocabulary=1000, sequence=12),
    ),
    "vit": functools.partial(
        transformer_models.vit,
        shape=transformer_models.VitShape(TINY, image=32, patch=16, classes=9),
    ),
    "mobilenet": functools.partial(
        mobile_models.mobilenet_v2, rows=((1, 16, 1, 1), (6, 24, 2, 2)), image=32
    ),
    "lstm": functools.partial(
        mobile_models.lstm,
        shape=mobile_models.LstmShape(layers=2, inputs=8, hidden=16, sequence=5),
    ),
    "squeezenet": functools.partial(light_models.light_model, "squeezenet"),
    "shufflenet": functools.partial(light_models.light_model, "shufflenet"),
    "digits": models.digits,
}


def run(model: onnx.ModelProto, inputs: models.Inputs) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, inputs)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", TINY_BUILDERS)
def test_outputs_are_finite_and_follow_the_inputs(name: str, batch: int) -> None:
    model = TINY_BUILDERS[name](batch)
    onnx.checker.check_model(model, full_check=True)
    workload = models.Workload(name, TINY_BUILDERS[name])
    first, second = (run(model, workload.inputs(model, seed)) for seed in (1, 2))
    for a, b, declared in zip(first, second, model.graph.output, strict=True):
        shape = [d.dim_value for d in declared.type.tensor_type.shape.dim]
        assert list(a.shape) == shape and batch in shape
        assert np.isfinite(a).all()
        assert a.std() > 0.05
        assert (a - b).std() > 0.05 * a.std()


def test_weights_do_not_depend_on_the_batch_and_repeat() -> None:
    one, two, again = (
        [w.raw_data for w in light_models.light_model("squeezenet", b).graph.initializer]
        for b in (1, 2, 1)
    )
    assert one == two == again


def test_light_models_hold_weights_as_initializers_only() -> None:
    model = light_models.light_model("shufflenet")
    assert [i.name for i in model.graph.input] == ["gpu_0/data_0"]
    assert not [n for n in model.graph.node if n.op_type in ("ConstantOfShape", "Softmax")]
    weight = next(w for w in model.graph.initializer if len(w.dims) == 4)
    assert onnx.numpy_helper.to_array(weight).std() > 0


def test_batch_rows_are_independent_images() -> None:
    one, two = light_models.light_model("squeezenet", 1), light_models.light_model("squeezenet", 2)
    images = models.Workload("squeezenet", models.digits).inputs(two)
    (name,) = images
    whole = run(two, images)[0]
    for i in range(2):
        row = run(one, {name: images[name][i : i + 1]})[0]
        np.testing.assert_allclose(whole[i : i + 1], row, rtol=1e-4, atol=1e-4)


def test_exporters_decomposition_is_kept() -> None:
    kinds = {n.op_type for n in TINY_BUILDERS["bert"](1).graph.node}
    assert {"ReduceMean", "Pow", "Sqrt", "Div", "Erf", "Softmax", "Gather", "Tanh"} <= kinds
    assert not kinds & {"LayerNormalization", "Gelu", "Attention"}


def test_unknown_workload_lists_the_known_ones() -> None:
    with pytest.raises(KeyError, match="resnet50"):
        models.find("resnet51")
    assert len({w.name for w in models.WORKLOADS}) == len(models.WORKLOADS) == 14
