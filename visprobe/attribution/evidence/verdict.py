"""Verdict on the scores of maps, in sentences that claim no more than their intervals."""

from __future__ import annotations

from collections.abc import Iterator

from visprobe.attribution.attributions import CENTRE, Attributions
from visprobe.attribution.evidence.per_image import SELECTIVITY, SPECIFICITY
from visprobe.results.result import Estimate, Result, Row
from visprobe.results.statement import Statement, evidence, listed

LEVEL = 0.05
_INSIDE, _FOCUS = "mass_inside", "gini"


def preferred(attributions: Attributions) -> Statement:
    """Count how often each checkpoint finds the chosen answer more likely than the rejected one.

    Where a model ranks the answers the other way, a map of their difference means the opposite.

    Args:
        attributions: Maps whose scores are log p(chosen) − log p(rejected).
    """
    counts = []
    for name in attributions.names:
        scores = [one.score for one in next(iter(attributions.maps[name].values()))]
        counts.append(f"{sum(score > 0 for score in scores)} of {len(scores)} questions for {name}")
    return Statement(f"The chosen answer is more likely than the rejected one in {listed(counts)}.", ())


def attribution_verdict(result: Result) -> list[Statement]:
    """Conclude whether maps lie where the answers lie, and whether post-training changed that.

    The rules:

    - With regions, the measure is the mass inside them; otherwise the focus of a map (its Gini coefficient).
    - *A method is to be trusted here* only if the base's maps beat the centre bias and random weights, each by a paired
      difference whose p, adjusted by Holm, is below 0.05, and if they follow the question: the interval of their
      selectivity is above 0, or, where no image has several questions, that of their specificity, which removes a bias
      to places where answers usually lie. Otherwise its sentence says what they do not beat. Without regions, only
      random weights are compared, in either direction. There is one sentence for each method and site.
    - *More, less, no measurable difference*: for the first method and site, by the paired difference of each checkpoint
      to the base, with p adjusted in the same way.

    Args:
        result: An "attribution" result.
    """
    measure = _INSIDE if result.settings["with_region"] >= 2 else _FOCUS
    base, places = result.base, result.sites
    found = {place: result.select(measure=measure, site=place, role="value") for place in places}
    said = [_against_controls(result, row) for rows in found.values() for row in rows if row.checkpoint == base]
    own = {row.checkpoint: row for row in found[places[0]]}
    if base in own:
        said += [_against_base(result, row, own[base]) for name, row in own.items() if name != base]
    return [statement for statement in said if statement is not None]


def _against_controls(result: Result, row: Row) -> Statement | None:
    inside = row.measure == _INSIDE
    controls = [name for name in result.settings["controls"] if inside or name != CENTRE]
    found = {name: _difference(result, row.checkpoint, name, row) for name in controls}
    shown = {name: one for name, one in found.items() if one is not None}
    if not shown:
        return None
    lost = [_NAMES.get(name, name) for name, (one, p) in shown.items()
            if p >= LEVEL or (inside and one.estimate.value <= 0)]  # fmt: skip
    numbers = [f"{_MINUS.get(name, name)} {_signed(one.estimate)}" for name, (one, _) in shown.items()]
    follows = list[Row]()
    for measure, what in ((SELECTIVITY, "question"), (SPECIFICITY, "picture")):
        for own in result.select(checkpoint=row.checkpoint, site=row.site, measure=measure, role="value"):
            follows.append(own)
            numbers.append(f"with the {what} {_signed(own.estimate)}")
            if own.estimate.low <= 0:
                lost.append(f"a map that ignores the {what}")
    if inside:
        text = f"{row.checkpoint}'s {row.site} maps have {_value(row.estimate)} of their mass where the answers lie"
        outcome = (
            f"that does not beat {' or '.join(lost)}, so they do not show where it looks"
            if lost
            else "they beat all controls"
        )
    else:
        text = f"{row.checkpoint}'s {row.site} maps have a Gini coefficient of {_value(row.estimate)}"
        focus = "less" if any(one.estimate.value < 0 for one, _ in shown.values()) else "more"
        outcome = "no other than that of random weights" if lost else f"{focus} focused than maps of random weights"
    rows = [row, *(one for one, _ in shown.values()), *follows]
    return Statement(f"{text}; {outcome} ({'; '.join(numbers)}).", evidence(result, rows))


def _against_base(result: Result, row: Row, base: Row) -> Statement | None:
    found = _difference(result, row.checkpoint, base.checkpoint, row)
    if found is None:
        return None
    difference, p = found
    sure, more = p < LEVEL, difference.estimate.value > 0
    if row.measure == _INSIDE:
        text = f"{row.checkpoint}'s maps have {'more' if more else 'less'} of their mass there than {base.checkpoint}'s"
        null = f"{row.checkpoint}'s maps have no measurably different share there than {base.checkpoint}'s"
    else:
        text = f"{row.checkpoint}'s maps are {'more' if more else 'less'} focused than {base.checkpoint}'s"
        null = f"{row.checkpoint}'s maps are not measurably more or less focused than {base.checkpoint}'s"
    numbers = f"{_signed(difference.estimate)}, n = {difference.estimate.n}, p = {p:.2g} after Holm"
    return Statement(f"{text if sure else null} ({numbers}).", evidence(result, [difference]))


def _difference(result: Result, name: str, reference: str, like: Row) -> tuple[Row, float] | None:
    """Return the paired difference of a measure, and its adjusted p."""
    wanted = {"checkpoint": name, "reference": reference, "site": like.site, "measure": like.measure}
    rows = result.select(**wanted, role="difference")
    tests: Iterator[float] = (
        test["p_holm"] for test in result.tests if all(test[key] == value for key, value in wanted.items())
    )
    return (rows[0], next(tests)) if rows else None


_MINUS = {CENTRE: "minus the centre bias", "randomised": "minus random weights"}
_NAMES = {CENTRE: "a bias to the middle", "randomised": "random weights"}


def _value(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _signed(estimate: Estimate) -> str:
    text = f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    return text.replace("-", "\N{MINUS SIGN}")
