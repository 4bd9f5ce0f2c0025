"""`visprobe scan`: what is read and what is not, each with its reason, and the exit code that says so."""

import json

import torch


def test_what_cannot_be_read_has_a_row_and_an_exit_code(run, checkpoints, tmp_path):
    actor = tmp_path / "step" / "actor"
    actor.mkdir(parents=True)
    torch.save({"a.weight": torch.ones(1)}, actor / "model_world_size_1_rank_0.pt")
    done = run("scan", checkpoints / "base")
    assert done.code in (None, 0) and done.out.startswith("1 checkpoint\n")
    refused = run("scan", checkpoints, actor, "-o", tmp_path / "scan.csv")
    assert refused.code == 3
    assert "3 checkpoints" in refused.out and "1 that cannot be read" in refused.out
    assert "verl.model_merger merge" in refused.out
    assert "1 of 4 checkpoints cannot be read" in refused.err
    assert "verl.model_merger merge" in (tmp_path / "scan.csv").read_text()


def test_one_json_document_also_where_something_cannot_be_read(run, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    ran = run("scan", tmp_path, "--json")
    [row] = json.loads(ran.out)["checkpoints"]
    assert ran.code == 3
    assert "Lightning" in row["problem"] and "pytorch_model.bin" in row["hint"]


def test_nothing_found_is_said(run, tmp_path):
    ran = run("scan", tmp_path)
    assert ran.code in (None, 0) and "no folder there holds the weights of a model" in ran.err
