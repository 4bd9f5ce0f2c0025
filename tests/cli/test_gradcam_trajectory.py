"""Maps over training as users run them: while it trains, and afterwards from its copies."""

import json

import pytest


@pytest.mark.thorough
def test_a_run_draws_its_maps_and_is_followed_afterwards(run, checkpoints, tmp_path):
    ran = run("train", "sft", "--base", checkpoints / "base", "-o", tmp_path / "sft", "--steps", 4, "--batch-size", 2,
              "--snapshot-tower-every", 2, "--attribution-every", 3)  # fmt: skip
    assert ran.code == 0 and "note:" not in ran.err, ran.err
    lines = (tmp_path / "sft" / "attribution.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 3, 4]
    assert (tmp_path / "sft" / "attribution" / "step-000003.png").is_file()
    ran = run("gradcam", "digits", "--trajectory", tmp_path / "sft", "--limit", 2, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["name"] for one in document["checkpoints"]] == ["base", "sft step 2", "sft step 4"]
    assert [one["analysis"] for one in document["results"]] == ["map_steps", *(f"map_strip_{n}" for n in range(1, 5))]
    for n in range(1, 5):
        assert (tmp_path / "out" / "figures" / f"map_strip_{n}.png").is_file()
    assert "the language model is that of sft at every step" in " ".join(ran.err.split())
    assert "sft step 4 − base" in ran.out and "follow sft: 2/2" in ran.err


@pytest.mark.parametrize(
    "options, said",
    [
        ((), "there is no checkpoint"),
        (("--trajectory", "run", "--ckpt", "a", "--ckpt", "b"), "takes one checkpoint beside the run"),
        (("--trajectory", "run", "--ckpt", "a", "--faithfulness", 2), "does not apply to --trajectory"),
        (("--trajectory", "run"), "holds no copies of the tower"),
    ],
)
def test_what_does_not_go_together_is_one_clear_message(run, tmp_path, options, said):
    ran = run("gradcam", "digits", *options, "-o", tmp_path / "out")
    assert ran.code == 2 and said in " ".join(ran.err.split())
    assert not (tmp_path / "out").exists()
