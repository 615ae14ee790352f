"""What a run takes and gives: names, types, shapes, memory that is used in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lamina
from lamina.errors import InputError
from tests.plan.plans import DYNAMIC, SHAPES, engine, feed, graph

X = np.random.default_rng(3).standard_normal((3, 12)).astype(np.float32)
S = np.random.default_rng(4).standard_normal((3, 6)).astype(np.float32)


def _expected(x: np.ndarray, s: np.ndarray) -> np.ndarray:
    from lamina.ir.interpret import interpret

    return interpret(graph(DYNAMIC), [x, s])[0]


def _run(**inputs: Any) -> dict[str, Any]:
    return engine("dynamic").run(inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([X, S], "the inputs are a list, not arrays by name"),
        (None, "the inputs are a NoneType"),
        ({"x": X}, r"input \['s'\] is missing"),
        ({"x": X, "s": S, "t": S}, r"there is no input \['t'\]"),
        ({"y": X, "s": S}, r"input \['x'\] is missing; there is no input \['y'\]"),
        ({"x": X.astype(np.float64), "s": S}, "'x' has element type float64, expected float32"),
        ({"x": X[0], "s": S}, r"'x' has shape \(12,\): it has 1 dimensions, expected 2"),
        (
            {"x": X[:, :11], "s": S},
            r"'x' has shape \(3, 11\): it has size 11 on axis 1, expected 12",
        ),
        ({"x": X, "s": S[:2]}, r"'s' has shape \(2, 6\): it has size 2 on axis 0, expected b = 3"),
        ({"x": "text", "s": S}, "element type <U4, expected float32"),
        ({"x": object(), "s": S}, "'x' has element type object, expected float32"),
        ({"x": [[1.0], [2.0, 3.0]], "s": S}, "input 'x' is a list, not an array"),
    ],
)
def test_wrong_inputs_are_named(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine("dynamic").run(inputs)
    with pytest.raises(InputError):
        engine("dynamic").create_context().profile(inputs)


def test_a_shape_outside_the_profile_shows_the_range() -> None:
    x, s = np.ones((5, 12), np.float32), np.ones((5, 6), np.float32)
    with pytest.raises(InputError) as error:
        _run(x=x, s=s)
    text = str(error.value)
    assert "b = 5 on axis 0 is outside the profile's 1..4" in text
    assert "f32[b,12] with b in 1..4" in text
    with pytest.raises(InputError, match=r"1\.\.4"):
        _run(x=x[:0], s=s[:0])


def test_the_engine_works_after_a_refusal() -> None:
    for wrong in (X[:, :11], X.astype(np.int32)):
        with pytest.raises(InputError):
            _run(x=wrong, s=S)
        np.testing.assert_allclose(_run(x=X, s=S)["y"], _expected(X, S), rtol=1e-4, atol=1e-5)


def test_the_number_of_positional_inputs_is_checked() -> None:
    with pytest.raises(InputError, match=r"expected 2 inputs \['x', 's'\], got 1"):
        engine("dynamic")(X)
    y, p = engine("dynamic")(X, S)
    assert (y.shape, p.shape) == ((3, 12), (3, 6))


@pytest.mark.parametrize(
    "x",
    [
        np.asfortranarray(X),
        np.repeat(X, 2, axis=1)[:, ::2],
        X[::-1][::-1],
        np.broadcast_to(X[0], (3, 12)),
        X.astype(">f4").astype(np.float32),
    ],
    ids=["fortran", "strided", "twice reversed", "broadcast", "swapped"],
)
def test_arrays_that_are_not_contiguous_are_copied(x: np.ndarray) -> None:
    found = _run(x=x, s=S)["y"]
    np.testing.assert_allclose(found, _expected(np.ascontiguousarray(x), S), rtol=1e-4, atol=1e-5)


class DlpackOnly:
    """An array of another library, as far as DLPack shows it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class InterfaceOnly:
    """An array of another library, as far as the array interface shows it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.__array_interface__ = array.__array_interface__


@pytest.mark.parametrize("wrap", [DlpackOnly, InterfaceOnly, np.ndarray.tolist, memoryview])
def test_arrays_of_other_libraries(wrap: Any) -> None:
    wanted = _expected(X, S)
    if wrap is np.ndarray.tolist:
        with pytest.raises(InputError, match="element type float64"):
            _run(x=wrap(X), s=S)
        return
    np.testing.assert_allclose(_run(x=wrap(X), s=wrap(S))["y"], wanted, rtol=1e-4, atol=1e-5)


def test_inputs_are_never_written() -> None:
    x, s = X.copy(), S.copy()
    x.flags.writeable = s.flags.writeable = False
    _run(x=x, s=s)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(s, S)


def test_results_are_written_where_the_caller_says() -> None:
    y, p = np.zeros((3, 12), np.float32), np.zeros((3, 6), np.float32)
    results = engine("dynamic").run({"x": X, "s": S}, out={"y": y, "p": p})
    assert results["y"] is y
    assert results["p"] is p
    np.testing.assert_allclose(y, _expected(X, S), rtol=1e-4, atol=1e-5)
    only = np.zeros((3, 6), np.float32)
    results = engine("dynamic").run({"x": X, "s": S}, out={"p": only})
    assert results["p"] is only
    np.testing.assert_array_equal(only, p)
    np.testing.assert_array_equal(results["y"], y)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("z", np.zeros((3, 12), np.float32), r"there is no output \['z'\]"),
        ("y", np.zeros((3, 11), np.float32), r"has shape \(3, 11\), expected \(3, 12\)"),
        ("y", np.zeros((2, 12), np.float32), r"has shape \(2, 12\), expected \(3, 12\)"),
        ("y", np.zeros((36,), np.float32), r"float32\[36\], expected f32\[b,12\]"),
        ("y", np.zeros((3, 12), np.float64), r"float64\[3, 12\], expected f32"),
        ("y", np.zeros((3, 24), np.float32)[:, ::2], "C-contiguous and writable"),
        ("y", [[0.0] * 12] * 3, "must be written to a NumPy array"),
    ],
)
def test_places_for_results_that_do_not_fit(name: str, array: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine("dynamic").run({"x": X, "s": S}, out={name: array})


def test_a_place_that_is_read_only_is_refused() -> None:
    y = np.zeros((3, 12), np.float32)
    y.flags.writeable = False
    with pytest.raises(InputError, match="writable"):
        engine("dynamic").run({"x": X, "s": S}, out={"y": y})


def _pointers(context: lamina.ExecutionContext) -> list[int]:
    """Addresses of the inputs and results that the last run of a context used."""
    return [int(p) for p in context._runner._instance.pointers]  # type: ignore[attr-defined]


def test_memory_of_inputs_and_results_is_used_in_place() -> None:
    context = engine("dynamic").create_context()
    y, p = np.zeros((3, 12), np.float32), np.zeros((3, 6), np.float32)
    context.run({"x": X, "s": S}, out={"y": y, "p": p})
    assert _pointers(context) == [a.ctypes.data for a in (X, S, y, p)]
    fresh = context.run({"x": X, "s": S})
    assert _pointers(context)[2:] == [fresh[n].ctypes.data for n in ("y", "p")]
    strided = np.zeros((3, 24), np.float32)[:, ::2]
    strided[...] = X
    context.run({"x": strided, "s": S})
    assert _pointers(context)[0] != strided.ctypes.data


def test_what_lies_in_the_input_during_the_run_counts() -> None:
    x = X.copy()
    first = _run(x=x, s=S)["y"]
    x *= 2
    second = _run(x=x, s=S)["y"]
    np.testing.assert_allclose(second, _expected(X * 2, S), rtol=1e-4, atol=1e-5)
    assert not np.array_equal(first, second)


def test_results_of_a_run_are_not_touched_by_the_next() -> None:
    first = _run(x=X, s=S)
    kept = {n: a.copy() for n, a in first.items()}
    _run(x=X * 3, s=S * 3)
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)


def test_an_array_may_be_input_and_place_of_another_result() -> None:
    """A value written over an input that a later step still reads would differ."""
    text = """graph(%x: f32[8,8]) {
      %a = unary(%x) kind=neg
      return %a
    }"""
    built = lamina.build(graph(text), timing_cache="", optimization_level=0)
    x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    wanted = -x
    (name,) = (p.name for p in built.outputs)
    assert built.run({"x": x}, out={name: x})[name] is x
    np.testing.assert_array_equal(x, wanted)


def test_example_inputs_fit() -> None:
    examples = engine("dynamic").example_inputs()
    assert {n: a.shape for n, a in examples.items()} == {"x": (2, 12), "s": (2, 6)}
    again = engine("dynamic").example_inputs()
    assert all(np.array_equal(examples[n], again[n]) for n in examples)
    assert engine("dynamic").run(examples)
    assert SHAPES[DYNAMIC]["x"][1] == examples["x"].shape


def test_the_host_kind_takes_every_size_of_its_profile() -> None:
    for size in (1, 2, 63, 64):
        x = np.arange(size, dtype=np.float32) % 3
        places = engine("host").run({"x": x})["places"]
        np.testing.assert_array_equal(places, np.stack(np.nonzero(x)))
    assert feed("host")["x"].shape == (20,)
