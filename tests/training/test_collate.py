"""Rows into batches: which tokens carry the loss, and whose images go with them."""

import pytest
import torch
from PIL import Image

from visprobe.data.rows import Row, Turn
from visprobe.demo.small_llava import build_processor
from visprobe.errors import DataError
from visprobe.mllm.batches import PreferenceCollator, RowEncoder, SupervisedCollator


class Made:
    """Rows held in memory; image key "7" is a picture whose every pixel is 7."""

    name = "made"

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def image(self, key):
        return Image.new("RGB", (64, 64), (int(key),) * 3)

    def content_hash(self):
        return "0"


PREFERENCES = Made(
    Row("a", (Turn("user", "<image>\nIs there a red digit?"),), ("1",), chosen="yes", rejected="no"),
    Row("b", (Turn("user", "<image>\nRead the top row."),), ("2",), chosen="3 7", rejected="3 1"),
)
TALK = Row(
    "c",
    (
        Turn("user", "<image> <image>\nHow many digits are there?"),
        Turn("assistant", "2"),
        Turn("user", "Is there a red digit?"),
        Turn("assistant", "no"),
    ),
    ("3", "4"),
)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def spoken(processor, ids, mask):
    return [processor.tokenizer.decode(row[chosen]) for row, chosen in zip(ids, mask, strict=True)]


def batch_of(collator, processor, rows):
    return collator(RowEncoder(processor, rows))([{"row": index} for index in range(len(rows))])


def test_supervised_loss_is_on_the_answer_and_its_end(processor):
    batch = batch_of(SupervisedCollator, processor, PREFERENCES)
    assert spoken(processor, batch["input_ids"], batch["labels"] >= 0) == ["yes <|im_end|>", "3 7 <|im_end|>"]
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()


def test_every_turn_of_the_model_carries_the_loss_and_no_other(processor):
    batch = batch_of(SupervisedCollator, processor, Made(TALK))
    assert spoken(processor, batch["input_ids"], batch["labels"] >= 0) == ["2 <|im_end|> no <|im_end|>"]
    assert batch["pixel_values"].shape == (2, 3, 64, 64)


def test_the_tokens_are_those_of_the_whole_conversation(processor):
    """Cutting the text at the turns and tokenizing the pieces gives what tokenizing the whole gives."""
    batch = batch_of(SupervisedCollator, processor, Made(TALK))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "How many digits are there?"}]
    turns = [{"role": "user", "content": content}] + [{"role": t.role, "content": t.text} for t in TALK.turns[1:]]
    images = [Made().image(key) for key in TALK.images]
    whole = processor(images=images, text=[processor.apply_chat_template(turns)], return_tensors="pt")
    assert torch.equal(batch["input_ids"], whole["input_ids"])
    assert torch.equal(batch["pixel_values"], whole["pixel_values"])


def test_preferences_come_chosen_first_with_the_images_repeated(processor):
    batch = batch_of(PreferenceCollator, processor, PREFERENCES)
    answers = spoken(processor, batch["input_ids"], batch["completion_mask"] == 1)
    assert answers == ["yes <|im_end|>", "3 7 <|im_end|>", "no <|im_end|>", "3 1 <|im_end|>"]
    assert torch.equal(batch["pixel_values"][:2], batch["pixel_values"][2:])
    prompts = batch["input_ids"] * (1 - batch["completion_mask"]) * batch["attention_mask"]
    assert torch.equal(prompts[:2], prompts[2:])


def test_rows_are_encoded_once(processor):
    seen = []
    rows = Made(*PREFERENCES.rows)
    rows.image = lambda key: seen.append(key) or Image.new("RGB", (64, 64))
    encoder = RowEncoder(processor, rows)
    for _ in range(3):
        PreferenceCollator(encoder)([{"row": 0}, {"row": 1}])
    assert seen == ["1", "2"]


def test_a_row_that_cannot_be_encoded_is_named(processor):
    row = Row("d", (Turn("user", "<image>\nIs there a red digit?"),), (), chosen="yes", rejected="no")
    with pytest.raises(DataError, match="d: it has 0 images and another number of <image> marks"):
        RowEncoder(processor, Made(row))[0]
