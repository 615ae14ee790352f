"""The public names: sorted, importable, documented."""

from __future__ import annotations

import inspect
import re

import pytest
from tests.architecture.source_files import ROOT

import lamina
from lamina import errors


def test_names_are_sorted_and_every_one_has_a_home() -> None:
    assert lamina.__all__ == sorted(set(lamina.__all__))
    assert set(lamina.__all__) == set(lamina._HOME)
    assert set(lamina.__all__) <= set(dir(lamina))


@pytest.mark.parametrize("name", lamina.__all__)
def test_each_name_resolves_and_says_what_it_is(name: str) -> None:
    value = getattr(lamina, name)
    assert value.__name__ == name
    assert value.__module__ == lamina._HOME[name]
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'biuld'"):
        lamina.biuld  # noqa: B018


def test_every_exception_is_public_and_stands_in_the_tree() -> None:
    defined = {
        n for n, v in vars(errors).items() if inspect.isclass(v) and v.__module__ == errors.__name__
    }
    assert defined <= set(lamina.__all__)
    assert all(issubclass(getattr(errors, n), lamina.LaminaError) for n in defined)
    assert all(re.search(rf"\b{n}\b", errors.__doc__ or "") for n in defined)


@pytest.mark.parametrize("name", lamina.__all__)
def test_each_name_is_documented(name: str) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages)
    assert re.search(rf"`(lamina\.)?{name}\b|lamina\.{name}\b", text), (
        f"{name} is in no page of docs/"
    )
