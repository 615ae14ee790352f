from __future__ import annotations

import pytest

from lamina.cli.shapes import likeliest, parse_shapes
from lamina.errors import ConfigError


def test_one_shape_is_static() -> None:
    assert parse_shapes(["x:1x3x224x224"]) == {"x": (1, 3, 224, 224)}


def test_three_shapes_are_a_range() -> None:
    given = parse_shapes(["x:1x3..8x3..32x3"])
    assert given == {"x": ((1, 3), (8, 3), (32, 3))}
    assert likeliest(given["x"]) == (8, 3)


def test_several_inputs_by_comma_or_by_repeating() -> None:
    assert parse_shapes(["a:1x2,b:3", "c:4"]) == {"a": (1, 2), "b": (3,), "c": (4,)}


def test_names_may_hold_colons() -> None:
    assert parse_shapes(["input:0:1x4"]) == {"input:0": (1, 4)}
    assert likeliest((1, 4)) == (1, 4)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("1x3", "cannot be read"),
        ("x:", "cannot be read"),
        ("x:1x", "cannot be read"),
        ("x:1xbatch", "cannot be read"),
        ("x:1,x:2", "given twice"),
        ("x:1..2", "has 2 shapes, expected 1 or 3"),
        (":1x2", "cannot be read"),
    ],
)
def test_anything_else_is_an_error_with_the_syntax(text: str, fact: str) -> None:
    with pytest.raises(ConfigError, match=fact) as caught:
        parse_shapes([text])
    assert "NAME:1x3x224x224" in (caught.value.hint or "")
