"""What the targets of one model have to do with each other, batches, precisions, and what is refused."""

import pytest
import torch
from tiny_mllms import ASKED, MLLMS, picture, written
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from visprobe.attribution.methods.by_name import METHODS, maps
from visprobe.attribution.methods.trace import trace
from visprobe.attribution.targets.answers import MllmSubject, open_mllm
from visprobe.encoders.load import load_encoder
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, DataError, UsageError
from visprobe.mllm.question import Question

OTHER = Question("<image>\nis this two ?", "yes", "no one")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return written("llava", tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def family(request, tmp_path_factory):
    return request.param, *written(request.param, tmp_path_factory.mktemp("checkpoint"))


def gradient(parts, image, target, question=ASKED, site="consumed", **options):
    subject = MllmSubject(*parts, [question], target, **options)
    site = subject.encoder.consumed if site == "consumed" else site
    (one,) = trace(subject, [image], [site])[site]
    return one.gradients, one.score


def test_the_preferred_half_of_a_dpo_map_is_the_sft_map_times_a_number(family):
    """So that maps of losses at one set of weights cannot tell DPO from SFT; contrasts can."""
    name, *parts = family
    image, beta = picture(name), 0.1
    reference = MllmSubject(*parts, [ASKED]).log_probabilities([image])
    dpo, loss = gradient(parts, image, "dpo-loss", reference=reference, beta=beta)
    assert loss == pytest.approx(0.6931472, abs=1e-5)  # ln 2: the reference is the model itself
    sft, _ = gradient(parts, image, "sft-loss")
    other, _ = gradient(parts, image, "sft-loss", Question(ASKED.prompt, ASKED.rejected))
    # The mean over "one two <end>" has 3 terms, over "yes <end>" 2; the slope of the loss is beta / 2.
    preferred = dpo + beta / 2 * 2 * other
    assert (preferred - beta / 2 * 3 * sft).abs().max() < 1e-3 * preferred.abs().max()  # float32, other sums
    shapes = [gradient(parts, image, target)[0].abs().sum(1).argsort() for target in ("answer", "rejected", "contrast")]
    assert not any(torch.equal(shapes[a], shapes[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_a_contrast_is_the_difference_of_two_answers(family):
    name, *parts = family
    (answer, one), (rejected, two), (contrast, both) = (
        gradient(parts, picture(name), target, site="projected") for target in ("answer", "rejected", "contrast")
    )
    assert both == float(torch.tensor(one) - torch.tensor(two))
    assert torch.equal(contrast, answer - rejected)
    deep = [gradient(parts, picture(name), target)[0] for target in ("answer", "rejected", "contrast")]
    assert (deep[2] - (deep[0] - deep[1])).abs().max() < 1e-4 * deep[2].abs().max()  # float32, through the tower


def test_images_keep_their_own_questions_in_batches(family):
    name, *parts = family
    images = [picture(name), picture(name, 1, (40, 28))]
    methods = ["gradient-norm", "gradient-attention", "occlusion"]
    together = maps(MllmSubject(*parts, [ASKED, OTHER]), images, methods, batch=2, side=4)
    for number, question in enumerate((ASKED, OTHER)):
        alone = maps(MllmSubject(*parts, [question]), images[number : number + 1], methods, side=4)
        for key, some in together.items():
            assert some[number].score == alone[key][0].score
            # The same passes; only the ablated images come in another order.
            torch.testing.assert_close(some[number].values, alone[key][0].values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(tmp_path, dtype):
    parts = written("llava", tmp_path, dtype)
    for some in maps(MllmSubject(*parts, [ASKED]), [picture("llava")], METHODS, steps=2, side=4).values():
        assert torch.isfinite(some[0].values).all()
        assert not some[0].note.startswith("run in float32")


def test_what_overflows_is_run_again_in_float32(tmp_path):
    class Loud(MllmSubject):
        def _terms(self, *arguments):
            return 1e9 * super()._terms(*arguments)

    model, processor, encoder = written("llava", tmp_path, torch.float16)
    (found,) = maps(Loud(model, processor, encoder, [ASKED]), [picture("llava")], ["gradcam"]).values()
    assert "not finite in float16" in found[0].note
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    (expected,) = maps(Loud(model.float(), processor, encoder, [ASKED]), [picture("llava")], ["gradcam"]).values()
    assert torch.equal(found[0].values, expected[0].values)


def test_a_checkpoint_on_disk(tmp_path):
    model, processor = MLLMS["llava"][0]()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    subject = open_mllm(tmp_path, [ASKED], "contrast", dtype=torch.bfloat16, name="mine")
    assert (subject.name, subject.encoder.name, subject.count) == ("mine", "mine", 1)
    assert subject.encoder.dtype == torch.bfloat16
    assert maps(subject, [picture("llava")], ["gradcam"])["gradcam", "block_03"][0].grid == (4, 4)


@pytest.mark.parametrize(
    ("question", "target", "message"),
    [
        (Question("what ?", " "), "answer", "question 2: an answer with no tokens"),
        (Question("<image> or <image> ?", "one"), "answer", "question 2: the prompt has more than one image"),
        (Question("what ?", "<image>"), "answer", "question 2: an answer has an image in it"),
        (Question("what ?", "nowhere"), "answer", "question 2: the tokens of the answer 'nowhere' do not spell it"),
        (Question("what ?", "one"), "contrast", "question 2: contrast needs a rejected answer"),
        (ASKED, "token:2", "question 1: there is no token:2, the answer has 2 tokens"),
        (ASKED, "token:x", "there is no target 'token:x'"),
        (ASKED, "dpo-loss", "needs the reference's log-probabilities for each of 2 questions"),
    ],
)
def test_questions_that_cannot_be_asked(llava, question, target, message):
    with pytest.raises(UsageError, match=message):
        MllmSubject(*llava, [ASKED, question], target)


def test_there_is_one_question_for_each_image(llava):
    subject = MllmSubject(*llava, [ASKED])
    images = [picture("llava"), picture("llava")]
    for run in (lambda: maps(subject, images, ["gradcam"]), lambda: subject.log_probabilities(images)):
        with pytest.raises(UsageError, match=": 2 images and 1 questions"):
            run()


def test_a_template_without_the_image_is_refused(llava):
    model, processor, encoder = llava
    kept, processor.chat_template = processor.chat_template, processor.chat_template.replace("<image>", "")
    try:
        with pytest.raises(UsageError, match="question 1: the chat template writes another number of images: 0 of 1"):
            MllmSubject(model, processor, encoder, [ASKED])
    finally:
        processor.chat_template = kept


def test_parts_that_do_not_belong_together_are_refused(llava, tmp_path):
    _, processor, encoder = llava
    clip, _, other = written("llava-clip", tmp_path / "clip")
    with pytest.raises(CheckpointError, match="the model has 0 towers of the class SiglipVisionModel, not one"):
        MllmSubject(clip, processor, encoder, [ASKED])
    coloured = MLLMS["llava-clip"][0]()[1]
    coloured.image_processor.image_mean, coloured.image_processor.image_std = OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    with pytest.raises(CheckpointError, match="makes other pixels of an image than that of the encoder"):
        MllmSubject(clip, coloured, other, [ASKED])
    deeper = MLLMS["llava"][0]()[0]
    deeper.model.vision_tower.config.num_hidden_layers = 4
    with pytest.raises(CheckpointError, match="another tower than the encoder: num_hidden_layers is 4 against 3"):
        MllmSubject(deeper, processor, encoder, [ASKED])
    deeper.config.model_type = "mllama"
    with pytest.raises(CheckpointError, match="no maps of the answers of a mllama with a siglip tower"):
        MllmSubject(deeper, processor, encoder, [ASKED])


def test_tiles_and_sites_behind_the_score_are_refused(tmp_path):
    model, processor, _ = written("llava_onevision", tmp_path)
    tiled = load_encoder(tmp_path, resolution=Resolution(tiles=True))
    with pytest.raises(CheckpointError, match="are of one view of the image, and this encoder reads tiles"):
        MllmSubject(model, processor, tiled, [ASKED])
    qwen = MllmSubject(*written("qwen3_vl", tmp_path / "qwen"), [ASKED])
    with pytest.raises(DataError, match="does not depend on deepstack_1"):
        trace(qwen, [picture("qwen3_vl")], ["deepstack_1"])
