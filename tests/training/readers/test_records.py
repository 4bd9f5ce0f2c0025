"""Records of published formats become the same rows."""

import pytest

from visprobe.training.readers.records import image_cells, to_row
from visprobe.training.rows import BadRow, Turn

LLAVA = {
    "id": 7,
    "image": "a.jpg",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}],
}
MESSAGES = {
    "messages": [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "A dog."}],
    "images": ["a.jpg"],
}
PARTS = {
    "messages": [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
    ],
    "image": "a.jpg",
}


def row(record, **how):
    return to_row(record, row_id="x#0", images=tuple(image_cells(record)), **how)


@pytest.mark.parametrize("record", [LLAVA, MESSAGES, PARTS])
def test_the_same_conversation_in_three_formats(record):
    assert row(record).turns == (Turn("user", "<image>\nWhat?"), Turn("assistant", "A dog."))
    assert row(record).images == ("a.jpg",)


@pytest.mark.parametrize("name", ["prompt", "question", "problem"])
@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: [{"role": "assistant", "content": t}], lambda t: {"from": "gpt", "value": t}]
)
def test_preferences_as_strings_messages_and_turns(name, wrap):
    got = row({name: "What?", "image": "a.jpg", "chosen": wrap("A dog."), "rejected": wrap("A cat.")})
    assert got.turns == (Turn("user", "<image>\nWhat?"),)
    assert (got.chosen, got.rejected) == ("A dog.", "A cat.")


def test_a_prompt_may_be_a_conversation():
    prompt = [{"role": "system", "content": "Short."}, {"role": "user", "content": "What?"}]
    got = row({"prompt": prompt, "images": ["a.jpg"], "chosen": "A dog.", "rejected": "A cat."})
    assert got.turns == (Turn("system", "Short."), Turn("user", "<image>\nWhat?"))


@pytest.mark.parametrize("cell", [None, "", [], [None]])
def test_rows_without_images_are_text_rows(cell):
    record = {"image": cell, "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}
    assert row(record).images == () and row(record).turns[0].text == "2+2?"


def test_several_images_and_where_marks_are_missing():
    two = {"image": ["a.jpg", "b.jpg"], "prompt": "<image> or <image>?", "chosen": "a", "rejected": "b"}
    assert row(two).turns[0].text == "<image> or <image>?"
    bare = {**two, "prompt": "Which?"}
    with pytest.raises(BadRow, match="marks do not match the images: 0 and 2"):
        row(bare)
    assert row(bare, apart=True).turns[0].text == "<image>\n<image>\nWhich?"


def test_references_and_groups():
    got = row({"problem": "2+2?", "solution": 4, "data_source": "maths"})
    assert (got.answer, got.group, got.chosen) == ("4", "maths", None)


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": " "}]}, "empty answer"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt"}]}, "empty answer"),
        ({"conversations": [{"from": "bard", "value": "hi"}]}, "unknown role: 'bard'"),
        ({"conversations": [{"from": "gpt", "value": "hi"}]}, "no user turn"),
        ({"conversations": []}, "no user turn"),
        ({"conversations": ["hi"]}, "a turn is not an object"),
        ({"caption": "hi"}, "no conversation: the fields are caption"),
        ({"prompt": "<image> what", "chosen": "a"}, "<image> marks do not match the images: 1 and 0"),
        ({"prompt": "what", "image": "a", "chosen": "<image>", "rejected": "b"}, "<image> in an answer"),
        ({"prompt": "what", "image": "a", "chosen": "", "rejected": "b"}, "empty answer"),
        ({"prompt": "what", "chosen": [{"role": "user", "content": "b"}]}, "empty answer"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "content is neither text nor image"),
        ("hi", "not an object: hi"),
        (None, "not an object: None"),
    ],
)
def test_bad_rows_say_why(record, reason):
    with pytest.raises(BadRow) as caught:
        row(record)
    assert str(caught.value) == reason
