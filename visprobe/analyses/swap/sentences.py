"""Sentences on the parts that carry a difference, which claim no more than their tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from visprobe.analyses.drift.noise_floor import furthest_noise_floor
from visprobe.analyses.swap.swap import WHOLE, Direction, column
from visprobe.results.result import Result, Row
from visprobe.results.statement import Statement, cka_text, compared, evidence

_BLOCK = re.compile(r"block_0*(\d+)")
_SAID = {
    "sufficient": ("Taken from {other} alone", "carries it measurably", "carry it measurably"),
    "necessary": ("Put back to {base}'s alone", "takes it away measurably", "take it away measurably"),
}


def swap_verdict(result: Result) -> list[Statement]:
    """State for every measure if there is a difference to place, and which parts carry it.

    The rules:

    - *a difference*: in CKA if base is more than six times as far from other as rounding to bfloat16 takes it from
      itself (`visprobe.analyses.drift.noise_floor`), in top-1 if McNemar's test rejects, each at the level of the
      settings. Without one there is no further statement on the measure.
    - *carried*: by the parts that, alone, take base significantly towards other (Holm over the parts; in CKA by more
      than six roundings and a twentieth of the distance, in top-1 in the direction of the difference), the largest
      step named; else "no single part carries it measurably".
    - *taken away*: by the parts of other that, put back to base's alone, likewise take it away from other.

    Args:
        result: A "swap" result.
    """
    measures = dict.fromkeys(test["measure"] for test in result.tests)
    return [statement for measure in measures for statement in _of_measure(result, measure)]


def carrying(result: Result, measure: str, direction: Direction) -> list[str]:
    """Return the parts that carry the difference in `measure`, in order of depth.

    A part carries it if its step is significant after Holm, in the direction of the difference.
    """
    if _p(result, measure, "all", WHOLE) >= result.settings["level"]:
        return []
    wanted = _sign(result, measure) * (-1 if direction == "necessary" else 1)
    return [
        part
        for part in result.settings["parts"]
        if _p(result, measure, direction, part) < result.settings["level"]
        and _step(result, measure, direction, part).estimate.value * wanted > 0
    ]


def _of_measure(result: Result, measure: str) -> Iterator[Statement]:
    what, site = measure.split("_", 1)
    consumed = f"at {result.settings['consumed']} (what the language model reads)"
    place = consumed if site == "consumed" else "after the projector"
    text, rows = (_likeness if what == "cka" else _accuracy)(result, measure, place)
    if _p(result, measure, "all", WHOLE) >= result.settings["level"]:
        yield Statement(f"{text}: there is no difference to place.", evidence(result, rows))
        return
    names = {key: result.settings[key] for key in ("base", "other")}
    for direction in _directions(result):
        parts = carrying(result, measure, direction)
        if parts:
            most = max((_step(result, measure, direction, part) for part in parts), key=lambda r: abs(r.estimate.value))
            rows.append(most)
            way, one, several = (said.format(**names) for said in _SAID[direction])
            most_of_it = _told(result, measure, most)
            tail = (
                f"{one} ({most_of_it})" if len(parts) == 1 else f"{several}, most {part_name(most.site)} ({most_of_it})"
            )
            text += f". {way}, {listed(parts)} {tail}"
        elif direction == "sufficient":
            text += ". No single part carries it measurably"
    yield Statement(f"{text}.", evidence(result, rows))


def _likeness(result: Result, measure: str, place: str) -> tuple[str, list[Row]]:
    [cka] = result.select(measure=measure, checkpoint=result.base, site=WHOLE, role="value")
    found = furthest_noise_floor(result, measure=measure, site=WHOLE)
    assert found is not None  # every swap has such baselines
    baseline, noise = found
    far = _p(result, measure, "all", WHOLE) < result.settings["level"]
    verb = "differ" if far else "do not measurably differ"
    text = (
        f"Representation {place}: {cka.checkpoint} and {cka.reference} {verb}, CKA {cka_text(cka.estimate.value)} "
        f"against {cka_text(baseline.estimate.value)} for {noise}"
    )
    return text, [cka, baseline]


def _accuracy(result: Result, measure: str, place: str) -> tuple[str, list[Row]]:
    base, other = result.base, result.settings["other"]
    [difference] = result.select(measure=measure, checkpoint=other, site=WHOLE, role="difference")
    own, theirs = (result.select(measure=measure, checkpoint=n, site=WHOLE, role="value") for n in (other, base))
    far = _p(result, measure, "all", WHOLE) < result.settings["level"]
    verb = ("sees better than" if difference.estimate.value > 0 else "sees worse than") if far else (
        "is not measurably different from"
    )  # fmt: skip
    return f"Accuracy {place}: {other} {verb} {base}, top-1 {compared(difference, own, theirs)}", [difference]


def _told(result: Result, measure: str, row: Row) -> str:
    if measure.startswith("top1"):
        return f"{100 * row.estimate.value:+.1f} points"
    [base] = result.select(measure=measure, checkpoint=result.base, site=WHOLE, role="value")
    share = abs(row.estimate.value) / (1 - base.estimate.value)
    return f"{100 * share:.0f} % of the distance"


def listed(parts: Sequence[str]) -> str:
    """Join parts, neighbouring blocks together: "embeddings, blocks 2-4 and the projector"."""
    spans: list[tuple[str, str]] = []
    for part in parts:
        number, before = _number(part), _number(spans[-1][1]) if spans else None
        if number is not None and before is not None and number == before + 1:
            spans[-1] = (spans[-1][0], part)
        else:
            spans.append((part, part))
    names = [part_name(first) if first == last else f"blocks {_number(first)}-{_number(last)}" for first, last in spans]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def part_name(part: str) -> str:
    """Return a part in words: "block 3", "the final norm", "blocks 1-4"."""
    number = _number(part)
    named = {"embeddings": "the embeddings", "final_norm": "the final norm", "projector": "the projector"}
    return f"block {number}" if number is not None else named.get(part, part)


def _number(part: str) -> int | None:
    match = _BLOCK.fullmatch(part)
    return int(match[1]) if match else None


def _directions(result: Result) -> list[Direction]:
    found = {test["direction"] for test in result.tests}
    every: tuple[Direction, ...] = ("sufficient", "necessary")
    return [direction for direction in every if direction in found]


def _sign(result: Result, measure: str) -> int:
    if measure.startswith("cka"):
        return 1
    [row] = result.select(measure=measure, checkpoint=result.settings["other"], site=WHOLE, role="difference")
    return 1 if row.estimate.value > 0 else -1


def _step(result: Result, measure: str, direction: Direction, part: str) -> Row:
    name = column(direction, result.base, result.settings["other"])
    [row] = result.select(measure=measure, checkpoint=name, site=part, role="difference")
    return row


def _p(result: Result, measure: str, direction: str, part: str) -> float:
    [p] = [
        test["p_holm"]
        for test in result.tests
        if (test["measure"], test["direction"], test["part"]) == (measure, direction, part)
    ]
    return float(p)
