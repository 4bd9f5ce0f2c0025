"""A directory full of checkpoints of every family: what the table says of each, from headers alone."""

import csv
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_checkpoints import llava, write, write_llava
from zoo import ZOO

from visprobe.encoders import load_encoder
from visprobe.encoders.layouts.original_towers import original_tower
from visprobe.encoders.listing.scan import ScanRow, same_towers, scan
from visprobe.encoders.listing.table import MODEL_COLUMNS, NOT_YET, TOWER_COLUMNS, model_rows, tower_rows
from visprobe.errors import CheckpointError
from visprobe.io.containers.tensors import Tensors
from visprobe.io.rows import write_rows

COPIES = 8


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Every checkpoint of the zoo, eight times, in folders of different depth, among things that are none."""
    root = tmp_path_factory.mktemp("tree")
    for name, (put, _, _) in ZOO.items():
        first = root / "run0" / name
        put(first)
        for copy in range(1, COPIES):
            shutil.copytree(first, root / f"run{copy}" / "deeper" / name)
    (root / "logs").mkdir()
    (root / "logs" / "config.json").write_text("{}")
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    (root / "broken" / "model.safetensors").write_bytes(b"nothing")
    return root


@pytest.mark.thorough
def test_one_row_per_checkpoint_and_each_right(tree):
    rows = {row.path: row for row in scan([tree])}
    broken = rows.pop(str(tree / "broken"))
    assert "not a safetensors file" in str(broken.problem)
    named = {path: path.rsplit("/", 1)[1] for path in rows if "named-siglip" not in path}
    assert len(named) == COPIES * len(ZOO) > 190
    for path, name in named.items():
        _, family, consumed = ZOO[name]
        row = rows[path]
        assert row.problem is None, row.problem
        assert row.family == family or family is None
        assert row.consumed == consumed or consumed is None


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_row_says_what_reading_the_encoder_finds(tree, name):
    folder = tree / "run0" / name
    row = next(row for row in scan([folder]) if row.path == str(folder))
    encoder = load_encoder(folder)
    assert row.consumed == encoder.consumed
    assert row.off_path == encoder.provenance.off_path
    assert row.layout == encoder.provenance.layout
    assert row.tower_params + row.connector_params == encoder.provenance.params
    assert row.bytes_needed == sum(weight.nbytes for weight in encoder.weights().values())
    assert row.bytes_needed <= row.bytes_stored
    groups = {encoder.weight_group(name) for name in encoder.weights()}
    assert row.blocks == sum(group.startswith("block_") for group in groups)
    off = sum(w.numel() for n, w in encoder.weights().items() if encoder.weight_group(n) in row.off_path)
    assert row.off_path_params == off


@pytest.mark.thorough
def test_no_weight_is_read_for_the_table(tree, monkeypatch):
    monkeypatch.setattr(Tensors, "read_many", lambda *_: pytest.fail("a weight was read"))
    assert all(row.problem is None for row in scan([tree / "run0"]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_llava(root / "base", llava("siglip"), "C")
    write_llava(root / "other-layout", llava("siglip"), "A", shards=2)
    write_llava(root / "clip", llava("clip"))
    tuned = write_llava(root / "tuned", llava("siglip")) / "model.safetensors"
    tensors = load_file(tuned)
    for part in ("vision_tower.encoder.layers.1.mlp.fc1.bias", "multi_modal_projector.linear_2.bias"):
        tensors[part] += 1
    save_file(tensors, tuned, metadata={"format": "pt"})
    return root


def test_identity_is_found_across_layouts_and_changes_are_named(runs):
    rows = {row.path.rsplit("/", 1)[1]: row for row in scan([runs], base=runs / "base")}
    assert rows["base"].changed == rows["other-layout"].changed == ()
    assert rows["tuned"].changed == ("block_02", "projector")
    assert rows["clip"].changed is None
    assert same_towers(list(rows.values())) == [[str(runs / "base"), str(runs / "other-layout")]]
    assert rows["tuned"].tower_hash == load_encoder(runs / "tuned").tower_hash


def test_places_are_scanned_once_and_must_exist(runs):
    assert len(scan([runs, runs / "base"])) == 4
    with pytest.raises(CheckpointError, match="does not exist"):
        scan([runs / "nowhere" / "at" / "all"])


def test_links_and_folders_of_steps_are_walked_and_each_place_once(tmp_path):
    first = write_llava(tmp_path / "store" / "base", llava("siglip"))
    places = ("runs/global_step100_hf", "runs/global_step_5/actor/huggingface", "runs/whole")
    for place in places:
        shutil.copytree(first, tmp_path / place)
    shutil.copytree(first, tmp_path / "runs" / "whole" / "global_step7")  # DeepSpeed's, of the checkpoint around it
    (tmp_path / "runs" / "linked").symlink_to(first)
    (tmp_path / "runs" / "loop").symlink_to(tmp_path / "runs")
    found = [row.path.removeprefix(f"{tmp_path}/") for row in scan([tmp_path / "runs"])]
    assert sorted(found) == sorted([*places, "runs/linked"])


def test_what_a_finished_run_can_be_extended_from_is_no_further_checkpoint(tmp_path):
    kept = tmp_path / "run" / "checkpoints" / "checkpoint-8"
    write_llava(tmp_path / "run", llava("siglip"))
    shutil.copytree(tmp_path / "run", kept)
    (kept.parent / "inputs.json").write_text("{}")
    assert [row.path for row in scan([tmp_path])] == [str(tmp_path / "run")]
    for file in (path for path in (tmp_path / "run").iterdir() if path.is_file()):
        file.unlink()  # it is not finished, and what it goes on from is the only model there is
    assert [row.path for row in scan([tmp_path])] == [str(kept)]


def test_what_the_system_refuses_is_a_row_with_its_problem(tmp_path, monkeypatch):
    write_llava(tmp_path / "fine", llava("siglip"))
    broken = write_llava(tmp_path / "locked", llava("siglip")) / "model.safetensors"
    opened = Path.open

    def refusing(path, *args, **kwargs):  # the superuser may read anything
        if path == broken:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    problems = {row.path.rsplit("/", 1)[1]: row.problem for row in scan([tmp_path])}
    assert problems == {"fine": None, "locked": f"{broken}: Permission denied"}


def test_a_table_tells_unchanged_from_not_comparable(tmp_path):
    rows = [ScanRow("a", changed=()), ScanRow("b", changed=None), ScanRow("c", changed=("head", "projector"))]
    write_rows(tmp_path / "scan.csv", [row.to_json() for row in rows])
    with (tmp_path / "scan.csv").open() as stream:
        assert [row["changed"] for row in csv.DictReader(stream)] == ["none", "", "head; projector"]


def test_a_checkpoint_without_gathered_weights_is_a_row_with_its_problem(tmp_path):
    model = llava("siglip")
    tensors = {name: tensor[:0] if "layers.1" in name else tensor for name, tensor in model.state_dict().items()}
    write(tmp_path / "zero3", tensors, model.config)
    [row] = scan([tmp_path], hashes=True)
    assert "no elements" in str(row.problem)


def test_every_family_has_a_row_in_the_table_and_a_checkpoint_in_the_zoo():
    models, towers = model_rows(), tower_rows()
    assert all(tuple(row) == MODEL_COLUMNS for row in models)
    assert all(tuple(row) == TOWER_COLUMNS for row in towers)
    assert {row["status"] for row in models} == {"read"}
    assert {row["tower"] for row in towers if row["status"] != "read"} == set(NOT_YET)
    families = {family for _, family, _ in ZOO.values()}
    missing = {row["family"] for row in models} - families
    assert {name for name in missing if not name.startswith("Qwen")} <= {"LLaVA-NeXT", "VipLLaVA"}


def test_towers_that_are_not_read_yet_are_refused_by_name():
    for name in NOT_YET:
        with pytest.raises(CheckpointError, match="not supported yet"):
            original_tower(name)
