from __future__ import annotations

import pytest
from benchmarks.table import BEGIN, END, markdown, put

RESULTS = {
    "machine": {
        "cpu": "Some CPU",
        "date": "2026-01-02T03:04:05+00:00",
        "packages": {"onnxruntime": "1.0", "openvino": "2.0"},
    },
    "threads": 2,
    "summary": {"f32": {"geometric_mean": 1.234, "minimum": 1.1, "minimum_case": "net b1"}},
    "cases": [
        {
            "workload": "net",
            "batch": 1,
            "precision": "f32",
            "engines": {
                "lamina": {"median_ms": 1.2345},
                "onnxruntime": {"median_ms": 12.345},
                "openvino": {"error": "broken"},
            },
            "speedup": 10.0,
        },
        {"workload": "net", "batch": 8, "precision": "f32", "error": "crashed"},
    ],
}


def test_a_row_for_each_case_under_the_mean_of_its_precision() -> None:
    lines = markdown(RESULTS).splitlines()
    assert lines[0].startswith("Median milliseconds of a run on Some CPU, 2 threads, 2026-01-02")
    assert "**f32**: geometric mean 1.23 × the faster peer, smallest 1.10 × (net b1)" in lines
    assert "| net | 1 | 1.234 | 12.3 | – | 10.00 × |" in lines
    assert lines[-1] == "| net | 8 | – | – | – | – |"


def test_the_table_replaces_what_stood_between_the_comments() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert put(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter"
    with pytest.raises(ValueError, match="cpu table begins"):
        put("no comments", "new")
