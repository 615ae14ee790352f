"""Writes the plan files that every later version must be able to load.

Run ``python -m tests.plan.make_golden`` once per format version, before that version is released;
files of a released version are never written again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lamina.plan.format import VERSION
from tests.plan.plans import KINDS, engine, feed

FOLDER = Path(__file__).parents[1] / "data" / "plans"


def main() -> None:
    """Write a plan with inputs and results of every kind."""
    folder = FOLDER / f"v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        engine(kind).save(folder / f"{kind}.plan")
        inputs = feed(kind)
        results = engine(kind).run(inputs)
        arrays = {f"in_{n}": x for n, x in inputs.items()}
        arrays |= {f"out_{n}": y for n, y in results.items()}
        np.savez_compressed(folder / f"{kind}.npz", **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
