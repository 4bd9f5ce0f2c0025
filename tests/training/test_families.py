"""Batches that every family's own class accepts, and gradients in each of its parts."""

import pytest
import torch
from tiny_families import ASKED, FAMILIES, Rows, llava, onevision

from visprobe.data.rows import Row, Turn
from visprobe.mllm.batches import PreferenceCollator, RowEncoder, SupervisedCollator
from visprobe.mllm.parts import PARTS, part_of, train_only
from visprobe.training.callbacks import check_gradients


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]()


def batch_of(processor, rows=ASKED):
    return SupervisedCollator(RowEncoder(processor, rows))([{"row": number} for number in range(len(rows))])


def gradient_norm(model, part):
    gradients = [p.grad for name, p in model.named_parameters() if part_of(name) == part and p.grad is not None]
    return torch.stack([gradient.norm() for gradient in gradients]).norm().item()


def test_one_step_reaches_every_part(family):
    model, processor = family
    train_only(model, PARTS)
    model(**batch_of(processor)).loss.backward()
    assert check_gradients(model) == []
    # Random models of this size have gradients of 0.01 to 50; a part that is cut off has exactly none.
    assert all(gradient_norm(model, part) > 1e-3 for part in PARTS)


def test_a_row_is_what_the_familys_own_processor_makes_of_it(family):
    _, processor = family
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "one two"}]},
    ]
    text = processor.apply_chat_template(turns)
    whole = processor(images=[[ASKED.image("40x40")]], text=[text], return_tensors="pt")
    ours = batch_of(processor, Rows(ASKED[0]))
    assert set(ours) - {"labels"} == set(whole)
    assert all(torch.equal(ours[name], whole[name]) for name in whole)


def test_a_batch_gives_each_row_the_loss_it_has_alone(family):
    """Padding of tokens and of tiles changes nothing."""
    model, processor = family
    model.eval()
    with torch.inference_mode():
        together = model(**batch_of(processor))
        for number, row in enumerate(ASKED.rows):
            batch = batch_of(processor, Rows(row))
            alone = model(**batch).logits[0]
            # Different batch shapes sum in another order: float32 rounding of logits of about 1.
            assert torch.allclose(together.logits[number, : len(alone)], alone, atol=1e-4)


def test_preference_batches_mark_images_too(family):
    model, processor = family
    row = Row("p", (Turn("user", "<image>\nwhat is this ?"),), ("40x40",), chosen="one", rejected="two three")
    batch = PreferenceCollator(RowEncoder(processor, Rows(row)))([{"row": 0}])
    mask = batch.pop("completion_mask")
    assert torch.isfinite(model(**batch).logits[mask.bool()]).all()


def test_several_images_in_one_turn_stay_together():
    """OneVision cuts one image into tiles and takes several as they are."""
    model, processor = onevision()
    row = Row("m", (Turn("user", "<image> <image>\nwhat is this ?"), Turn("assistant", "one")), ("40x40", "64x30"))
    batch = batch_of(processor, Rows(row))
    assert batch["batch_num_images"].tolist() == [2]
    assert torch.isfinite(model(**batch).loss)


def test_a_model_that_does_not_ask_gets_no_token_types():
    _, processor = llava()
    assert RowEncoder(processor, ASKED).token_types(torch.tensor([[1, 2]])) == {}
