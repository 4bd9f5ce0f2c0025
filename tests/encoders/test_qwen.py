"""Qwen2-VL to Qwen3.5: what is read equals what the whole model computes, and every token is at its place."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_checkpoints import images
from tiny_qwen import KINDS, MERGE, PATCH, PIXELS, processor, qwen, spelled, whole, write_qwen
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index

from visprobe.encoders import load_encoder
from visprobe.encoders.checkpoint.quiet import quiet
from visprobe.encoders.processor import Resolution
from visprobe.errors import CheckpointError, DataError, UsageError

BUDGET = Resolution(pixels=PIXELS)
GRID = (8, 14)  # of an image of 32 x 56 pixels, which fills the budget as it is
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]


def load(folder, **options):
    return load_encoder(folder, resolution=BUDGET, **options)


def wide(seed=0):
    return images(1, seed, size=(32, 56))


def features(model, pixels):
    with torch.no_grad(), quiet():
        return model.get_image_features(
            pixels.inputs["hidden_states"], pixels.inputs["grid_thw"], output_hidden_states=True
        )


def places(tower, pixels):
    """Raster position of each token of one image in the order of the tower's blocks, from the library's helpers."""
    sizes = pixels.inputs["grid_thw"]
    rows, columns = get_vision_position_ids(sizes, MERGE).T
    position = rows * sizes[0, 2] + columns
    if hasattr(tower, "fullatt_block_indexes"):
        window, _ = get_vision_window_index(sizes, MERGE, tower.window_size, PATCH)
        position = position.view(-1, MERGE * MERGE)[window].flatten()
    return position


@pytest.mark.parametrize(("layout", "shards"), [("Q-D", 3), ("Q-A", 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_tokens_equal_those_of_the_whole_model(tmp_path, kind, layout, shards):
    model = qwen(kind)
    encoder = load(write_qwen(tmp_path, model, layout, shards))
    tower, read = whole(tmp_path, model, layout)
    own = {name: t for name, t in tower.state_dict().items() if "merger" not in name}
    own |= {f"projector.{name}": t for name, t in tower.state_dict().items() if "merger" in name}
    weights = encoder.weights()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in own)
    pixels = encoder.preprocess(wide())
    out, tokens = features(read, pixels), encoder(wide())
    position = places(tower, pixels)
    assert len(out.hidden_states) == 5
    for number, state in enumerate(out.hidden_states):
        assert torch.equal(tokens[f"block_{number:02d}"][0, position], state)
    assert torch.equal(tokens["consumed"][0, position], out.last_hidden_state)
    assert torch.equal(tokens["projected"][0], out.pooler_output[0])
    for number, deep in enumerate(getattr(out, "deepstack_features", ()), start=1):
        assert torch.equal(tokens[f"deepstack_{number}"][0], deep[0])
    assert encoder.provenance.layout == layout


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_spellings_and_a_bare_tower_have_the_same_hashes(tmp_path, kind):
    model = qwen(kind)
    encoders = [load(write_qwen(tmp_path / layout, model, layout)) for layout in ("Q-D", "Q-A")]
    with quiet():
        model.model.visual.save_pretrained(tmp_path / "bare")
    processor().save_pretrained(tmp_path / "bare")
    bare = load(tmp_path / "bare")
    assert len({(e.tower_hash, e.projector_hash, e.settings_hash) for e in (*encoders, bare)}) == 1
    assert bare.provenance.layout == "bare"
    assert torch.equal(bare(wide())["projected"], encoders[0](wide())["projected"])
    other = load(write_qwen(tmp_path / "other", qwen(kind, seed=1)))
    assert (other.tower_hash == bare.tower_hash, other.projector_hash == bare.projector_hash) == (False, False)


def test_a_bare_tower_without_its_merger_has_no_projector(tmp_path):
    with quiet():
        qwen("qwen2_5_vl").model.visual.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if "merger" not in k}, file, metadata={"format": "pt"})
    encoder = load(tmp_path)
    assert not encoder.has_projector
    assert [site.name for site in encoder.sites] == [f"block_{n:02d}" for n in range(5)]


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
def test_every_patch_of_the_image_is_the_token_at_its_place(tmp_path, kind):
    encoder = load(write_qwen(tmp_path, qwen(kind)))
    grey = np.full((32, 56, 3), 128, np.uint8)
    tagged = []
    for row, column in np.ndindex(GRID):
        pixels = grey.copy()
        pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] = 255
        tagged.append(Image.fromarray(pixels))
    plain, changed = (
        encoder.forward(encoder.preprocess(i), ["block_00"])["block_00"] for i in ([Image.fromarray(grey)], tagged)
    )
    answers = (changed - plain).abs().amax(dim=-1) > 1e-3  # a patch that is not touched differs by rounding at most
    assert torch.equal(answers, torch.eye(112, dtype=torch.bool))


def test_images_of_many_sizes_in_one_batch_are_as_one_by_one(tmp_path):
    for kind in ("qwen2_5_vl", "qwen3_vl"):
        encoder = load(write_qwen(tmp_path / kind, qwen(kind)))
        batch = [images(1, n, size)[0] for n, size in enumerate([(40, 50), (3, 9), (100, 20), (1, 1), (1, 200)])]
        names = [site.name for site in encoder.sites]
        together = encoder.forward(encoder.preprocess(batch), names, reduce=lambda tokens: tokens.mean(1))
        assert len(set(encoder.preprocess(batch).grids)) == len(batch)
        for n, image in enumerate(batch):
            alone = encoder.forward(encoder.preprocess([image]), names, reduce=lambda tokens: tokens.mean(1))
            for name in names:  # sums over rows may run in another order: float32, values of order one
                assert torch.allclose(together[name][n], alone[name][0], rtol=0, atol=1e-6)
        with pytest.raises(UsageError, match="own number of tokens"):
            encoder.forward(encoder.preprocess(batch), ["consumed"])


def test_deepstack_follows_the_blocks_whatever_order_the_configuration_has(tmp_path):
    model = qwen("qwen3_vl", deepstack_visual_indexes=[2, 0])
    encoder = load(write_qwen(tmp_path, model))
    out, tokens = features(model, encoder.preprocess(wide())), encoder(wide())
    for number, deep in enumerate(out.deepstack_features, start=1):
        assert torch.equal(tokens[f"deepstack_{number}"][0], deep[0])
    assert "block_01, block_03" in encoder.provenance.why
    assert encoder.consumed == "block_04"


@pytest.mark.thorough
def test_bfloat16_runs_as_transformers_runs_it(tmp_path):
    for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        model = qwen(kind)
        encoder = load(write_qwen(tmp_path / kind, model), dtype=torch.bfloat16)
        _, read = whole(tmp_path / kind, model, dtype=torch.bfloat16)
        expected = features(read, encoder.preprocess(wide())).pooler_output[0]
        assert torch.equal(encoder(wide())["projected"][0], expected)


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", KINDS)
def test_groups_baselines_and_the_path_of_the_loss(tmp_path, kind):
    encoder = load(write_qwen(tmp_path, qwen(kind)))
    groups = {name: encoder.weight_group(name) for name in encoder.weights()}
    assert {n.split(".")[0] for n, group in groups.items() if group == "embeddings"} <= {"patch_embed", "pos_embed"}
    assert all(group == f"block_{int(n.split('.')[1]) + 1:02d}" for n, group in groups.items() if n[:7] == "blocks.")
    assert set(groups.values()) == {"embeddings", "projector", *(f"block_{n:02d}" for n in range(1, 5))}
    assert encoder.provenance.off_path == ()
    assert all(site.on_path for site in encoder.sites)
    fresh, again = encoder.untrained(0), encoder.untrained(0)
    assert (fresh.tower_hash, fresh.projector_hash) == (again.tower_hash, again.projector_hash)
    assert fresh.tower_hash != encoder.tower_hash
    rounded = encoder.rounded(torch.bfloat16)(wide())["projected"]
    exact = encoder(wide())["projected"]
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.1  # eight bits of mantissa through four blocks


def test_the_budget_is_that_of_the_caller_and_everything_else_that_of_the_folder(tmp_path):
    model = qwen("qwen2_vl")
    small, large = processor(min_pixels=64, max_pixels=64), processor(image_mean=[0.1, 0.2, 0.3])
    encoders = [load(write_qwen(tmp_path / str(n), model, stored=p)) for n, p in enumerate((small, large))]
    assert [e.preprocess(wide()).grids for e in encoders] == [(GRID,), (GRID,)]
    assert encoders[0].grid is None
    red = Image.new("RGB", (200, 3), (255, 0, 0))  # three rows: no processor may take them for channels
    for encoder, mean in zip(encoders, (CLIP_MEAN, [0.1, 0.2, 0.3]), strict=True):
        patches = encoder.preprocess([red]).inputs["hidden_states"].reshape(-1, 3, 2 * PATCH * PATCH)
        expected = (torch.tensor([1.0, 0, 0]) - torch.tensor(mean)) / torch.tensor(encoder.processor.image_std)
        assert torch.allclose(patches, expected[:, None].expand_as(patches), atol=1e-6)  # float32 of order one


@pytest.mark.parametrize(
    ("kind", "mean"), [("qwen2_vl", CLIP_MEAN), ("qwen2_5_vl", CLIP_MEAN), ("qwen3_vl", [0.5] * 3)]
)
def test_a_folder_without_processor_gets_that_of_the_family_and_a_warning(tmp_path, kind, mean):
    (write_qwen(tmp_path, qwen(kind)) / "preprocessor_config.json").unlink()
    encoder = load(tmp_path)
    assert list(encoder.processor.image_mean) == mean
    assert encoder.preprocess(wide()).grids == (GRID,)
    assert "default image processor" in encoder.provenance.warnings[0]


@pytest.mark.parametrize("name", ["Qwen2VLImageProcessorFast", "Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessor"])
def test_every_name_of_the_processor_is_known(tmp_path, name):
    path = write_qwen(tmp_path, qwen("qwen2_vl")) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": name}))
    assert type(load(tmp_path).processor).__name__ == "Qwen2VLImageProcessorPil"


def test_a_processor_of_other_patches_is_refused(tmp_path):
    path = write_qwen(tmp_path, qwen("qwen2_vl")) / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patch_size": 14}))
    with pytest.raises(CheckpointError, match="patch_size 14, the tower 4"):
        load(tmp_path)


def test_an_image_that_the_processor_would_refuse_is_one_message(tmp_path):
    encoder = load(write_qwen(tmp_path, qwen("qwen2_vl")))
    with pytest.raises(DataError, match="201x1 pixels is more than 200 times"):
        encoder.preprocess([Image.new("RGB", (201, 1))])


@pytest.mark.parametrize("lost", ["model.visual.merger.", "model.visual.deepstack_merger_list.1."])
def test_a_lost_merger_is_a_fault(tmp_path, lost):
    model = qwen("qwen3_vl")
    write_qwen(tmp_path, model)
    kept = {k: t.contiguous() for k, t in spelled(model, "Q-D").items() if not k.startswith(lost)}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="tensors do not make a patch merger and 2 of DeepStack: Missing"):
        load(tmp_path)
