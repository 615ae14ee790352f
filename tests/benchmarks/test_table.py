from __future__ import annotations

import pytest
from benchmarks import cuda_table
from benchmarks.table import markdown, put

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
    begin, end = "<!-- gpu table begins -->", "<!-- gpu table ends -->"
    page = f"before\n{begin}\nold\n{end}\nafter"
    assert put(page, "gpu", "new") == f"before\n{begin}\nnew\n{end}\nafter"
    with pytest.raises(ValueError, match="cpu table begins"):
        put(page, "cpu", "new")


LAYER = {"layer": "matmul", "tactic": "triton-matmul 64x64x64 w4", "floor_microseconds": 2.0}
GPU = {
    "machine": {"device": "Some GPU", "torch": "9.9", "date": "2026-01-02T03:04:05+00:00"},
    "results": [
        {
            "model": "net",
            "batch": 4,
            "dtype": "f16",
            "warm_build_seconds": 0.5,
            "lamina": {"microseconds": 1000.0, "sqnr_db": 59.6, "build_seconds": 12.0},
            "eager": {"microseconds": 3000.0, "sqnr_db": 61.0},
            "compile": {"microseconds": 2000.0, "sqnr_db": 61.0},
            "layers": [LAYER | {"microseconds": 3.0}, LAYER | {"microseconds": 5.0}],
        },
        {"model": "net", "batch": 8, "dtype": "f16", "error": "crashed"},
    ],
}


def test_gpu_cases_are_compared_with_the_faster_peer() -> None:
    lines = cuda_table.markdown(GPU).splitlines()
    assert lines[0].endswith("on one Some GPU, torch 9.9, 2026-01-02.")
    wanted = "| net | 4 | f16 | 1.000 | 3.000 | 2.000 | 2.00 × | 60 (61) | 12.0 | 0.5 |"
    assert wanted in lines
    assert lines[-1] == "| net | 8 | f16 | – | – | – | – | – | – | – |"


def test_layers_of_a_kind_stand_together_with_their_floors() -> None:
    page = cuda_table.layers(GPU)
    assert "2 layers, 8 µs one by one, 4 µs of floors." in page
    assert "| matmul | triton-matmul | 2 | 8.0 | 4.0 | 2.0 |" in page
    assert "batch 8" not in page
