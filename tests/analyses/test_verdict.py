from dataclasses import replace
from typing import Any

import pytest
from baseline_marks import kind

from visprobe.analyses.core.verdict import verdict
from visprobe.results.result import Estimate, Result, Role, Row
from visprobe.results.statement import Statement

ROUNDING = "base (bfloat16)"


def row(
    checkpoint: str,
    site: str,
    measure: str,
    numbers: tuple[float, float, float],
    reference: str | None = None,
    role: Role = "value",
) -> Row:
    return Row(
        checkpoint,
        site,
        measure,
        Estimate(*numbers, 1000, "fraction", "planted"),
        reference,
        role,
        kind(checkpoint, role),
    )


def cka(checkpoint: str, site: str, *numbers: float, role: Role = "value", reference: str = "base") -> Row:
    return row(checkpoint, site, "cka", numbers, reference, role)  # type: ignore[arg-type]


def drift(*rows: Row, still: tuple[str, ...] = (), **settings: Any) -> Result:
    """Every site of every descendant has moved, but those in `still`."""
    p: dict[str, dict[str, float]] = {}
    for one in rows:
        if one.role == "value":
            p.setdefault(one.checkpoint, {})[one.site] = 1.0 if one.site in still else 0.001
    return Result("drift", "?", rows, {"consumed": "block_02", "identical": [], "p_moved": p, **settings})


def imagenet(*rows: Row) -> Result:
    return Result("imagenet", "?", rows, {"consumed": "block_02", "chance": 0.1})


def with_baseline(result: Result, measure: str, **differences: tuple[float, float, float]) -> Result:
    """`result` with the paired differences of checkpoints to its baseline."""
    [baseline] = result.select(role="baseline", measure=measure)
    against = [
        {"checkpoint": name, "reference": baseline.checkpoint, "site": baseline.site, "measure": measure,
         **dict(zip(("value", "low", "high"), numbers, strict=True))}
        for name, numbers in differences.items()
    ]  # fmt: skip
    return replace(result, settings={**result.settings, "against_baselines": against})


def accuracies(difference: tuple[float, float, float], name: str = "sft", reference: str = "base") -> tuple[Row, ...]:
    return (
        row(reference, "block_02", "top1", (0.601, 0.57, 0.631)),
        row(name, "block_02", "top1", (0.612, 0.581, 0.642)),
        row(name, "block_02", "top1", difference, reference, "difference"),
    )


def texts(*results: Result) -> list[str]:
    return [statement.text for statement in verdict(results, "base")]


BASELINES = [cka(ROUNDING, f"block_0{i}", 0.9999, 0.9998, 0.99995, role="baseline") for i in range(3)]


def test_a_tower_moved_at_every_site_names_the_most_moved() -> None:
    rows = [
        cka("sft", "block_00", 0.998, 0.997, 0.999),
        cka("sft", "block_01", 0.981, 0.976, 0.986),
        cka("sft", "block_02", 0.99, 0.985, 0.995),
    ]
    assert texts(drift(*rows, *BASELINES)) == [
        "sft: the tower moved at every site; most at block_01: CKA 0.981 [0.976, 0.986] "
        "against 0.9999 for bfloat16 rounding."
    ]


def test_only_sites_beyond_rounding_count_as_moved() -> None:
    rows = [
        cka("sft", "block_00", 0.99985, 0.9997, 0.9999),
        cka("sft", "block_01", 0.9, 0.89, 0.91),
        cka("sft", "block_02", 0.5, 0.1, 0.9),
    ]
    assert "moved at 2 of 3 sites; most at block_02" in texts(drift(*rows, *BASELINES, still=("block_00",)))[0]


def test_drift_within_rounding_is_not_called_movement() -> None:
    rows = [cka("sft", f"block_0{i}", 0.9998, 0.9997, 0.99985) for i in range(3)]
    still = ("block_00", "block_01", "block_02")
    assert "did not measurably move" in texts(drift(*rows, *BASELINES, still=still))[0]


def test_movement_that_the_language_model_does_not_read_is_said_to_be_that() -> None:
    rows = [cka("sft", f"block_0{i}", 0.9, 0.89, 0.91) for i in range(4)]
    after, before = (texts(drift(*rows, still=still))[0] for still in (
        ("block_00", "block_01", "block_02"), ("block_00", "block_02")))  # fmt: skip
    assert "sft: the tower moved only where the language model does not read (block_03); most at block_03" in after
    assert "moved at 2 of 4 sites, what the language model reads (block_02) not measurably; most at block_01" in before


@pytest.mark.parametrize(("p", "still", "said"), [(0.01, True, True), (0.01, False, False), (0.2, True, False)])
def test_units_that_changed_where_cka_did_not_are_said_to_be_rotated(p: float, still: bool, said: bool) -> None:
    moved = cka("sft", "block_02", 0.99999, 0.99998, 1.0)
    error = row("sft", "block_02", "relative_error", (0.4, 0.3, 0.5), "base")
    baseline = row(ROUNDING, "block_02", "relative_error", (0.01, 0.009, 0.011), "base", "baseline")
    drifts = drift(moved, *BASELINES, still=("block_02",) if still else ())
    found = [
        text
        for text in texts(drifts, Result("similarity", "?", (error, baseline), {"p_moved": {"sft": {"block_02": p}}}))
        if "rotated" in text
    ]
    assert found == (
        ["sft: at block_02 units were permuted, rotated, scaled or shifted, which CKA does not see: relative error 0.4 "
         "[0.3, 0.5] against 0.01 of the number format, CKA 0.99999."] if said else []
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "added"),
    [((0.01, 0.009, 0.011), True), ((-0.01, -0.011, -0.009), False), ((0.01, -0.01, 0.03), False)],
)
def test_units_that_disagree_with_cka_on_who_is_closer_are_heard(error: tuple[float, ...], added: bool) -> None:
    cka_row = cka("dpo", "block_02", 0.05, 0.04, 0.06, role="difference", reference="sft")
    values = [cka(name, "block_02", 0.9, 0.89, 0.91) for name in ("sft", "dpo")]
    errors = Result("similarity", "?", (row("dpo", "block_02", "relative_error", error, "sft", "difference"),))  # type: ignore[arg-type]
    (text,) = [text for text in texts(drift(*values, cka_row), errors) if "closer to base than" in text]
    clause = "; unit by unit it is further from it: difference in relative error +0.010 [+0.009, +0.011]."
    assert text.endswith(clause if added else "[+0.040, +0.060].")


def many() -> list[Result]:
    """Six descendants: five moved, one of them most, one did not; one sees better; one pair differs in both."""
    names = [f"run-{i}" for i in range(6)]
    ckas = [cka(name, "block_02", 0.99 - 0.01 * i, 0.9, 0.999) for i, name in enumerate(names)]
    pairs = [(b, a) for i, a in enumerate(names) for b in names[i + 1 :]]
    apart = {("run-5", "run-1"): (-0.04, -0.05, -0.03)}
    between = [cka(b, "block_02", *apart.get((b, a), (0, -0.01, 0.01)), role="difference", reference=a)
               for b, a in pairs]  # fmt: skip
    drifts = drift(*ckas, *between)
    drifts.settings["p_moved"]["run-0"] = {"block_02": 0.7}
    gains = [row(name, "block_02", "top1", (0.02, 0.01 if i == 3 else -0.01, 0.03), "base", "difference")
             for i, name in enumerate(names)]  # fmt: skip
    weights = [
        row(name, "tower", "matrix_change", (v, v, v), "base") for name, v in zip(names, range(1, 7), strict=True)
    ]
    return [drifts, imagenet(*gains), Result("weights", "?", tuple(weights), {"identical": []})]


def test_many_descendants_are_summed_up_by_what_is_true_of_them() -> None:
    assert texts(*many()) == [
        "run-1, run-2, run-3, run-4 and run-5: the tower moved, what the language model reads (block_02) with it; "
        "CKA at the least similar site from 0.940 at block_02 (run-5) to 0.980 at block_02 (run-1).",
        "run-0: the tower did not measurably move; CKA at the least similar site 0.990 at block_02.",
        "run-0, run-1, run-2, run-3, run-4 and run-5: median relative change of the weight matrices that "
        "changed (Frobenius) from 100.0 % (run-0) to "
        "600.0 % (run-5).",
        "run-3 sees better than base at block_02 (what the language model reads): difference in top-1 +2.0 points.",
        "run-0, run-1, run-2, run-4 and run-5 are not measurably different from base at block_02 (what the language "
        "model reads): difference in top-1 +2.0 points.",
        "Pairs of descendants that differ in how far they are from base at block_02: 1 of 15, most run-5 from run-1: "
        "−0.040 [−0.050, −0.030]. Intervals are 95 % each: about 1 would by chance.",
    ]


def test_without_a_rounding_baseline_nothing_is_said_of_rounding() -> None:
    row = cka("sft", "block_01", 0.99, 0.98, 0.995)
    moved, still = (texts(drift(row, still=still))[0] for still in ((), ("block_01",)))
    assert "moved at every site" in moved
    assert "did not measurably move" in still
    assert "rounding" not in moved + still


def test_the_projector_is_not_a_site_of_the_tower() -> None:
    found = texts(drift(cka("sft", "block_01", 0.99, 0.98, 0.995), cka("sft", "projected", 0.5, 0.4, 0.6)))
    assert "most at block_01" in found[0]
    assert found[1] == "sft: the projector's output moved: CKA 0.500 [0.400, 0.600]."


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((0.011, 0.002, 0.02), "sft sees better than base at block_02 (what the language model reads)"),
        ((0.011, -0.003, 0.025), "sft is not measurably different from base at block_02"),
        ((0.0, 0.0, 0.0), "sft is not measurably different from base at block_02"),
        ((-0.02, -0.03, -0.01), "sft sees worse than base at block_02"),
    ],
)
def test_seeing_better_needs_an_interval_that_excludes_zero(difference: tuple[float, float, float], words: str) -> None:
    (text,) = texts(imagenet(*accuracies(difference)))
    assert text.startswith(words)


def test_accuracy_is_printed_with_difference_interval_and_n() -> None:
    (text,) = texts(imagenet(*accuracies((0.011, -0.003, 0.025))))
    assert text.endswith("top-1 61.2 % against 60.1 %, difference +1.1 points [−0.3, +2.5], n = 1000.")


def test_two_descendants_are_compared_with_each_other() -> None:
    dpo = accuracies((0.001, -0.01, 0.012), "dpo", "sft")
    drifts = drift(
        cka("sft", "block_02", 0.9, 0.89, 0.91),
        cka("dpo", "block_02", 0.95, 0.94, 0.96),
        cka("dpo", "block_02", 0.05, 0.04, 0.06, role="difference", reference="sft"),
    )
    found = texts(imagenet(*accuracies((0.011, 0.002, 0.02)), dpo[1], dpo[2]), drifts)
    assert "dpo is closer to base than sft at block_02: CKA difference +0.050 [+0.040, +0.060]." in found
    assert any(text.startswith("dpo is not measurably different from sft at block_02") for text in found)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((-0.05, -0.06, -0.04), "dpo is further from base than sft"),
        ((0.0, -0.01, 0.01), "dpo is not measurably further from or closer to base than sft"),
    ],
)
def test_distance_of_two_descendants_follows_the_interval(numbers: tuple[float, ...], words: str) -> None:
    values = [cka(name, "block_02", 0.9, 0.89, 0.91) for name in ("sft", "dpo")]
    found = texts(drift(*values, cka("dpo", "block_02", *numbers, role="difference", reference="sft")))
    assert found[-1].startswith(words)


@pytest.mark.parametrize("features", [[], ["copy"]])  # computed with in bfloat16, the features are the same too
def test_a_copy_of_the_base_in_bfloat16_is_called_that(features: list[str]) -> None:
    rows = (
        row("copy", "tower", "share_equal", (1, 1, 1), "base"),
        row("copy", "tower", "matrix_change", (0, 0, 0), "base"),
    )
    weights = Result("weights", "?", rows, {"identical": [], "rounded": {"copy": "bfloat16"}})
    said = [s.text for s in verdict([drift(identical=features), weights], "base")]
    assert len(said) == 1 and "copy: the vision tower is equal to base's rounded to bfloat16" in said[0]
    assert "not trained" not in said[0]


def test_copies_among_many_are_called_that_too() -> None:
    names = [f"run{n}" for n in range(5)]
    rows = tuple(row(name, "tower", "share_equal", (1, 1, 1), "base") for name in names)
    rounded = {names[0]: "bfloat16", names[1]: "bfloat16", names[2]: "float16"}
    weights = Result("weights", "?", rows, {"identical": names[3:], "rounded": rounded})
    said = [s.text for s in verdict([weights], "base")]
    found = [text for text in said if "rounded to" in text]
    assert found[0].startswith("run0 and run1: their vision towers are equal to base's rounded to bfloat16")
    assert found[1].startswith("run2: the vision tower is equal to base's rounded to float16")
    assert any(text.startswith("run3 and run4") and "not trained or not saved" in text for text in said)


def test_an_identical_tower_gets_one_statement_and_no_comparison_before_the_projector() -> None:
    weights = Result("weights", "?", (row("sft", "tower", "share_equal", (1, 1, 1), "base"),), {"identical": ["sft"]})
    statements = verdict([drift(identical=["sft"]), weights, imagenet(*accuracies((0, -0.001, 0.001)))], "base")
    assert [s.text for s in statements] == ["sft: the vision tower is identical to base's: not trained or not saved."]
    assert statements[0].evidence[0]["measure"] == "share_equal"


def test_weights_are_summed_up_with_their_most_changed_group() -> None:
    rows = [
        row("sft", site, "matrix_change", (v, v, v), "base")
        for site, v in {"block_01": 0.00012, "block_02": 0.004, "projector": 0.5, "tower": 0.002}.items()
    ]
    rows.append(row("sft", "tower", "matrices_changed", (0.5, 0.5, 0.5), "base"))
    result = Result("weights", "?", (*rows, row("sft", "tower", "share_equal", (0.9999, 0.9999, 0.9999), "base")))
    assert texts(result) == [
        "sft: 500 of 1000 weight matrices of the tower changed, by 0.2 % in the median of those (‖ΔW‖ / ‖W‖, "
        "Frobenius), in block_01 and block_02 (0.4 %); more than 99.9 % of all its weights are exactly equal."
    ]


def test_accuracy_at_the_baseline_is_called_out() -> None:
    base = row("base", "block_02", "top1", (0.13, 0.11, 0.15))
    untrained = row("untrained", "block_02", "top1", (0.12, 0.1, 0.14), role="baseline")
    assert texts(with_baseline(imagenet(base, untrained), "top1", base=(0.01, -0.005, 0.025))) == [
        "base's top-1 at block_02, 13.0 % [11.0, 15.0], is not clearly above that of the untrained encoder, "
        "12.0 % [10.0, 14.0]: +1.0 points [−0.5, +2.5]."
    ]
    assert not texts(with_baseline(imagenet(base, untrained), "top1", base=(0.01, 0.002, 0.018)))  # intervals overlap
    assert "not clearly above chance, 10.0 %" in texts(imagenet(row("base", "block_02", "top1", (0.1, 0.09, 0.12))))[0]
    clear = imagenet(row("base", "block_02", "top1", (0.3, 0.28, 0.32)), untrained)
    assert not texts(with_baseline(clear, "top1", base=(0.18, 0.15, 0.21)))


def test_answers_stand_beside_the_blind_score() -> None:
    rows = (
        row("base", "language_model", "accuracy/all", (0.7, 0.67, 0.73)),
        row("sft", "language_model", "accuracy/all", (0.45, 0.42, 0.48)),
        row("sft", "language_model", "accuracy/all", (-0.25, -0.28, -0.22), "base", "difference"),
        row("blind", "language_model", "accuracy/all", (0.44, 0.41, 0.47), role="baseline"),
    )
    answers = with_baseline(
        Result("answers", "?", rows), "accuracy/all", base=(0.26, 0.2, 0.3), sft=(0.01, -0.02, 0.04)
    )
    assert texts(answers) == [
        "base answers 70.0 % [67.0, 73.0] of 1000 questions right, above the 44.0 % [41.0, 47.0] of guessing "
        "without the image.",
        "sft answers 45.0 % [42.0, 48.0] of 1000 questions right, not clearly above the 44.0 % [41.0, 47.0] of "
        "guessing without the image.",
        "sft answers worse than base: 45.0 % against 70.0 %, difference −25.0 points [−28.0, −22.0], n = 1000.",
    ]


def test_every_statement_points_at_rows_that_exist() -> None:
    few = [drift(cka("sft", "block_01", 0.9, 0.89, 0.91), *BASELINES), imagenet(*accuracies((0.02, 0.01, 0.03)))]
    for results, count in ((few, 2), (many(), 6)):
        statements = verdict(results, "base")
        assert len(statements) == count
        assert all(statement.evidence for statement in statements)
        check_evidence(statements, results)


def check_evidence(statements: list[Statement], results: list[Result]) -> None:
    for reference in (reference for statement in statements for reference in statement.evidence):
        result = next(one for one in results if one.analysis == reference["analysis"])
        assert len(result.select(**{key: v for key, v in reference.items() if key != "analysis"})) == 1


def test_nothing_measured_says_nothing() -> None:
    assert verdict([], "base") == []
