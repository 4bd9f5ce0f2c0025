"""Maps over training: the first column is the base's, steps are the run's, the language model is one and is named."""

import numpy as np
import pytest
import torch
from figure_specs import FIGURES
from safetensors.torch import load_file

from visprobe.attribution.targets.answers import open_mllm
from visprobe.demo.base import BASE
from visprobe.demo.rows import DigitRows
from visprobe.encoders.load import load_encoder
from visprobe.errors import CheckpointError, UsageError
from visprobe.mllm.load import load_for_training
from visprobe.pipelines.attribution.run import AttributionConfig, gradcam
from visprobe.pipelines.attribution.snapshots import SnapshotsInOneLLM, load_vision_weights, vision_weights
from visprobe.pipelines.attribution.steps import gradcam_steps, steps_verdict
from visprobe.pipelines.measurement import Options
from visprobe.pipelines.trajectory import read_run
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
from visprobe.training.run_folder.by_step import snapshots

SETTINGS = {"stage": "sft", "steps": 4, "batch_size": 2, "learning_rate": 1e-3, "snapshot_tower_every": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that trains everything, and one whose language model stays that of the base."""
    folder = tmp_path_factory.mktemp("runs")
    run(BASE, Recipe(**SETTINGS), DigitRows(8), folder / "all")
    run(BASE, Recipe(**SETTINGS, train=("vision_tower", "projector")), DigitRows(8), folder / "sight")
    return folder


def options(folder, limit=2):
    return Options(limit=limit, batch_size=8, store=folder / "store", subset_per_class=4)


def values(looked, name):
    return [one for maps in looked.attributions.maps[name].values() for one in maps]


def same(ours, theirs):
    return all(torch.equal(a.values, b.values) and a.score == b.score for a, b in zip(ours, theirs, strict=True))


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["class", "contrast"])
def test_first_and_last_columns_are_the_maps_of_base_and_finished_run(trained, tmp_path, target):
    """Also for answers, where the run's language model is the base's."""
    look = AttributionConfig(methods=("gradcam",), target=target)
    folder = trained / "sight"
    how = options(tmp_path, 10 if target == "class" else 2)  # prototypes want an image of each class
    steps = gradcam_steps(folder, ["digits"], look, how)
    whole = gradcam([BASE, folder], ["digits"], look, how)
    names, ends = steps.attributions.names, whole.attributions.names
    assert [name.split()[-1] for name in names[1:]] == ["2", "4"]
    assert same(values(steps, names[0]), values(whole, ends[0]))
    assert same(values(steps, names[-1]), values(whole, ends[-1]))
    assert not same(values(steps, names[1]), values(whole, ends[0]))
    strip = next(one for one in steps.measured.results if one.analysis == "map_strip_1").settings
    assert strip["steps"] == [0, 2, 4] and list(strip["sheet"]["maps"]) == list(names)
    first = np.array(strip["sheet"]["maps"][names[0]][0]["values"])
    assert np.allclose(first, values(whole, ends[0])[0].values.numpy(), rtol=1e-4)  # five digits are kept
    assert ("language_model" in strip) == (target == "contrast")


@pytest.mark.thorough
def test_answers_are_those_of_the_finished_runs_language_model_and_the_report_says_so(trained, tmp_path):
    folder = trained / "all"
    looked = gradcam_steps(folder, ["digits"], AttributionConfig(methods=("gradcam",)), options(tmp_path))
    names = looked.attributions.names
    finished = gradcam([folder], ["digits"], AttributionConfig(methods=("gradcam",)), options(tmp_path))
    assert same(values(looked, names[-1]), values(finished, finished.attributions.names[0]))
    [result] = [one for one in looked.measured.results if one.analysis == "map_steps"]
    assert result.settings["language_model"] == "all"
    assert any("language model is that of all at every step" in text for text in looked.measured.warnings)
    strip = next(one for one in looked.measured.results if one.analysis == "map_strip_1")
    assert "The language model is that of all at every step" in FIGURES["map_strip_1"].caption(strip)


@pytest.mark.thorough
def test_scores_and_measures_have_differences_to_the_base_alone(trained, tmp_path):
    looked = gradcam_steps(trained / "all", ["digits"], AttributionConfig(target="class"), options(tmp_path, 10))
    [result] = [one for one in looked.measured.results if one.analysis == "map_steps"]
    base, *later = looked.attributions.names
    assert result.settings["steps"] == {base: 0, later[0]: 2, later[1]: 4}
    differences = result.select(role="difference")
    assert {row.reference for row in differences} == {base} and {row.checkpoint for row in differences} == set(later)
    assert {"score", "gini", "rank_correlation"} <= {row.measure for row in result.select(role="value")}
    own = {name: np.mean([one.score for one in values(looked, name)]) for name in (base, later[1])}
    [row] = result.select(checkpoint=later[1], measure="score", role="difference")
    assert row.estimate.value == pytest.approx(own[later[1]] - own[base], abs=1e-6)
    assert row.estimate.low < row.estimate.value < row.estimate.high and row.estimate.unit == "cosine"
    [said] = steps_verdict(result, "all")
    assert "at step 4, the last" in said.text
    assert [one["name"] for one in looked.measured.checkpoints] == [base, *later]


@pytest.mark.thorough
def test_while_a_run_goes_on_its_base_is_named_and_lends_the_language_model(trained, tmp_path):
    unfinished = tmp_path / "going"
    (unfinished / "checkpoints").mkdir(parents=True)
    (unfinished / "snapshots").symlink_to(trained / "all" / "snapshots")
    with pytest.raises(UsageError, match="is not finished") as caught:
        gradcam_steps(unfinished, ["digits"], AttributionConfig(), options(tmp_path))
    assert "--ckpt BASE" in caught.value.hint
    look = AttributionConfig(methods=("gradcam",))
    looked = gradcam_steps(unfinished, ["digits"], look, options(tmp_path), base=BASE)
    whole = gradcam([BASE], ["digits"], look, options(tmp_path))
    assert same(values(looked, looked.attributions.names[0]), values(whole, whole.attributions.names[0]))
    [result] = [one for one in looked.measured.results if one.analysis == "map_steps"]
    assert result.settings["language_model"] == looked.attributions.names[0]


@pytest.mark.thorough
def test_a_moment_is_the_copys_tower_under_the_runs_language_model(trained):
    folder = trained / "all"
    copy = snapshots(folder)[2]
    made = []

    def whole(checkpoint, encoder):
        made.append(open_mllm(checkpoint, [], "answer"))
        return made[-1]

    moments = SnapshotsInOneLLM(whole, read_run(folder), BASE)
    subject = moments(str(copy), load_encoder(copy))
    state, own = subject.modules[0].state_dict(), load_file(copy / "model.safetensors")
    finished = load_for_training(folder)[0].state_dict()
    for name, weight in state.items():
        assert torch.equal(weight, own[name].float() if name in own else finished[name])
    for folder_of, path in ((BASE, BASE), (folder, folder)):
        again = vision_weights(moments(str(path), load_encoder(path)).modules[0])
        expected = vision_weights(load_for_training(folder_of)[0])
        assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert len(made) == 1


def test_other_shapes_are_refused_and_change_nothing(trained):
    model, _ = load_for_training(BASE)
    weights = {name: weight.clone() + 1 for name, weight in vision_weights(model).items()}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    first, *_, last = weights
    with pytest.raises(CheckpointError, match=r"elsewhere: .* in the run's model"):
        load_vision_weights(model, {**weights, last: weights[last][..., :-1]}, "elsewhere")
    with pytest.raises(CheckpointError, match="do not have the same tensors"):
        load_vision_weights(model, {name: weight for name, weight in weights.items() if name != first}, "elsewhere")
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.thorough
def test_kept_maps_are_found_again_and_belong_to_their_language_model(trained, tmp_path, monkeypatch):
    arguments = (["digits"], AttributionConfig(methods=("gradcam",)), options(tmp_path), tmp_path / "kept")
    first = gradcam_steps(trained / "sight", *arguments)
    monkeypatch.setattr("visprobe.pipelines.attribution.run.maps", None)  # needed for a map that is not there
    again = gradcam_steps(trained / "sight", *arguments)
    assert all(same(values(first, name), values(again, name)) for name in first.attributions.names)
    with pytest.raises(TypeError):
        gradcam_steps(trained / "all", *arguments)
