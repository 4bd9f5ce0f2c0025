"""A planted exchange of parts: block 2 carries the difference, nothing else does."""

from functools import partial

from baseline_marks import kind

from visprobe.analyses.swap.swap import DIRECTIONS, WHOLE, column
from visprobe.results.result import Estimate, Result, Role, Row

PARTS = ("embeddings", "block_01", "block_02", "block_03", "projector")


def _row(measure: str, name: str, part: str, value: float, role: Role = "value", reference: str | None = None) -> Row:
    unit, half = ("CKA", 0.001) if measure.startswith("cka") else ("fraction", 0.01)
    estimate = Estimate(value, value - half, value + half, 1000, unit, "jackknife 95 %")
    return Row(name, part, measure, estimate, reference, role, kind(name, role))


def planted_swap(checkpoints: tuple[str, ...]) -> Result:
    base, other = checkpoints[0], checkpoints[2] if len(checkpoints) > 2 else checkpoints[-1]
    rows, tests = [], []
    for measure, start, end in (("cka_consumed", 0.98, 1.0), ("top1_consumed", 0.60, 0.64)):
        row = partial(_row, measure)
        rows.append(row(base, WHOLE, start, reference=other))
        if measure.startswith("cka"):
            rows.append(row(f"{base} (bfloat16)", WHOLE, 0.99999, "baseline", base))
        else:
            rows += [row(other, WHOLE, end), row(other, WHOLE, end - start, "difference", base)]
        tests.append({"direction": "all", "part": WHOLE, "measure": measure, "p": 1e-6, "p_holm": 1e-6})
        for way in DIRECTIONS:
            for place, part in enumerate(PARTS):
                reached = place >= 2 if way == "cumulative" else part == "block_02"
                step = (end - start) * reached * (-1 if way == "necessary" else 1)
                reference = other if way == "necessary" else base
                rows.append(row(column(way, base, other), part, step, "difference", reference))
                p = 1e-4 if reached else 0.5
                if way != "cumulative":
                    tests.append({"direction": way, "part": part, "measure": measure, "p": p, "p_holm": p})
    settings = {
        "base": base,
        "other": other,
        "consumed": "block_03",
        "parts": list(PARTS),
        "level": 0.05,
        "tests": tests,
    }
    return Result("swap", "Which part carries the difference?", tuple(rows), settings)
