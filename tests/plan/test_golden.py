"""Plan files of earlier versions still load, or are compiled again, with the same results.

Where a change of the format is deliberate, ``VERSION`` in ``lamina.plan.format`` goes up, and
``python -m tests.plan.make_golden`` writes the files of the new version.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lamina
from lamina.errors import PlanError
from lamina.plan.format import VERSION
from tests.plan.make_golden import FOLDER
from tests.plan.plans import KINDS

FILES = sorted(FOLDER.rglob("*.plan"))


def test_the_current_version_has_a_file_of_every_kind() -> None:
    have = {f.stem for f in FILES if f.parent.name == f"v{VERSION}"}
    assert have == set(KINDS)
    assert sum(f.stat().st_size for f in FILES) < 200_000


@pytest.mark.parametrize("native_code", [True, False])
@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_a_file_still_gives_its_results(
    file: Path, native_code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    if file.parent.name != f"v{VERSION}":
        with pytest.raises(PlanError, match="format"):
            lamina.load(file)
        return
    arrays = np.load(file.with_suffix(".npz"))
    inputs = {n.removeprefix("in_"): arrays[n] for n in arrays.files if n.startswith("in_")}
    results = lamina.load(file, native_code=native_code).run(inputs)
    wanted = {n.removeprefix("out_"): arrays[n] for n in arrays.files if n.startswith("out_")}
    assert results.keys() == wanted.keys()
    for name, y in wanted.items():
        assert results[name].dtype == y.dtype
        # Another CPU may compile other kernels, which sum in another order.
        np.testing.assert_allclose(results[name], y, rtol=1e-4, atol=1e-5)
