"""Options of the tests."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption(
        "--gpu-results",
        metavar="FILE",
        help="with -m gpu: write what the conformance cases showed on the GPU, as JSON",
    )
