"""Records of published formats become the same rows."""

import pytest

from visprobe.data.rows import BadRow, Turn
from visprobe.training.rows.records import image_cells, nearest_format, to_row

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
    images = tuple(cell["path"] if isinstance(cell, dict) else cell for cell in image_cells(record))
    return to_row(record, row_id="x#0", images=images, **how)


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
        (
            {"caption": "hi"},
            "no conversation: the fields are caption; the nearest known format, LLaVA, has image, conversations",
        ),
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


YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
ASKED = {"role": "user", "content": "<image>What?"}
PART = [{"type": "image"}, {"type": "text", "text": "What?"}]
PREFERENCE = ((Turn("user", "<image>What?"),), "yes", "no")


def pair(record, **how):
    got = row(record, **how)
    return got.turns, got.chosen, got.rejected


@pytest.mark.parametrize(
    "record",
    [
        # trl's implicit prompt: both conversations whole
        {"images": ["a"], "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        # the prompt once more beside them, as UltraFeedback's descendants have it
        {"images": ["a"], "prompt": [ASKED], "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"images": ["a"], "prompt": "<image>What?", "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        # ms-swift: the conversation is the chosen one
        {"images": ["a"], "messages": [ASKED, YES], "rejected_response": "no"},
        {"images": [{"path": "a", "bytes": None}], "messages": [ASKED, YES], "rejected_messages": [ASKED, NO]},
        {"images": ["a"], "query": "<image>What?", "response": "yes", "rejected_response": "no"},
        # LLaMA-Factory: turns, and Alpaca
        {"images": ["a"], "conversations": [{"from": "human", "value": "<image>What?"}],
         "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}},
        {"images": ["a"], "instruction": "<image>What?", "input": "", "chosen": "yes", "rejected": "no"},
        # trl's prompt and completion, with the answer that was not taken
        {"images": ["a"], "prompt": [ASKED], "completion": [YES], "rejected": [NO]},
        # messages with chosen and rejected beside them, the chosen one perhaps twice
        {"images": ["a"], "messages": [ASKED], "chosen": "yes", "rejected": "no"},
        {"images": ["a"], "messages": [ASKED, YES], "chosen": "yes", "rejected": "no"},
    ],
)  # fmt: skip
def test_preferences_of_every_format_are_the_same_row(record):
    assert pair(record) == PREFERENCE and row(record).unused == ()


def test_an_implicit_prompt_of_parts_and_turns_before_the_last():
    asked, more = {"role": "user", "content": PART}, {"role": "user", "content": "Sure?"}
    turns, chosen, rejected = pair(
        {"images": ["a"], "chosen": [asked, YES, more, YES], "rejected": [asked, YES, more, NO]}
    )
    assert turns == (Turn("user", "<image>\nWhat?"), Turn("assistant", "yes"), Turn("user", "Sure?"))
    assert (chosen, rejected) == ("yes", "no")
    turns, *_ = pair({"images": ["a"], "prompt": [ASKED], "chosen": [NO, more, YES], "rejected": [NO, more, NO]})
    assert [turn.text for turn in turns] == ["<image>What?", "no", "Sure?"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.png"},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "image", "path": "a.png", "text": None},
        {"image": "a.png"},
    ],
)
def test_pictures_inside_messages(part):
    record = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}, YES]}
    assert row(record).images == ("a.png",)
    assert row(record).turns == (Turn("user", "<image>\nWhat?"), Turn("assistant", "yes"))
    assert row({**record, "images": ["a.png"]}).images == ("a.png",)
    with pytest.raises(BadRow, match="both in the messages and beside them"):
        row({**record, "images": ["b.png"]})


def test_pictures_inside_the_conversations_of_a_pair():
    asked = {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]}
    got = row({"chosen": [asked, YES], "rejected": [asked, NO]})
    assert got.images == ("a.png",) and got.turns == (Turn("user", "<image>\nWhat?"),)


def test_system_prompts_and_history_come_first():
    history = [["<image>Who?", "Me."]]
    got = row({"images": ["a"], "system": "Short.", "instruction": "What?", "input": "Now.", "output": "yes",
               "history": history})  # fmt: skip
    assert [(turn.role, turn.text) for turn in got.turns] == [
        ("system", "Short."), ("user", "<image>Who?"), ("assistant", "Me."), ("user", "What?\nNow."),
        ("assistant", "yes"),
    ]  # fmt: skip
    talk = {"images": ["a"], "messages": [{"role": "system", "content": "Short."}, ASKED, YES]}
    assert row({**talk, "system": "Short."}) == row(talk)
    with pytest.raises(BadRow, match="two system prompts"):
        row({**talk, "system": "Long."})


@pytest.mark.parametrize("mark", [{"loss": False}, {"weight": 0}])
def test_an_answer_can_be_marked_as_not_to_be_learned(mark):
    got = row({"images": ["a"], "messages": [ASKED, {**NO, **mark}, {"role": "user", "content": "Sure?"}, YES]})
    assert [turn.learned for turn in got.turns] == [True, False, True, True]
    with pytest.raises(BadRow, match="not to be learned"):
        row({"images": ["a"], "messages": [ASKED], "chosen": {**YES, **mark}, "rejected": NO})


def test_fields_that_are_not_read_are_named_if_they_hold_something():
    talk = {"messages": [{**ASKED, "name": "Ann"}, {**YES, "tool_calls": None}], "images": ["a"]}
    assert row({**talk, "score": 3, "width": None, "tags": [], "id": 1}).unused == ("score", "name of messages")
    assert row({**talk, "response": "x", "output": "y"}).unused == ("output", "response", "name of messages")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"rejected_images": ["b"]}, "rejected_images: other pictures for the rejected answer"),
        ({"videos": ["v.mp4"]}, "holds videos, which no stage trains on"),
        ({"chosen": [YES, ASKED, YES], "rejected": [NO, ASKED, NO]}, "differ before their last turn"),
        ({"chosen": [ASKED, YES], "rejected": [NO]}, "differ before their last turn"),
        ({"chosen": [{**ASKED, "content": "Other?"}, YES], "rejected": [{**ASKED, "content": "Other?"}, NO]},
         "the prompt is not what chosen and rejected begin with"),
        ({"history": "long"}, "history is not pairs"),
        ({"prompt": None}, "no user turn"),
        ({"prompt": None, "chosen": "yes"}, "no conversation: the fields are"),
    ],
)  # fmt: skip
def test_what_means_two_things_or_cannot_be_trained_on_is_refused_by_name(more, reason):
    with pytest.raises(BadRow, match=reason):
        row({"images": ["a"], "prompt": "<image>What?", "chosen": [YES], "rejected": [NO], **more})
    row({"images": ["a"], "prompt": "<image>What?", "chosen": [YES], "rejected": [NO], "rejected_images": ["a"]})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (["image", "conversation"], "LLaVA, has image, conversations; is conversation its conversations?"),
        (["images", "message"], "Hugging Face messages, has images, messages; is message its messages?"),
        (["image", "choosen", "rejected"], "implicit prompt, has images, chosen, rejected; is choosen its chosen?"),
        (["img", "Problem", "solution"], "(R1), has image, problem, solution; is img its image?; is Problem its"),
    ],
)
def test_the_nearest_format_is_named(fields, words):
    assert words in nearest_format(fields)
