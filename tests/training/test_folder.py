"""Nothing that exists is overwritten unasked: what a run finds in its folder, what it says, what it leaves alone."""

import json
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file

from visprobe.demo.rows import DigitRows
from visprobe.errors import CheckpointError, UsageError
from visprobe.training.callbacks import read_metrics
from visprobe.training.job import Sources, make_job, open_job_rows, run_job, run_pivot, start
from visprobe.training.recipe import Recipe
from visprobe.training.run import run
from visprobe.training.run_folder.by_step import COMPLETE, snapshots
from visprobe.training.run_folder.folder import first_steps, inputs_of, start_of
from visprobe.training.run_folder.manifest import weights_hash

SETTINGS = {"stage": "sft", "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "seed": 5}
ROWS = DigitRows(12)
KILLED = """
import json, os, signal, sys
from pathlib import Path
from visprobe.training import run as module
from visprobe.training.run_folder import folder
from visprobe.demo.rows import DigitRows
from visprobe.training.recipe import Recipe
moment, overwrite = sys.argv[4], sys.argv[5] == "overwrite"
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def progress(stage, done, total):
    if moment == f"step {done}":
        die()
def after(count, do):
    def counted(*arguments, **more):
        after.count = getattr(after, "count", 0) + 1
        return die() if after.count > count else do(*arguments, **more)
    return counted
if moment.startswith("move"):
    replace = os.replace
    done = []
    def move(old, new, **more):
        if "final" in str(old):
            done.append(old)
            if len(done) > int(moment.split()[1]):
                die()
        return replace(old, new, **more)
    os.replace = move
if moment == "before manifest":
    finish = folder.write_json
    folder.write_json = lambda path, value: die() if path.name == "manifest.json" else finish(path, value)
if moment == "after manifest":
    finish = folder.write_json
    folder.write_json = lambda path, value: (finish(path, value), path.name == "manifest.json" and die())
if moment.startswith("remove"):
    folder._remove = after(int(moment.split()[1]), folder._remove)
if moment == "train":
    module.claim = lambda *arguments: (folder.claim(*arguments), die())
module.run(Path(sys.argv[1]), Recipe(**json.loads(sys.argv[3])), DigitRows(12), Path(sys.argv[2]), progress=progress,
           overwrite=overwrite)
"""


def recipe(**more):
    return Recipe(**{**SETTINGS, **more})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_weights(one, two):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished run of four steps that kept its last checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(base, recipe(save_every=2, snapshot_tower_every=2), ROWS, folder)
    return folder


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """A finished run of four steps without checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "plain"
    run(base, recipe(), ROWS, folder)
    return folder


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory, forked):
    """A run of four steps that was stopped in the third."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    how = recipe(save_every=2).model_dump_json()
    assert forked(KILLED, base, folder, how, "step 3", "") == -signal.SIGKILL
    return folder


@pytest.fixture
def copied(tmp_path):
    return lambda folder: shutil.copytree(folder, tmp_path / folder.name)


def refused(message, base, how, folder, rows=ROWS, **more):
    """Check that a run is refused with `message` and leaves every byte as it was; returns the hint."""
    before = contents(folder)
    with pytest.raises(UsageError) as caught:
        run(base, how, rows, folder, **more)
    assert message in caught.value.message
    assert caught.value.exit_code == 2
    assert contents(folder) == before
    return caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "dpo"}, "holds a finished sft run: stage is sft there and dpo here"),
        ({"learning_rate": 2e-5}, "learning_rate is 0.001 there and 2e-05 here"),
        ({"steps": 3}, "steps is 4 there and 3 here"),
        ({"steps": 8, "seed": 6}, "steps is 4 there and 8 here; seed is 5 there and 6 here"),
        ({"steps": None}, "steps is 4 there and not given here"),
        ({"epochs": 9}, "epochs is 1.0 there and 9.0 here"),  # which mean nothing beside steps
        ({"train": ("projector",)}, 'there and ["projector"] here'),
    ],
)
def test_another_run_is_refused_and_what_differs_is_named(base, finished, change, message):
    hint = refused(message, base, recipe(save_every=2, snapshot_tower_every=2, **change), finished)
    assert "--overwrite" in hint


def test_other_rows_and_other_bases_are_named(base, finished, copied):
    how = recipe(save_every=2, snapshot_tower_every=2)
    refused("finished sft run: other rows", base, how, finished, DigitRows(13))
    other = copied(base)
    (other / "chat_template.jinja").write_text((base / "chat_template.jinja").read_text() + "{# other #}")
    refused("another configuration, tokenizer or chat template of the base", other, how, finished)
    refused("finished sft run: another base", finished.parent / "finished", how, copied(finished), DigitRows(12))


@pytest.mark.thorough
def test_a_stopped_run_with_other_settings_keeps_its_checkpoints(base, stopped):
    refused("holds a stopped sft run: learning_rate is 0.001 there", base, recipe(save_every=2, learning_rate=1e-4),
            stopped)  # fmt: skip
    assert (stopped / "checkpoints" / "checkpoint-2" / COMPLETE).is_file()


def test_a_foreign_model_stays_as_it_is(base, copied):
    other = copied(base)
    message = "holds another model (config.json, model.safetensors) that is no run of visprobe train"
    assert "--overwrite" in refused(message, base, recipe(), other)
    (other / "manifest.json").write_text(json.dumps({"inputs": {"seed": 3}}))  # as the demo's base has one
    refused(message, base, recipe(), other)
    (other / "manifest.json").write_text('{"inputs": {"rec')
    refused("and a manifest.json that cannot be read", base, recipe(), other)


def test_files_of_no_model_are_never_removed(base, plain, copied, tmp_path):
    junk = tmp_path / "junk"
    junk.mkdir()
    for name in ("a.csv", "b.docx", "c", "d", "run.log", ".hidden"):
        (junk / name).write_text(name)
    hint = refused("holds a.csv, b.docx, c and 1 more, which is no run", base, recipe(), junk)
    assert "--overwrite" not in hint
    refused("is neither a run nor a model: --overwrite does not remove that", base, recipe(), junk, overwrite=True)
    mixed = copied(plain)
    for name in ("report", "thesis.txt", "rows.json"):
        (mixed / name).mkdir() if name == "report" else (mixed / name).touch()
    message = "holds report, rows.json, thesis.txt too, which --overwrite does not remove"
    refused(message, base, recipe(seed=9), mixed, overwrite=True)


def test_the_base_is_not_removed(finished, copied):
    whole = copied(finished)
    refused("lies in the output folder", whole / "checkpoints" / "checkpoint-4", recipe(), whole, overwrite=True)


def test_logs_and_hidden_files_are_in_nobodys_way(base, tmp_path):
    folder = tmp_path / "out"
    (folder / "checkpoints").mkdir(parents=True)  # of a run that was stopped before its first step
    (folder / "checkpoints" / "inputs.json").write_text("{}")
    kept = {"slurm-3.out": "a", "train.log": "b", "train.err": "c", ".note": "d"}
    for name, text in kept.items():
        (folder / name).write_text(text)
    assert "reused" not in run(base, recipe(steps=1), ROWS, folder)
    run(base, recipe(steps=1, seed=8), ROWS, folder, overwrite=True)
    assert {name: (folder / name).read_text() for name in kept} == kept


def test_records_of_another_version_or_of_none_are_no_traceback(base, finished, stopped, copied):
    how = recipe(save_every=2, snapshot_tower_every=2)
    older = copied(finished)
    manifest = json.loads((older / "manifest.json").read_text())
    recorded = manifest["inputs"]["recipe"]
    recorded["gone"] = recorded.pop("drop_last")
    del manifest["extended_from"], manifest["inputs"]["base_settings"]
    (older / "manifest.json").write_text(json.dumps(manifest))
    refused("drop_last is unknown there and false here; gone is false there and unknown here", base, how, older)
    torn = copied(stopped)
    for text in ("", "[]", '{"recipe": 3}', '{"base"'):
        (torn / "checkpoints" / "inputs.json").write_text(text)
        refused("holds a run whose settings cannot be read", base, recipe(save_every=2), torn)
    (torn / "manifest.json").write_text("\0")
    refused("holds a run whose settings cannot be read", base, recipe(save_every=2), torn)


def test_settings_of_other_stages_in_records_of_an_earlier_version_are_no_difference(base, plain, copied):
    folder = copied(plain)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["inputs"]["recipe"] |= {"beta": 0.1, "losses": {"sigmoid": 1.0}, "reward": ["exact"], "generations": 8}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert run(base, recipe(), ROWS, folder)["reused"]


def test_a_torn_manifest_is_written_again_from_the_last_checkpoint(base, finished, copied):
    torn = copied(finished)
    (torn / "manifest.json").write_text('{"inp')
    manifest = run(base, recipe(save_every=2, snapshot_tower_every=2), ROWS, torn)
    assert manifest["resumed_from"] == "checkpoint-4" and manifest["seen"]["steps"] == 4
    assert same_weights(torn, finished)


@pytest.mark.thorough
@pytest.mark.parametrize("stage", ["sft", "dpo", "grpo"])
def test_an_extended_run_is_the_one_with_more_steps_where_the_schedule_is_the_same(base, tmp_path, stage, monkeypatch):
    from visprobe.training.trainers.rewards import REWARDS

    monkeypatch.setitem(REWARDS, "exact", lambda completion, answer: float(len(completion) % 2))
    special = {"generations": 4, "max_new_tokens": 4, "temperature": 3.0} if stage == "grpo" else {}
    how = {"stage": stage, "schedule": "constant", "warmup": 0.0, "save_every": 3, **special}
    rows = DigitRows(28) if stage == "grpo" else ROWS  # trl resumes no second pass in its order
    whole = run(base, recipe(**how, steps=7), rows, tmp_path / "whole")
    for steps, before in ((2, []), (5, [2]), (7, [2, 5])):
        manifest = run(base, recipe(**how, steps=steps), rows, tmp_path / "extended")
        assert manifest["extended_from"] == before and manifest["seen"]["steps"] == steps
        assert manifest["resumed_from"] == (f"checkpoint-{before[-1]}" if before else None)
        assert [path.name for path in (tmp_path / "extended" / "checkpoints").glob("checkpoint-*")] == [
            f"checkpoint-{steps}"
        ]
    assert manifest["losses"] == whole["losses"]
    assert [line["step"] for line in read_metrics(tmp_path / "extended")] == list(range(1, 8))
    assert same_weights(tmp_path / "whole", tmp_path / "extended")
    assert run(base, recipe(**how, steps=7), rows, tmp_path / "extended")["reused"]
    assert json.loads((tmp_path / "extended" / "manifest.json").read_text())["extended_from"] == [2, 5]


@pytest.mark.thorough
def test_the_learning_rate_follows_the_longer_schedule_from_the_first_step_on(base, tmp_path):
    how = {"schedule": "linear", "warmup": 0.0, "save_every": 2, "part_learning_rates": {"projector": 1e-4}}
    run(base, recipe(**how), ROWS, tmp_path / "out")
    run(base, recipe(**how, steps=8), ROWS, tmp_path / "out")
    rates = [line["learning_rate"] / 1e-3 for line in read_metrics(tmp_path / "out")]
    assert rates == pytest.approx([1, 3 / 4, 2 / 4, 1 / 4, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    old, new = (
        load_file(tmp_path / "out" / "checkpoints" / "checkpoint-8" / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert all(torch.equal(old[name], new[name]) for name in new)


@pytest.mark.thorough
def test_a_stopped_run_is_extended_from_its_newest_whole_checkpoint(base, stopped, copied):
    out = copied(stopped)
    manifest = run(base, recipe(save_every=2, steps=6), ROWS, out)
    assert (manifest["resumed_from"], manifest["extended_from"], len(manifest["losses"])) == ("checkpoint-2", [4], 6)


@pytest.mark.thorough
def test_epochs_can_be_extended_too(base, tmp_path):
    how = {"steps": None, "save_every": 2}
    assert len(run(base, recipe(**how), ROWS, tmp_path / "out")["losses"]) == 3
    manifest = run(base, recipe(**how, epochs=2), ROWS, tmp_path / "out")
    assert (len(manifest["losses"]), manifest["extended_from"]) == (6, [1.0])


def test_without_a_checkpoint_nothing_is_extended(base, plain):
    hint = refused("steps is 4 there and 6 here, and no checkpoint was kept", base, recipe(steps=6), plain)
    assert "--overwrite" in hint and "--save-every" in hint


def test_what_is_kept_of_another_number_of_processes_is_not_extended(base, finished, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    how = recipe(save_every=2, snapshot_tower_every=2, steps=6)
    hint = refused("had 1 processes, this one has 2", base, how, finished)
    assert "--overwrite" in hint
    assert start_of(finished, inputs_of(base, how, ROWS), overwrite=True).clear


@pytest.mark.thorough
def test_overwriting_leaves_nothing_of_the_old_model(base, finished, copied, tmp_path):
    """A shard beside the new weights would be loaded with them."""
    out = copied(finished)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.json", "adapter_model.bin"):
        (out / name).write_text("{}")
    run(base, recipe(seed=9), ROWS, tmp_path / "fresh")
    assert "reused" not in run(base, recipe(seed=9), ROWS, out, overwrite=True)
    assert contents(out).keys() == contents(tmp_path / "fresh").keys()
    assert same_weights(out, tmp_path / "fresh") and not snapshots(out)


@pytest.mark.thorough
def test_overwriting_trains_nothing_anew_that_is_there(base, finished, stopped, copied):
    how = recipe(save_every=2, snapshot_tower_every=2)
    assert run(base, how, ROWS, finished, overwrite=True)["reused"]
    assert run(base, recipe(save_every=2), ROWS, copied(stopped), overwrite=True)["resumed_from"] == "checkpoint-2"


def test_nothing_is_removed_before_the_new_run_is_about_to_train(base, plain, tmp_path):
    before = contents(plain)
    with pytest.raises(CheckpointError, match="cannot load"):
        run(tmp_path, recipe(), ROWS, plain, overwrite=True)
    with pytest.raises(UsageError, match="no such part"):
        run(base, recipe(train=("tower",)), ROWS, plain, overwrite=True)
    assert contents(plain) == before


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("moment", "save_every"),
    [("move 0", 0), ("move 3", 0), ("after manifest", 0), ("move 3", 3), ("before manifest", 3), ("after manifest", 3)],
)
def test_a_run_killed_in_its_ending_is_finished_by_the_same_command(base, plain, tmp_path, forked, moment, save_every):
    how = recipe(save_every=save_every)
    assert forked(KILLED, base, tmp_path / "out", how.model_dump_json(), moment, "") == -signal.SIGKILL
    manifest = run(base, how, ROWS, tmp_path / "out")
    assert manifest.get("reused", False) == (moment == "after manifest")
    assert len(manifest["losses"]) == len(read_metrics(tmp_path / "out")) == 4
    assert same_weights(tmp_path / "out", plain)
    held = run(base, how, ROWS, tmp_path / "out")
    assert held["reused"] and not (tmp_path / "out" / "checkpoints" / "final").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("moment", ["remove 0", "remove 2", "remove 6", "train", "step 1"])
def test_a_run_killed_while_it_overwrites_is_finished_by_the_same_command(
    base, finished, copied, plain, forked, moment
):
    out, how = copied(finished), recipe()
    (out / "model-00001-of-00002.safetensors").touch()
    assert forked(KILLED, base, out, how.model_dump_json(), moment, "overwrite") == -signal.SIGKILL
    assert not first_steps(out, recipe(save_every=2, snapshot_tower_every=2), overwrite=False)  # it is no run any more
    run(base, how, ROWS, out, overwrite=True)
    assert contents(out).keys() == contents(plain).keys()
    assert same_weights(out, plain)


@pytest.mark.thorough
def test_an_extension_killed_at_its_start_goes_on(base, finished, copied, forked):
    out, how = copied(finished), recipe(save_every=2, snapshot_tower_every=2, steps=6)
    assert forked(KILLED, base, out, how.model_dump_json(), "train", "") == -signal.SIGKILL
    assert not (out / "manifest.json").exists()  # the model there is not that of six steps
    manifest = run(base, how, ROWS, out)
    assert (manifest["resumed_from"], manifest["extended_from"]) == ("checkpoint-4", [4])


@pytest.mark.thorough
def test_built_in_rows_are_those_of_the_run_that_is_extended(base, tmp_path):
    def train(steps, **more):
        flags = {"base": str(base), "steps": steps, "batch_size": 4, "learning_rate": 1e-3, "save_every": 2}
        return run_job(make_job("sft", None, flags), tmp_path / "out", **more)

    first = train(2)
    for steps in (3, 5, 5):
        longer = train(steps)
        assert longer["inputs"]["rows"] == first["inputs"]["rows"] and longer["seen"]["steps"] == steps
    assert longer["reused"] and longer["extended_from"] == [2, 3]
    with pytest.raises(UsageError, match="steps is 5 there and 4 here"):
        train(4)
    (tmp_path / "out" / "checkpoints" / "inputs.json").unlink()
    with pytest.raises(UsageError, match="sft run: steps is 5 there and 7 here, and no checkpoint"):
        train(7)
    assert train(7, overwrite=True)["rows"]["count"] == 28  # as in a new folder


def test_rows_of_a_new_folder_are_as_many_as_the_run_will_see(tmp_path):
    recipe = Recipe(stage="sft", steps=3, batch_size=4)
    assert len(open_job_rows(Sources(base="base"), recipe, tmp_path / "new")) == 12


class Saved:
    """A model and processor that save a file."""

    def save_pretrained(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").touch()


def test_the_model_that_a_run_starts_from_is_not_overwritten(monkeypatch, tmp_path):
    monkeypatch.setattr("visprobe.training.models.assemble.assemble", lambda *_, **__: (Saved(), Saved()))
    sources = Sources(vision_tower="tower", language_model="llm")
    folder = start(sources, 0, tmp_path / "out")
    before = contents(folder)
    assert start(sources, 0, tmp_path / "out") == folder
    for other, seed, differs in (
        (sources.model_copy(update={"image_size": 32}), 0, "image_size"),
        (sources, 1, "seed"),
    ):
        with pytest.raises(UsageError, match=rf"a new model made of something else \({differs}\)") as caught:
            start(other, seed, tmp_path / "out")
        assert "--overwrite" in caught.value.hint and contents(folder) == before
    start(sources, 1, tmp_path / "out", overwrite=True)
    assert contents(folder) != before
    (folder / "made_of.json").unlink()
    with pytest.raises(UsageError, match=r"is put together, holds config\.json"):
        start(sources, 1, tmp_path / "out")
    (folder / "photos").mkdir()
    with pytest.raises(UsageError, match="holds photos too"):
        start(sources, 1, tmp_path / "out", overwrite=True)


@pytest.mark.thorough
def test_a_pivot_overwrites_nothing_unasked(base, tmp_path, monkeypatch):
    from visprobe.mllm.load import load_for_training

    made = []
    monkeypatch.setattr(
        "visprobe.training.models.pivot.transplant", lambda *_, **__: made.append(1) or load_for_training(base)
    )
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("rows: 8\nsteps: 2\nbatch_size: 4\nlearning_rate: 1.0e-3\n")

    def pivot(seed=0, **more):
        return run_pivot("tower", "llm", tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "out", seed=seed, **more)

    pivot()
    before = contents(tmp_path / "out")
    with pytest.raises(UsageError, match=r"start, where .* made of something else \(seed\)"):
        pivot(seed=1)
    assert contents(tmp_path / "out") == before and made == [1]
    (tmp_path / "a.yaml").write_text("rows: 8\nsteps: 2\nbatch_size: 4\nlearning_rate: 2.0e-3\n")
    with pytest.raises(UsageError, match=r"projector holds a finished projector run: learning_rate is 0.001 there"):
        pivot()
    assert contents(tmp_path / "out") == before
    again = pivot(seed=1, overwrite=True)
    assert not any(manifest.get("reused") for manifest in again.values())
    assert again["full"]["inputs"]["base"] == weights_hash(tmp_path / "out" / "projector")
