"""Bad rows are skipped and counted; only a set without any good row is an error."""

import pytest

from visprobe.errors import DataError
from visprobe.training.readers.check import fit, scan, usable
from visprobe.training.readers.llava import llava_json
from visprobe.training.rows import BadRow, Row, Turn

QUESTION, ANSWER = Turn("user", "<image>\nWhat?"), Turn("assistant", "A dog.")


@pytest.fixture
def odd(put_image, put_json):
    """Ten rows; 0, 3 and 9 are good."""
    for name in ("good.jpg", "png.jpg", "é.jpg"):
        put_image(name, kind="PNG")
    put_image("cut.jpg", size=(64, 64)).write_bytes(b"\xff\xd8\xff\xe0 cut")
    talk = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
    return llava_json(
        put_json(
            "odd.json",
            [
                {"image": "good.jpg", "conversations": talk},
                {"image": "no.jpg", "conversations": talk},
                {"image": "no2.jpg", "conversations": talk},
                {"image": "é.jpg", "conversations": talk},
                {"image": None, "conversations": talk},
                {"image": "cut.jpg", "conversations": talk},
                {"image": "good.jpg", "conversations": [{"from": "narrator", "value": "x"}]},
                {"image": "good.jpg", "conversations": [talk[0], {"from": "gpt", "value": ""}]},
                {"image": ["good.jpg"] * 3, "conversations": [{"from": "human", "value": "<image>"}, talk[1]]},
                {"image": "png.jpg", "conversations": talk},
            ],
        )
    )


def test_reasons_are_counted_with_an_example_each(odd):
    report = scan(odd, "supervised")
    assert report.checked == 10
    assert report.bad == {
        "missing image": 2,
        "no image": 1,
        "unreadable image": 1,
        "unknown role": 1,
        "empty answer": 1,
        "<image> marks do not match the images": 1,
    }
    assert report.examples["missing image"] == "odd.json#1: missing image: no.jpg"
    assert scan(odd, "supervised", limit=2).bad == {"missing image": 1}
    assert "no image" not in scan(odd, "supervised", image_required=False).bad


def test_iteration_skips_and_indexing_goes_to_the_next_good_row(odd):
    rows = usable(odd, "supervised")
    assert [rows[i].index for i in (0, 1, 4, 9)] == [0, 3, 9, 9]
    assert [example.index for example in rows] == [0, 3, 9]
    assert rows.report().bad["missing image"] == 2 and len(rows.skipped) == 7
    assert all(len(example.images) == 1 and example.images[0].mode == "RGB" for example in rows)
    with pytest.raises(IndexError):
        rows[10]


def test_nothing_is_read_before_it_is_asked_for(odd):
    rows = usable(odd, "supervised")
    assert rows[0].index == 0 and rows.skipped == {}


def test_a_set_without_any_good_row_is_one_error(put_json):
    rows = llava_json(put_json("bad.json", [{"image": f"{i}.jpg", "prompt": "q", "answer": "a"} for i in range(5)]))
    for attempt in (lambda: usable(rows, "reward")[3], lambda: list(usable(rows, "reward"))):
        with pytest.raises(DataError) as caught:
            attempt()
        assert "commonest reason: missing image, 5 of 5 rows, for example bad.json#" in caught.value.message
        assert "image" in caught.value.hint
    with pytest.raises(DataError, match="holds no row"):
        list(usable(llava_json(put_json("none.json", [])), "reward"))


def test_one_preference_row_serves_both_arms():
    row = Row("x", (QUESTION,), ("a",), chosen="A dog.", rejected="A cat.")
    assert fit(row, "supervised").turns == (QUESTION, ANSWER)
    assert fit(row, "preference") == row


def test_a_supervised_row_with_a_reference_serves_a_reward():
    row = Row("x", (QUESTION, ANSWER), ("a",), answer="dog")
    assert fit(row, "reward").turns == (QUESTION,)
    assert fit(row, "supervised") == row
    assert fit(Row("x", (QUESTION,), ("a",), answer="A dog."), "supervised").turns == (QUESTION, ANSWER)


@pytest.mark.parametrize(
    "row, need, reason",
    [
        (Row("x", (QUESTION, ANSWER), ("a",)), "preference", "no pair of answers"),
        (Row("x", (QUESTION, ANSWER), ("a",), chosen="a", rejected="b"), "preference", "does not end with a question"),
        (Row("x", (QUESTION, ANSWER), ("a",)), "reward", "no reference answer"),
        (Row("x", (QUESTION,), ("a",)), "supervised", "no answer"),
        (Row("x", (QUESTION, ANSWER)), "supervised", "no image"),
        (Row("x", (ANSWER,), ("a",), answer="x"), "reward", "does not end with a question"),
    ],
)
def test_what_a_stage_cannot_train_on(row, need, reason):
    with pytest.raises(BadRow, match=reason):
        fit(row, need)
