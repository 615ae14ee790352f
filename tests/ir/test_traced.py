"""Arrays that write down how they are computed, and notice who looks at them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lamina.ir.blocks import blocked
from lamina.ir.recipe import FUNCTIONS, SOURCE, Recording, finding
from lamina.ir.traced import Traced, asarray, dense, plain
from lamina.ir.weight import Weight
from lamina.plan.plan import CodeImage, Program, Section
from lamina.plan.recipes import argument, read_recipes, with_recipes

VALUES = np.random.default_rng(3).standard_normal((4, 6)).astype(np.float32)


def traced(recording: Recording, values: Any = VALUES, name: str = "w") -> Any:
    return Traced(values, recording.source(name))


def again(result: Any, values: Any) -> Any:
    """Return what the recipe of ``result`` gives for other values of its source, through a plan."""
    recording = result.recipe.recording
    blob = Weight(plain(result), "", result.recipe)
    empty = Program(inputs=(), outputs=(), tensors=(), steps=())
    section = Section(target=(), program=empty, image=CodeImage(), blobs=(blob,))
    section = with_recipes(section, recording, {"w": Weight(values)})
    recipes = read_recipes(section.recipes, 1, len(section.literals))
    found: dict[int, Any] = {}
    for number, step in enumerate(recipes.steps):
        args = [argument(a, found, section.literals) for a in step.arguments]
        keywords = {k: argument(a, found, section.literals) for k, a in step.keywords.items()}
        source = step.function == SOURCE
        found[number] = values if source else FUNCTIONS[step.function](*args, **keywords)
    return found[recipes.blobs[0]]


COMPUTATIONS = {
    "arithmetic": lambda a: (1 - a) * np.float32(2) / np.sqrt(np.abs(a) + 1e-5),
    "types": lambda a: a.astype(np.float64).astype(np.float16),
    "movement": lambda a: a.T.reshape(2, 3, -1).swapaxes(0, 1)[:, None, ::-1, 1:],
    "reductions": lambda a: a.sum(axis=0) + a.max() - np.mean(a, axis=0),
    "products": lambda a: a @ np.arange(12, dtype=np.float32).reshape(6, 2),
    "selection": lambda a: np.where(a > 0, a, np.float32(0)),
    "several": lambda a: np.concatenate([a[:2], np.stack([a[0], a[1]]), np.ones_like(a)]),
    "padding": lambda a: np.pad(a, ((0, 0), (1, 2))),
    "bits": lambda a: a.view(np.uint32),
    "blocks": lambda a: blocked(a, ((2,), (4,)), (0, 2, 1, 3), dtype=np.float64),
    "gather": lambda a: np.take(a, np.array([[0, 3], [1, 1]]), axis=1),
    "layout": lambda a: dense(asarray(a, np.float32).T),
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_recipes_give_what_numpy_gives(name: str) -> None:
    recording, compute = Recording(), COMPUTATIONS[name]
    result = compute(traced(recording))
    expected = compute(VALUES)
    assert isinstance(result, Traced) and not recording.guards
    assert result.dtype == expected.dtype and result.shape == expected.shape
    np.testing.assert_array_equal(result.value, expected)
    other = VALUES[::-1] * np.float32(1.5)
    np.testing.assert_array_equal(again(result, other), compute(other))


def test_equal_calls_are_one_recipe() -> None:
    recording = Recording()
    a = traced(recording)
    assert (a * 2).recipe is (a * 2).recipe
    assert (a * 2).recipe is not (a * 2.0).recipe
    assert (a * 2).recipe is not (traced(recording, name="v") * 2).recipe


LOOKS = {
    "if": lambda a: bool((a == a[0]).all()),
    "float": lambda a: float(a[0, 0]),
    "list": lambda a: a.tolist(),
    "conversion": np.asarray,
    "unknown function": np.linalg.norm,
    "several results": lambda a: np.split(a, 2),
    "into a plain array": lambda a: np.copyto(np.zeros((4, 6)), np.asarray(a)),
    "result given": lambda a: np.add(a, 1, out=np.zeros((4, 6), np.float32)),
}


@pytest.mark.parametrize("name", LOOKS)
def test_whoever_looks_at_values_leaves_a_guard(name: str) -> None:
    recording = Recording()
    LOOKS[name](traced(recording))
    assert len(recording.guards) == 1
    assert not isinstance(LOOKS[name](traced(recording)), Traced)


def test_shapes_and_types_may_be_read() -> None:
    recording = Recording()
    a = traced(recording)
    assert (a.shape, a.ndim, a.size, a.nbytes, len(a), a.itemsize) == ((4, 6), 2, 24, 96, 4, 4)
    assert a.dtype == np.float32 and not recording.guards


def test_findings_tell_arrays_apart_by_type_shape_and_bits() -> None:
    zero = np.zeros(40, np.float32)
    arrays = [zero, zero[:3], -zero, zero.astype(np.int32), zero.reshape(4, 10), zero + 1]
    assert len({finding(a) for a in arrays}) == len(arrays)
    assert finding(zero) == finding(zero.copy())


def test_constants_of_different_origin_stay_apart_while_they_are_small() -> None:
    recording = Recording()
    small, large = np.ones(8, np.float32), np.ones(1 << 16, np.float32)

    def weight(values: Any, name: str) -> Weight:
        return Weight(values, name, recording.source(name))

    assert weight(small, "a") != weight(small, "b") and not recording.guards
    assert weight(small, "a") == weight(small.copy(), "a")
    assert weight(large, "a") == weight(large.copy(), "b")
    assert len(recording.guards) == 2
    open_ended = Recording(keeps_open=True)
    first, second = (Weight(large.copy(), n, open_ended.source(n)) for n in "ab")
    assert first != second and not open_ended.guards
