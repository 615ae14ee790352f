"""Prints the results of ``cpu_bench`` as the Markdown table of the README, or writes it there.

    python -m benchmarks.table [--json FILE] [--write README.md]

The table stands between the two comments ``cpu table begins`` and ``cpu table ends``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results/cpu.json"
ENGINES = ("lamina", "onnxruntime", "openvino")

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Return machine, a row for each workload and batch, and the means, for each precision."""
    cases = results["cases"]
    lines = [machine_line(results)]
    for precision in dict.fromkeys(case["precision"] for case in cases):
        chosen = [case for case in cases if case["precision"] == precision]
        engines = [e for e in ENGINES if any(e in case.get("engines", {}) for case in chosen)]
        heads = [f"{engine}, ms" for engine in engines]
        lines += ["", mean_line(results, precision), ""]
        lines.append(row(["model", "batch", *heads, "as fast as the faster peer"]))
        lines.append(row(["---", *["--:"] * (len(heads) + 2)]))
        lines += [case_line(case, engines) for case in chosen]
    return "\n".join(lines)


def machine_line(results: Results) -> str:
    """Return what was measured where, in one line."""
    machine = results["machine"]
    packages = machine["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ENGINES[1:] if name in packages)
    return (
        f"Median milliseconds of a run on {machine['cpu']}, {results['threads']} threads, "
        f"{machine['date'][:10]}, interleaved in one process; {versions}."
    )


def mean_line(results: Results, precision: str) -> str:
    """Return the geometric mean of the speedups of a precision, and the smallest."""
    summary = results["summary"].get(precision, {})
    if "geometric_mean" not in summary:
        return f"**{precision}**"
    return (
        f"**{precision}**: geometric mean {summary['geometric_mean']:.2f} × the faster peer, "
        f"smallest {summary['minimum']:.2f} × ({summary['minimum_case']})"
    )


def case_line(case: Results, engines: list[str]) -> str:
    """Return a row; an engine that failed or has no such precision gets a dash."""
    found = case.get("engines", {})
    medians = [found.get(engine, {}).get("median_ms") for engine in engines]
    cells = ["–" if m is None else f"{m:.3f}" if m < 10 else f"{m:.1f}" for m in medians]
    speedup = f"{case['speedup']:.2f} ×" if "speedup" in case else "–"
    return row([case["workload"], str(case["batch"]), *cells, speedup])


def row(cells: list[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def put(page: str, name: str, table: str) -> str:
    """Return a page with a table between its comments ``NAME table begins`` and ``... ends``.

    Raises ``ValueError`` where the page lacks them.
    """
    begin, end = f"<!-- {name} table begins -->", f"<!-- {name} table ends -->"
    if begin not in page or end not in page:
        raise ValueError(f"the page has no {begin} … {end}")
    between = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    return between.sub(lambda _: f"{begin}\n{table}\n{end}", page)


def main() -> None:
    """Print the table, or write it into the page that ``--write`` names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    table = markdown(json.loads(options.json.read_text()))
    if options.write is None:
        print(table)
    else:
        options.write.write_text(put(options.write.read_text(), "cpu", table))


if __name__ == "__main__":
    main()
