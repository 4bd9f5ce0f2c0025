"""Zero-shot accuracy: planted alignment, chance, an independent count, and what is left out or refused."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from planted_features import feature_set, reordered

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from tiny_checkpoints import llava, write_llava
from tiny_two_tower import two_tower

from visprobe.analyses.accuracy.imagenet import IMAGENET
from visprobe.analyses.accuracy.zeroshot import Reader, class_embeddings, with_text_tower, zeroshot
from visprobe.analyses.core.contract import check_analysis
from visprobe.data.templates import TEMPLATES, prompts, read_templates, spoken_names
from visprobe.encoders.text.text_tower import load_text_tower
from visprobe.errors import DataError, UsageError
from visprobe.pipelines.measure import measure
from visprobe.pipelines.measurement import Options

NAMES = ("cat", "dog", "horse", "ship", "frog", "truck", "bird", "deer")
LABELS = np.arange(400) % len(NAMES)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    two_tower(folder, projection_dim=12)
    return load_text_tower(folder)


def embedded(name, rows, labels=LABELS):
    return feature_set(name, {"embedding": np.asarray(rows, np.float64)}, labels, NAMES)


def noise(seed, width=12):
    return np.random.default_rng(seed).normal(size=(len(LABELS), width))


def value(result, name, measure="zeroshot_top1", reference=None):
    [row] = result.select(checkpoint=name, measure=measure, reference=reference)
    return row.estimate


def test_images_where_their_sentences_are_are_all_right_and_noise_is_at_chance(tower):
    rows = 7 * class_embeddings(tower, NAMES, TEMPLATES)[LABELS]
    sets = [embedded("base", rows), embedded("sft", noise(0)), embedded("untrained", noise(1))]
    readers = dict.fromkeys(("base", "sft", "untrained"), Reader(tower, project=False))
    result = zeroshot(sets, readers, NAMES)
    assert value(result, "base").value == 1
    assert value(result, "sft").low <= 1 / 8 <= value(result, "sft").high
    assert value(result, "sft", "zeroshot_top5").low <= 5 / 8 <= value(result, "sft", "zeroshot_top5").high
    assert value(result, "sft", reference="base").high < -0.7
    assert [row.role for row in result.select(checkpoint="untrained")] == ["baseline", "baseline"]
    assert result.settings["chance"] == 1 / 8


def test_the_count_is_that_of_a_plain_loop(tower):
    rows = noise(2) + 3 * class_embeddings(tower, NAMES, ["a {}", "{}."])[LABELS]
    result = zeroshot([embedded("base", rows)], {"base": Reader(tower, project=False)}, NAMES, ["a {}", "{}."])
    right, spoken = 0, [tower.embed([f"a {name}", f"{name}."]).numpy().astype(float) for name in NAMES]
    for row, label in zip(rows.astype(np.float32), LABELS, strict=True):
        cosines = []
        for sentences in spoken:
            mean = sum(one / np.linalg.norm(one) for one in sentences)
            cosines.append(row @ mean / np.linalg.norm(row) / np.linalg.norm(mean))
        right += int(np.argmax(cosines)) == label
    assert value(result, "base").value == right / len(LABELS)


def test_a_checkpoint_without_projection_goes_through_the_text_towers(tower):
    wanted = class_embeddings(tower, NAMES, TEMPLATES)[LABELS]
    before = wanted @ np.linalg.pinv(tower.visual_projection.double().numpy()).T
    sets = [embedded("base", before), embedded("sft", wanted)]
    readers = {"base": Reader(tower, project=True), "sft": Reader(tower, project=False)}
    result = zeroshot(sets, readers, NAMES)
    assert value(result, "base").value == value(result, "sft").value == 1
    assert result.settings["projection_of_text_tower"] == ["base"]


def test_images_are_paired_by_id_and_ties_go_to_the_class_listed_first(tower):
    order = np.random.default_rng(3).permutation(len(LABELS))
    sets = [embedded("base", noise(4)), reordered(embedded("sft", noise(4)), order)]
    result = zeroshot(sets, dict.fromkeys(("base", "sft"), Reader(tower, project=False)), NAMES)
    assert value(result, "sft", reference="base").value == 0
    same = zeroshot(sets[:1], {"base": Reader(tower, project=False)}, ("cat",) * 7 + ("dog",))
    assert "the name of more than one class" in same.warnings[0]
    assert value(same, "base").value <= 2 / 8


def test_checkpoints_that_cannot_answer_are_left_out_and_said(tower):
    silent = feature_set("dpo", {"block_01": noise(5)}, LABELS, NAMES)
    sets = [embedded("base", noise(5)), embedded("sft", noise(5)), silent]
    result = zeroshot(sets, {"sft": Reader(tower, project=False)}, NAMES)
    assert {row.checkpoint for row in result.rows} == {"sft"}
    assert result.warnings == (
        "base has no zero-shot accuracy: its checkpoint holds no text tower",
        "dpo has no zero-shot accuracy: its checkpoint holds no pooling head",
    )
    with pytest.raises(DataError, match=r"no text tower; .*no text tower; .*no pooling head"):
        zeroshot(sets, {}, NAMES)


def test_what_cannot_be_asked_is_one_message(tower):
    reader = {"base": Reader(tower, project=False)}
    with pytest.raises(DataError, match=r"base embeds images in 7 numbers, the text tower of .* takes 12"):
        zeroshot([embedded("base", noise(0, 7))], reader, NAMES)
    with pytest.raises(DataError, match="has no labels"):
        zeroshot([replace(embedded("base", noise(0)), labels=None)], reader, NAMES)
    with pytest.raises(DataError, match="embeds an image of val as zero"):
        zeroshot([embedded("base", noise(0) * (LABELS > 0)[:, None])], reader, NAMES)
    with pytest.raises(DataError, match="have 1 different names"):
        zeroshot([embedded("base", noise(0))], reader, ["cat"] * 8)
    with pytest.raises(DataError, match="no sentence can be made of that"):
        zeroshot([embedded("base", noise(0))], reader, [f"n0000000{n}" for n in range(8)])


def test_names_and_templates(tmp_path):
    titled = SimpleNamespace(classes=("n1", "n2", "n3"), class_titles=("tench, Tinca", "crane, bird", "crane, machine"))
    assert spoken_names(("n1", "n2", "n3"), titled) == ("tench", "crane, bird", "crane, machine")
    assert spoken_names(("polar_bear", "x"), None) == ("polar bear", "x")
    assert prompts("cat", ["{} here", "{}"]) == ["cat here", "cat"]
    path = tmp_path / "templates.txt"
    path.write_text("a {}.\n\nmy {}\n")
    assert read_templates(path) == ("a {}.", "my {}")
    path.write_text("a {}.\nnone\n{} {}\n")
    with pytest.raises(DataError, match="lines 2, 3 without"):
        read_templates(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="no template"):
        read_templates(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_templates(tmp_path / "gone")


def test_it_keeps_the_promises_of_an_analysis(tmp_path):
    width = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    two_tower(tmp_path, "siglip", text=width)
    check_analysis(with_text_tower(tmp_path))


@pytest.mark.thorough
def test_from_checkpoints_and_images_to_numbers(tmp_path):
    two_tower(tmp_path / "clip", projection_dim=12)
    mllm = write_llava(tmp_path / "mllm", llava("clip"))
    how = Options(limit=40, store=tmp_path / "store", device="cpu")
    [result] = measure([tmp_path / "clip", mllm], "digits", [with_text_tower()], how).results
    assert {row.checkpoint for row in result.rows} == {"clip", "untrained (clip)"}
    assert "mllm has no zero-shot accuracy: its checkpoint holds no text tower" in result.warnings
    [result] = measure([tmp_path / "clip", mllm], "digits", [with_text_tower(tmp_path / "clip")], how).results
    assert {row.checkpoint for row in result.rows} == {"clip", "mllm", "untrained (clip)", "untrained (mllm)"}
    assert result.settings["projection_of_text_tower"] == ["mllm", "untrained (mllm)"]
    with pytest.raises((DataError, UsageError), match="holds no text tower"):
        measure([mllm], "digits", [with_text_tower()], how)


def test_a_borrowed_head_is_named_wherever_its_numbers_stand(tmp_path):
    two_tower(tmp_path / "so400m", "siglip", text={"projection_size": 32})
    model = llava()
    mllm, after = write_llava(tmp_path / "mllm", model), write_llava(tmp_path / "after", llava(seed=1))
    clip = write_llava(tmp_path / "llava-clip", llava("clip"))
    how = Options(limit=40, store=tmp_path / "store", device="cpu")
    asked = with_text_tower(tmp_path / "so400m")
    measured = measure([tmp_path / "so400m", mllm, after, clip], "digits", [IMAGENET, asked], how)
    plain, result = measured.results
    assert {row.checkpoint for row in plain.select(site="embedding")} >= {"so400m", "llava-clip"}
    assert not plain.select(checkpoint="mllm", site="embedding")
    lent = "embedding (head of so400m)"
    sites = {(row.checkpoint, row.reference): row.site for row in result.rows}
    assert sites["so400m", None] == "embedding" and sites["mllm", None] == lent
    assert sites["mllm", "so400m"] == sites["after", "mllm"] == lent
    assert result.settings["head_of_text_tower"][:2] == ["mllm", "after"]
    said = [warning for warning in result.warnings if "trained for the features of so400m" in warning]
    assert len(said) == 2 and said[0].startswith("mllm holds no pooling head")
