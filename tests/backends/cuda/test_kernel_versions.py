"""Times of kernels that have changed since are not taken from the cache."""

from __future__ import annotations

import pytest
from tests.backends.cuda.simulation import SIMULATED_ARCH
from tests.backends.cuda.test_measure import JOINED, Times, build

from lamina import ops
from lamina.backends.cuda import kernel_sources
from lamina.backends.cuda.kernel_sources import generator_digest, module_digest
from lamina.backends.cuda.kernel_versions import KernelVersions
from lamina.backends.cuda.request import MODULE
from lamina.backends.cuda.tactics import TACTICS
from lamina.backends.cuda.target import TARGETS
from lamina.ir.text import parse_graph
from lamina.tactics.cache import TimingCache

PACKAGE = f"{MODULE}lamina.backends.cuda.kernels."


@pytest.fixture
def sources(monkeypatch):
    """Return the texts of changed modules, to be filled; digests are made anew."""
    changed = {}
    real = kernel_sources._text.__wrapped__
    monkeypatch.setattr(kernel_sources, "_text", lambda name: changed.get(name) or real(name))
    module_digest.cache_clear()
    yield changed
    module_digest.cache_clear()


def learned(text=JOINED):
    versions = KernelVersions()
    target = TARGETS[SIMULATED_ARCH]
    for node in parse_graph(text, ops.BY_NAME).nodes():
        for tactic in TACTICS:
            found = tactic.candidates(node, target)
            versions.learn(node, found if isinstance(found, list) else [])
    return versions


def test_a_digest_follows_what_a_module_imports(sources):
    before = {m: module_digest(PACKAGE + m) for m in ("convolution", "attention", "boxes")}
    module_digest.cache_clear()
    sources["matmul"] = "changed"
    after = {m: module_digest(PACKAGE + m) for m in before}
    assert before["attention"] == after["attention"]
    assert before["convolution"] != after["convolution"]  # which takes places of tiles from there
    assert before["boxes"] != after["boxes"]
    assert module_digest("module:elsewhere") == ""


def test_a_changed_kernel_changes_the_versions_of_its_tactics_alone(sources):
    before = learned()
    module_digest.cache_clear()
    sources["convolution"] = "changed"
    after = learned()
    tactics = ("triton-conv-1x1 64x64", "codegen 0")
    assert all(len(before.of(t)) == 6 for t in tactics)
    assert before.of("codegen 0") == after.of("codegen 0")
    assert before.of("triton-conv-1x1 64x64") == after.of("triton-conv-1x1 32x32")
    assert before.of("never seen") == ""
    module_digest.cache_clear()
    sources["epilogue"] = "changed"
    assert learned().of("triton-conv-1x1") != before.of("triton-conv-1x1")


def test_builds_time_changed_kernels_again(monkeypatch, sources):
    bench, cache = Times(lambda trial: 1.0), TimingCache(None, "")
    build(monkeypatch, bench, cache)
    asked = len(bench.asked)
    build(monkeypatch, bench, cache)
    assert len(bench.asked) == asked
    names = {t for row in cache.times[cache.machine].values() for t in row}
    assert any(" #" in t for t in names)
    module_digest.cache_clear()
    sources["matmul"] = "changed"
    build(monkeypatch, bench, cache)
    again = {t.candidate.tactic.split()[0] for t in bench.asked[asked:]}
    assert again == {"triton-conv-1x1"}


def test_the_generator_has_a_digest():
    assert len(generator_digest()) == 32
