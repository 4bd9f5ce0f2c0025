"""A transplanted tower is the post-trained one, bit for bit; the rest is new."""

import pytest
import torch
from tiny_families import SIDE, llava
from tiny_pieces import write_language_model, write_tower

from visprobe.encoders import load_encoder
from visprobe.errors import CheckpointError, UsageError
from visprobe.training.models.pivot import transplant

WIDTH = 24  # of the tiny language models


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An MLLM whose every weight differs from any initial one."""
    folder = tmp_path_factory.mktemp("trained")
    model, processor = llava(-2, "clip")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    write_language_model(folder, hidden_size=WIDTH)
    return folder


def projector(model):
    return {name: value for name, value in model.model.multi_modal_projector.named_parameters()}


def test_the_tower_comes_over_and_the_rest_is_new(trained, language, tmp_path):
    folder, source = trained
    model, processor = transplant(folder, language)
    old, new = source.model.vision_tower.state_dict(), model.model.vision_tower.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert not any(torch.equal(value, projector(source)[name]) for name, value in projector(model).items())
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert load_encoder(tmp_path).tower_hash == load_encoder(folder).tower_hash
    assert load_encoder(tmp_path).consumed == load_encoder(folder).consumed == "block_02"


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_as_many_projector_layers_are_reused_as_asked_for(trained, language, layers):
    folder, source = trained
    model, _ = transplant(folder, language, reuse_projector_layers=layers)
    same = {name for name, value in projector(model).items() if torch.equal(value, projector(source)[name])}
    assert same == {f"linear_{n}.{kind}" for n in range(1, layers + 1) for kind in ("weight", "bias")}


def test_with_all_of_it_reused_images_arrive_as_before(trained, language):
    folder, source = trained
    model, _ = transplant(folder, language, reuse_projector_layers=2)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        before, after = (each.eval().get_image_features(pixels).pooler_output[0] for each in (source, model))
    assert torch.equal(before, after)


def test_layers_of_another_width_are_refused(trained, tmp_path):
    write_language_model(tmp_path, hidden_size=2 * WIDTH)
    with pytest.raises(CheckpointError, match=r"linear_1.weight of .* has shape \[24, 32\], the new one \[48, 32\]"):
        transplant(trained[0], tmp_path, reuse_projector_layers=1)
    transplant(trained[0], tmp_path)  # nothing reused, nothing to fit


def test_layers_that_do_not_exist_are_refused(trained, language, tmp_path):
    with pytest.raises(UsageError, match="3 projector layers cannot be reused"):
        transplant(trained[0], language, reuse_projector_layers=3)
    write_tower(tmp_path / "bare", "siglip")
    with pytest.raises(CheckpointError, match=r"bare has no projector weight linear_1\.weight"):
        transplant(tmp_path / "bare", language, reuse_projector_layers=1)
    with pytest.raises(UsageError):
        transplant(trained[0], language, reuse_projector_layers=-1)


def test_the_seed_draws_the_new_layers(trained, language):
    one, again, other = (
        projector(transplant(trained[0], language, reuse_projector_layers=1, seed=seed)[0]) for seed in (0, 0, 1)
    )
    assert torch.equal(one["linear_2.weight"], again["linear_2.weight"])
    assert not torch.equal(one["linear_2.weight"], other["linear_2.weight"])
    assert torch.equal(one["linear_1.weight"], other["linear_1.weight"])
