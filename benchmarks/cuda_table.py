"""Prints the results of ``cuda_bench`` as Markdown, or writes them where people read them.

    python -m benchmarks.cuda_table [--json FILE] [--write README.md] [--layers FILE.md]

``--write`` puts the table of times between the comments ``gpu table begins`` and ``gpu table ends``
of a page; ``--layers`` writes, for each case, the kinds of layers that take the longest with the
floors of their bytes and operations.

torch.compile takes minutes for a case.  Where a case has a peer's time from another run, as
``compile_elsewhere``, the table marks it with a star, scaled by torch's times in both runs where
these are known (``eager_microseconds`` is that of the other run).
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

from benchmarks.table import put, row

RESULTS = pathlib.Path(__file__).parent / "results/cuda.json"
PEERS = {"eager": "torch", "compile": "torch.compile"}
_MOST_LAYERS = 5

Case = dict[str, Any]


def markdown(results: dict[str, Any]) -> str:
    """Return a row for each case: times, the ratio to the faster peer, accuracy, build seconds."""
    machine = results["machine"]
    heads = ["model", "batch", "type", "lamina, ms", *(f"{p}, ms" for p in PEERS.values())]
    heads += ["as fast as the faster", "SQNR, dB (torch's)", "build, s", "warm, s"]
    lines = [
        f"Milliseconds of a run on one {machine['device']}, torch {machine['torch']}, "
        f"{machine['date'][:10]}.",
        "",
        row(heads),
        row(["---", "--:", "---", *["--:"] * (len(heads) - 3)]),
    ]
    return "\n".join([*lines, *map(_case_line, results["results"])])


def _case_line(case: Case) -> str:
    """Return a row; a peer that was not run gets a dash."""
    own = case.get("lamina", {})
    peers = [us for p in PEERS if (us := _microseconds(case, p)) is not None]
    ratio = f"{min(peers) / own['microseconds']:.2f} ×" if own and peers else "–"
    accuracy = "–"
    if own:
        accuracy = f"{own['sqnr_db']:.0f}"
        accuracy += f" ({case['eager']['sqnr_db']:.0f})" if "eager" in case else ""
    cells = [case["model"], str(case["batch"]), case["dtype"], _milliseconds(case, "lamina")]
    cells += [_milliseconds(case, p) for p in PEERS]
    build = f"{own['build_seconds']:.1f}" if own else "–"
    warm = f"{case['warm_build_seconds']:.1f}" if own else "–"
    return row([*cells, ratio, accuracy, build, warm])


def _milliseconds(case: Case, engine: str) -> str:
    us = _microseconds(case, engine)
    return "–" if us is None else f"{us / 1e3:.3f}{'' if engine in case else ' *'}"


def _microseconds(case: Case, engine: str) -> float | None:
    """Return the time of an engine, scaled to this run if it was measured in another."""
    if engine in case:
        return float(case[engine]["microseconds"])
    then = case.get(f"{engine}_elsewhere")
    if then is None:
        return None
    scale = 1.0
    if "eager_microseconds" in then:
        scale = case["eager"]["microseconds"] / then["eager_microseconds"]
    return float(then["microseconds"] * scale)


def layers(results: dict[str, Any]) -> str:
    """Return a page with the kinds of layers of each case that take the longest."""
    machine = results["machine"]
    lines = [
        "# Where the time goes on a GPU",
        "",
        f"{machine['device']}, {machine['date'][:10]}; written by `python -m benchmarks.cuda_table "
        "--layers`. A floor is the longer of a layer's bytes at the card's copy rate and its "
        "operations at its rate of matrix products, both measured there. Layers are timed one by "
        "one, so their sum differs from a run's time.",
    ]
    for case in results["results"]:
        if case.get("layers"):
            lines += ["", *_case_layers(case)]
    return "\n".join(lines) + "\n"


def _case_layers(case: Case) -> list[str]:
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for t in case["layers"]:
        pair = (t["microseconds"], t["floor_microseconds"])
        groups.setdefault((t["layer"], t["tactic"].split(" ")[0]), []).append(pair)
    total, floor = (sum(pair[i] for g in groups.values() for pair in g) for i in (0, 1))
    run = case["lamina"]["microseconds"]
    lines = [
        f"## {case['model']}, batch {case['batch']}, {case['dtype']}: {run:.0f} µs",
        "",
        f"{len(case['layers'])} layers, {total:.0f} µs one by one, {floor:.0f} µs of floors.",
        "",
        row(["layers", "kernels", "number", "µs", "floors, µs", "× of the floors"]),
        row(["---", "---", *["--:"] * 4]),
    ]
    slowest = sorted(groups.items(), key=lambda g: -sum(us for us, _ in g[1]))
    for (layer, tactic), pairs in slowest[:_MOST_LAYERS]:
        us, least = (sum(pair[i] for pair in pairs) for i in (0, 1))
        ratio = f"{us / least:.1f}" if least else "–"
        lines.append(row([layer, tactic, str(len(pairs)), f"{us:.1f}", f"{least:.1f}", ratio]))
    return lines


def main() -> None:
    """Print the table, or write what the options name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--layers", type=pathlib.Path)
    options = parser.parse_args()
    results = json.loads(options.json.read_text())
    if options.layers is not None:
        options.layers.write_text(layers(results))
    if options.write is not None:
        options.write.write_text(put(options.write.read_text(), "gpu", markdown(results)))
    if options.layers is None and options.write is None:
        print(markdown(results))


if __name__ == "__main__":
    main()
