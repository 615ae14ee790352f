"""Rules of the source files that no tool checks."""

from __future__ import annotations

import ast

from tests.architecture.source_files import PACKAGE, functions, name, python_files

EVERYWHERE = ("src", "tests", "benchmarks", "examples")
MOST_LINES, MOST_FUNCTION_LINES = 500, 60
KERNELS, MOST_KERNEL_LINES = "src/lamina/backends/cuda/kernels/", 80  # no calls that return early
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}


def test_no_file_is_long() -> None:
    lines = {name(f): len(f.read_text().splitlines()) for f in python_files(*EVERYWHERE)}
    assert {f: n for f, n in lines.items() if n > MOST_LINES} == {}


def test_no_function_is_long() -> None:
    found = [f for file in python_files(*EVERYWHERE) for f in functions(file)]
    assert len(found) > 1000
    in_kernels = [f for f in found if f.place.startswith(KERNELS)]
    elsewhere = [f for f in found if not f.place.startswith(KERNELS)]
    assert [f for f in elsewhere if f.lines > MOST_FUNCTION_LINES] == []
    assert [f for f in in_kernels if f.lines > MOST_KERNEL_LINES] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [name(f) for f in python_files(*EVERYWHERE) if f.stem in EMPTY_NAMES] == []


def test_annotations_are_never_evaluated() -> None:
    line = "from __future__ import annotations"
    files = [f for f in python_files("src", "benchmarks") if len(f.read_text().splitlines()) > 3]
    assert [name(f) for f in files if line not in f.read_text()] == []


def test_only_config_reads_the_environment() -> None:
    readers = {
        name(file)
        for file in python_files("src")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
    }
    assert readers == {"src/lamina/config.py"}


def test_only_the_command_line_prints() -> None:
    printers = {
        name(file)
        for file in python_files("src")
        if not file.is_relative_to(PACKAGE / "cli")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    }
    assert printers == set()


def test_nothing_is_left_to_do() -> None:
    words = tuple(a + b for a, b in (("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("HA", "CK")))
    found = [
        f"{name(f)}:{number}: {line.strip()}"
        for f in python_files("src", "benchmarks", "examples")
        for number, line in enumerate(f.read_text().splitlines(), 1)
        if any(word in line for word in words)
    ]
    assert found == []
