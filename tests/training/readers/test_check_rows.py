"""Every row is looked at before training; the unusable ones are counted by reason, and too many of them are refused."""

import pytest

from visprobe.data.allowed_bad import allowed_bad
from visprobe.data.rows import BadRow, Row, Turn
from visprobe.errors import DataError, UsageError
from visprobe.training.rows.check import merged, refuse_bad, survey
from visprobe.training.rows.llava import llava_json
from visprobe.training.rows.usable import UsableRows, fit, preference, supervised, verifiable

QUESTION, ANSWER = Turn("user", "<image>\nWhat?"), Turn("assistant", "A dog.")
TALK = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]


def prompt(row, sizes):
    """What a model is told of a row, for tests that are not about models."""
    return row.turns[0].text


@pytest.fixture
def odd(put_image, put_json):
    """Ten rows; 0, 3 and 9 are good."""
    for name in ("good.jpg", "png.jpg", "é.jpg"):
        put_image(name, kind="PNG")
    put_image("cut.jpg", size=(64, 64)).write_bytes(b"\xff\xd8\xff\xe0 cut")
    return llava_json(
        put_json(
            "odd.json",
            [
                {"image": "good.jpg", "conversations": TALK},
                {"image": "no.jpg", "conversations": TALK},
                {"image": "no2.jpg", "conversations": TALK},
                {"image": "é.jpg", "conversations": TALK, "license": 3, "width": None},
                {"image": None, "conversations": TALK},
                {"image": "cut.jpg", "conversations": TALK, "source": "web"},
                {"image": "good.jpg", "conversations": [{"from": "narrator", "value": "x"}]},
                {"image": "good.jpg", "conversations": [TALK[0], {"from": "gpt", "value": ""}]},
                {"image": ["good.jpg"] * 3, "conversations": [{"from": "human", "value": "<image>"}, TALK[1]]},
                {"image": "png.jpg", "conversations": TALK},
            ],
        )
    )


def test_reasons_are_counted_with_an_example_each(odd):
    found = survey(odd, supervised, prompt)
    assert found.usable == [0, 3, 9] and len(found.skipped) == 7
    assert found.reasons == {
        "missing image": 2,
        "no image": 1,
        "unreadable image": 1,
        "unknown role": 1,
        "empty answer": 1,
        "<image> marks do not match the images": 1,
    }
    assert found.examples["missing image"] == "odd.json#1: missing image: no.jpg"
    assert found.unused == {"odd.json": ("license", "source")}
    assert "no image" not in survey(odd, supervised, prompt, image_required=False).reasons


def test_the_shares_of_several_processes_make_the_whole(odd):
    whole = survey(odd, supervised, prompt)
    parts = [survey(odd, supervised, prompt, indices=range(start, 10, 3)) for start in range(3)]
    assert merged(parts) == whole and merged(parts).prompts_hash == whole.prompts_hash


def test_the_hash_of_prompts_is_that_of_what_is_told(odd, put_json):
    first = survey(odd, supervised, prompt).prompts_hash
    assert survey(odd, supervised, prompt, indices=range(4)).prompts_hash != first
    assert survey(odd, supervised, lambda row, sizes: row.turns[0].text + "!").prompts_hash != first
    assert survey(odd, supervised, lambda row, sizes: f"<image>\nWhat?{sizes[0] and ''}").prompts_hash == first


def test_only_usable_rows_are_trained_on_each_once(odd):
    rows = UsableRows(odd, supervised, survey(odd, supervised, prompt).usable)
    assert [rows[i].id for i in range(len(rows))] == ["odd.json#0", "odd.json#3", "odd.json#9"]
    assert rows.image(rows[1].images[0]).mode == "RGB"


def test_what_is_gone_after_the_check_ends_the_run(odd):
    rows = UsableRows(odd, supervised, survey(odd, supervised, prompt).usable)
    (odd.images / "png.jpg").unlink()
    with pytest.raises(DataError, match=r"odd.json: missing image: png.jpg; it could be read when training began"):
        rows.image(rows[2].images[0])


def test_an_image_of_many_rows_is_decoded_once(put_image, put_json, monkeypatch):
    put_image("one.png", kind="PNG")
    rows = llava_json(put_json("same.json", [{"image": "one.png", "conversations": TALK}] * 600))
    asked = []
    image = rows.image
    monkeypatch.setattr(rows, "image", lambda key: asked.append(key) or image(key))
    assert len(survey(rows, supervised, prompt).usable) == 600 and asked == ["one.png"]


@pytest.mark.parametrize(
    ("most", "total", "allowed"),
    [("1%", 12, 1), ("1%", 200, 2), ("1%", 201, 3), ("0%", 99, 0), ("0", 9, 0), ("7", 9, 7)],
)
def test_a_share_is_rounded_up_so_that_one_row_of_few_may_be_bad(most, total, allowed):
    assert allowed_bad(most, total, round_up=True) == allowed


@pytest.mark.parametrize("most", ["much", "1.5", "-1", "%"])
def test_how_many_may_be_bad_is_a_number_or_a_share(most):
    with pytest.raises(UsageError, match="neither a number nor a percentage"):
        allowed_bad(most, 10)


def test_too_many_bad_rows_are_refused_with_their_reasons(odd):
    found = survey(odd, supervised, prompt)
    with pytest.raises(UsageError) as caught:
        refuse_bad(found, "odd.json", "sft", "50%")
    assert "6 of 10 rows of odd.json cannot be used for sft, and --max-bad allows 5: missing image (2)" in str(
        caught.value
    )
    assert "empty answer (1), for example odd.json#7" in caught.value.message and "no image" not in caught.value.message
    refuse_bad(found, "odd.json", "sft", "6")  # a row without image is left out by the recipe, and is not bad


def test_a_set_without_any_good_row_is_refused_whatever_is_allowed(put_json):
    bad = [{"image": f"{i}.jpg", "prompt": "q", "answer": "a"} for i in range(5)]
    for rows, words in (
        (bad, r"no row of bad.json can be used for grpo: missing image \(5\), for example bad.json#0"),
        ([{"prompt": "q", "answer": "a"}], r"no row of bad.json can be used for grpo: no image \(1\)"),
        ([], "bad.json holds no row"),
    ):
        found = survey(llava_json(put_json("bad.json", rows)), verifiable, prompt)
        with pytest.raises(UsageError, match=words) as caught:
            refuse_bad(found, "bad.json", "grpo", "100%")
        assert caught.value.exit_code == 2


def test_one_preference_row_serves_both_arms():
    row = Row("x", (QUESTION,), ("a",), chosen="A dog.", rejected="A cat.")
    assert fit(row, supervised).turns == (QUESTION, ANSWER)
    assert fit(row, preference) == row


def test_a_supervised_row_with_a_reference_serves_a_reward():
    row = Row("x", (QUESTION, ANSWER), ("a",), answer="dog")
    assert fit(row, verifiable).turns == (QUESTION,)
    assert fit(row, supervised) == row
    assert fit(Row("x", (QUESTION,), ("a",), answer="A dog."), supervised).turns == (QUESTION, ANSWER)


@pytest.mark.parametrize(
    "row, need, reason",
    [
        (Row("x", (QUESTION, ANSWER), ("a",)), preference, "no pair of answers"),
        (Row("x", (QUESTION, ANSWER), ("a",), chosen="a", rejected="b"), preference, "does not end with a question"),
        (Row("x", (QUESTION, ANSWER), ("a",)), verifiable, "no reference answer"),
        (Row("x", (QUESTION, ANSWER), ("a",), answer=" "), verifiable, "no reference answer"),
        (Row("x", (QUESTION,), ("a",)), supervised, "no answer"),
        (Row("x", (QUESTION, ANSWER)), supervised, "no image"),
        (Row("x", (ANSWER,), ("a",), answer="x"), verifiable, "does not end with a question"),
        (Row("x", (QUESTION, Turn("assistant", "A dog.", learned=False)), ("a",)), supervised, "not to be learned"),
    ],
)
def test_what_a_stage_cannot_train_on(row, need, reason):
    with pytest.raises(BadRow, match=reason):
        fit(row, need)
