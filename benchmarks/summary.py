"""Condenses measured cases: geometric mean and minimum of the speedups, and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

CaseResult = dict[str, Any]


def summarize(cases: Sequence[CaseResult]) -> dict[str, Any]:
    """Return, for each precision, how fast Lamina is relative to the faster peer.

    Cases without a speedup (a failure, or no Lamina) are counted in ``not_measured``.
    """
    summary = {}
    for precision in dict.fromkeys(case["precision"] for case in cases):
        chosen = [case for case in cases if case["precision"] == precision]
        measured = [case for case in chosen if "speedup" in case]
        entry: dict[str, Any] = {
            "cases": len(measured),
            "not_measured": [label(case) for case in chosen if "speedup" not in case],
        }
        if measured:
            slowest = min(measured, key=lambda case: float(case["speedup"]))
            entry |= {
                "geometric_mean": round(geometric_mean([c["speedup"] for c in measured]), 4),
                "minimum": slowest["speedup"],
                "minimum_case": label(slowest),
                "below_one": [label(case) for case in measured if case["speedup"] < 1],
            }
        summary[precision] = entry
    return summary


def geometric_mean(values: Sequence[float]) -> float:
    """Return the n-th root of the product of n positive values; none raise ``ValueError``."""
    if not values:
        raise ValueError("the geometric mean of no values is undefined")
    return math.exp(sum(math.log(value) for value in values) / len(values))


def label(case: CaseResult) -> str:
    """Return the workload's name and batch."""
    return f"{case['workload']} b{case['batch']}"


def table(cases: Sequence[CaseResult], engines: Sequence[str]) -> str:
    """Return an aligned table of each engine's median milliseconds.

    Then Lamina's speedup over the faster peer, the worst engine's SQNR against f32, and how many
    cores other processes kept busy meanwhile (high: measure again).
    """
    rows = [
        ["model", "batch", "prec.", *(f"{e}, ms" for e in engines), "speedup", "SQNR dB", "others"]
    ]
    for case in cases:
        results = case.get("engines", {})
        speedup = f"{case['speedup']:.2f}" if "speedup" in case else "-"
        quality = [r["sqnr_db"] for r in results.values() if r.get("sqnr_db") is not None]
        rows.append(
            [
                case["workload"],
                str(case["batch"]),
                case["precision"],
                *(_cell(case, results.get(engine)) for engine in engines),
                speedup,
                f"{min(quality):.0f}" if quality else "-",
                f"{case.get('other_processes_cores', 0):.2f}",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _cell(case: CaseResult, result: dict[str, Any] | None) -> str:
    if "error" in case:
        return "crashed"
    if result is None:
        return "-"
    return f"{result['median_ms']:.3f}" if "median_ms" in result else "failed"


def _line(row: list[str], widths: list[int]) -> str:
    first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
    return "  ".join([first, *(cell.rjust(width) for cell, width in rest)])
