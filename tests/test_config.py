"""Options, shapes as users write them, and the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lamina import config
from lamina.config import BuildConfig, shape_ranges
from lamina.errors import ConfigError, LaminaError, where


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((1, 3), ((1, 3), (1, 3), (1, 3))),
        ([1, 3], ((1, 3), (1, 3), (1, 3))),
        (((1, 3), (2, 3), (4, 3)), ((1, 3), (2, 3), (4, 3))),
        ([[1], [2], [2]], ((1,), (2,), (2,))),
        ((), ((), (), ())),
        (((), (), ()), ((), (), ())),
        (((0, 1), (0, 1), (5, 1)), ((0, 1), (0, 1), (5, 1))),
    ],
)
def test_shapes_as_users_write_them(given: Any, wanted: Any) -> None:
    assert shape_ranges({"x": given}) == {"x": wanted}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "the shape of 'x' is 3"),
        ("1x3", "the shape of 'x' is '1x3'"),
        (((1, 3), (2, 3)), r"the shape of 'x' is \(\(1, 3\), \(2, 3\)\)"),
        (((1,), (2, 3), (4, 3)), "have 1, 2, 2 dims"),
        (((4, 3), (2, 3), (1, 3)), r"not in order: \(4, 3\)"),
        ((-1, 3), "not in order"),
        ((True, 3), "the shape of 'x' is"),
        ((1.5, 3), "the shape of 'x' is"),
        (None, "the shape of 'x' is None"),
    ],
)
def test_shapes_that_mean_nothing(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shape_ranges({"x": given})


def test_the_defaults_are_valid_and_cannot_be_changed() -> None:
    options = BuildConfig()
    assert (options.target, options.precision, options.threads) == ("cpu", "fp32", 0)
    with pytest.raises(AttributeError):
        options.threads = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp64"}, "choose one of fp32, tf32, fp16, bf16, int8"),
        ({"optimization_level": 6}, "not between 0 and 5"),
        ({"optimization_level": -1}, "not between 0 and 5"),
        ({"threads": 5000}, "5000 threads: expected 1 to 1024"),
        ({"target": "cuda:7"}, "target 'cuda:7' is not available"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildConfig(**options)


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMINA_THREADS", raising=False)
    assert config.default_threads() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("LAMINA_THREADS", "3")
    assert config.default_threads() == 3
    for text in ("0", "-1", "many", "1.5", " "):
        monkeypatch.setenv("LAMINA_THREADS", text)
        with pytest.raises(ConfigError, match="expected a number of at least 1"):
            config.default_threads()


def test_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMINA_ISA", raising=False)
    assert config.isa_limit() == ""
    for text in ("avx2", "avx512"):
        monkeypatch.setenv("LAMINA_ISA", text)
        assert config.isa_limit() == text
    monkeypatch.setenv("LAMINA_ISA", "sse")
    with pytest.raises(ConfigError, match="LAMINA_ISA is 'sse', expected 'avx2' or 'avx512'"):
        config.isa_limit()


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    assert config.cache_folder() == tmp_path
    monkeypatch.delenv("LAMINA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert config.cache_folder() == tmp_path / "lamina"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.cache_folder() == tmp_path / ".cache" / "lamina"


def test_the_library_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMINA_ONEDNN_LIBRARY", raising=False)
    assert config.onednn_path() is None
    monkeypatch.setenv("LAMINA_ONEDNN_LIBRARY", "/some/libdnnl.so.3")
    assert config.onednn_path() == "/some/libdnnl.so.3"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_threads_sleep_soon_unless_the_user_decides(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    config.shorten_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv(name, "7")
    config.shorten_spinning()
    assert os.environ[name] == "7"
    assert ("GOMP_SPINCOUNT" in os.environ) == (name == "GOMP_SPINCOUNT")


def test_every_variable_is_documented() -> None:
    source = Path(config.__file__).read_text()
    read = {w for w in source.replace('"', " ").split() if w.startswith("LAMINA_")}
    assert read
    assert all(f"``{name.strip('`,')}``" in (config.__doc__ or "") for name in read)


def test_errors_say_where_and_what_to_do() -> None:
    with pytest.raises(LaminaError) as error, where("in the house"), where("on the table"):
        raise ConfigError("3 apples but 2 plates", hint="fetch a plate")
    assert str(error.value).splitlines() == [
        "3 apples but 2 plates",
        "  on the table",
        "  in the house",
        "  hint: fetch a plate",
    ]
