"""The timing cache: what is kept, merged and survives."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import lamina
from lamina.tactics.cache import VERSION, TimingCache, read_contents, read_times
from tests.plan.plans import CONVOLUTION, graph


def test_times_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "timing.json"
    cache = TimingCache(path, "this")
    assert cache.get("conv", "fast") is None
    cache.put("conv", "fast", 1.23456)
    assert cache.get("conv", "fast") == 1.235
    assert (cache.hits, cache.misses) == (1, 1)
    cache.save()
    assert TimingCache(path, "this").get("conv", "fast") == 1.235
    assert TimingCache(path, "that").get("conv", "fast") is None


def test_the_file_is_readable_and_stable(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    for order in (("b", "a"), ("a", "b")):
        path.unlink(missing_ok=True)
        cache = TimingCache(path, "m")
        for problem in order:
            cache.put(problem, "t", 2.0)
        cache.save()
        assert json.loads(path.read_text()) == {
            "version": VERSION,
            "machines": {"m": {"a": {"t": 2.0}, "b": {"t": 2.0}}},
        }
    text = path.read_text()
    assert text.index('"a"') < text.index('"b"')
    assert os.listdir(tmp_path) == ["timing.json"]


def test_the_smaller_of_two_times_counts() -> None:
    cache = TimingCache(None, "m")
    cache.put("p", "t", 5.0)
    cache.merge({"m": {"p": {"t": 7.0, "u": 3.0}, "q": {"t": 1.0}}, "n": {"p": {"t": 2.0}}})
    cache.merge({"m": {"p": {"t": 4.0}}})
    assert cache.times == {
        "m": {"p": {"t": 4.0, "u": 3.0}, "q": {"t": 1.0}},
        "n": {"p": {"t": 2.0}},
    }


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    one, other = TimingCache(path, "m"), TimingCache(path, "m")
    one.put("a", "t", 1.0)
    other.put("b", "t", 2.0)
    one.save()
    other.save()
    assert read_times(path) == {"m": {"a": {"t": 1.0}, "b": {"t": 2.0}}}


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    cache = TimingCache(path, "m")
    cache.save()
    assert not path.exists()
    cache.put("a", "t", 1.0)
    cache.save()
    path.write_text("")
    cache.save()
    assert path.read_text() == ""


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", '"x"', "null", '{"version": 99, "machines": {"m": {}}}'),
        *(
            '{"version": 1}',
            '{"version": 1, "machines": []}',
            '{"version": 1, "machines": {"m": 3}}',
        ),
        '{"version": 1, "machines": {"m": {"p": [1]}}}',
        '{"version": 1, "machines": {"m": {"p": {"t": "fast"}}}}',
        '{"version": 1, "machines": {"m": {"p": {"t": -1}}}}',
        '{"version": 1, "machines": {"m": {"p": {"t": NaN}}}}',
        "[" * 100_000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin1"),
    ],
    ids=lambda t: t[:50],
)
def test_a_damaged_file_counts_as_empty(text: str, tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    path.write_bytes(text.encode("latin1"))
    cache = TimingCache(path, "m")
    assert cache.get("p", "t") is None
    cache.put("p", "t", 1.0)
    cache.save()
    assert read_times(path)["m"]["p"]["t"] == 1.0


def test_bytes_that_are_no_text_count_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert read_times(path) == {}
    assert read_times(tmp_path) == {}


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "timing.json", Path("/proc/none/timing.json"), tmp_path):
        cache = TimingCache(path, "m")
        cache.put("p", "t", 1.0)
        cache.save()
    assert sorted(os.listdir(tmp_path)) == ["file"]
    built = lamina.build(graph(CONVOLUTION), timing_cache=str(tmp_path / "file" / "timing.json"))
    assert built.plan.sections


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "timing.json"
    path.write_text("older")
    cache = TimingCache(path, "m")
    cache.put("p", "t", 1.0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache.save()
    assert path.read_text() == "older"
    assert os.listdir(tmp_path) == ["timing.json"]


def test_a_build_takes_times_from_the_cache(tmp_path: Path) -> None:
    """A cache that says otherwise changes the choice: nothing is measured again."""
    path = tmp_path / "timing.json"
    lamina.build(graph(CONVOLUTION), timing_cache=str(path))
    data = json.loads(path.read_text())
    (machine,) = data["machines"].values()
    problem = next(p for p in machine if p.startswith("convolution"))
    slowest = max(machine[problem], key=machine[problem].__getitem__)
    for tactic in machine[problem]:
        machine[problem][tactic] = 0.001 if tactic == slowest else 1e6
    path.write_text(json.dumps(data))
    built = lamina.build(graph(CONVOLUTION), timing_cache=str(path))
    (convolution,) = [layer for layer in built.inspect().layers if layer.name == "convolution"]
    assert convolution.microseconds == 0.001
    assert slowest.startswith(convolution.tactic)


def test_failures_are_kept_by_toolchain(tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    cache = TimingCache(path, "m", "compiler 1")
    cache.fail("p", "t", "too many registers")
    cache.put("p", "u", 1.0)
    assert cache.get("p", "t") is None
    cache.save()
    again = TimingCache(path, "m", "compiler 1")
    assert again.failure("p", "t") == "too many registers"
    assert again.failure("p", "u") is None
    assert TimingCache(path, "m", "compiler 2").failure("p", "t") is None
    assert TimingCache(path, "n", "compiler 1").failure("p", "t") is None
    other = TimingCache(path, "m", "compiler 2")
    other.fail("q", "t", "other reason")
    again.fail("p", "v", "third reason")
    again.save()
    other.save()
    assert read_contents(path).failures == {
        "m": {
            "compiler 1": {"p": {"t": "too many registers", "v": "third reason"}},
            "compiler 2": {"q": {"t": "other reason"}},
        }
    }
    assert read_times(path) == {"m": {"p": {"u": 1.0}}}


@pytest.mark.parametrize("failures", ["3", '{"m": 3}', '{"m": {"c": {"p": {"t": 3}}}}'])
def test_damaged_failures_count_as_none(failures: str, tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    path.write_text(f'{{"version": 1, "machines": {{}}, "failures": {failures}}}')
    assert TimingCache(path, "m", "c").failure("p", "t") is None
