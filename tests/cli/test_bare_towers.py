"""Towers by themselves: measured at their output, and nothing is said of a language model that they do not have."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from visprobe.encoders.checkpoint.quiet import quiet

sys.path.insert(0, str(Path(__file__).parents[1] / "encoders"))
from tiny_two_tower import two_tower


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """base and one whose second block was changed."""
    import transformers

    folder = tmp_path_factory.mktemp("towers")
    for name in ("base", "moved"):
        two_tower(folder / name)
    with quiet():
        model = transformers.AutoModel.from_pretrained(folder / "moved")
        with torch.no_grad():
            model.vision_model.encoder.layers[1].mlp.fc1.weight.add_(0.5 * torch.randn(()) + 0.2)
        model.save_pretrained(folder / "moved")
    return folder


def test_nothing_is_said_of_a_language_model(run, towers, tmp_path):
    ran = run("compare", towers / "base", towers / "moved", "--data", "digits", "--limit", 40, "-o", tmp_path, "-q",
              "--analyses", "drift,weights,imagenet,knn,similarity,sites,geometry,tokens")  # fmt: skip
    assert ran.code == 0, ran.err
    written = json.loads((tmp_path / "report.json").read_text())
    assert "imagenet" in [result["analysis"] for result in written["results"]]
    verdict = " ".join(one["text"] for one in written["verdict"])
    assert "the tower's output" in verdict
    shown = re.sub(r"<script.*?</script>", "", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    for text in (verdict, ran.out, shown):
        assert not re.search(r"read by.{0,9}LLM|language model\s+(reads|does not read)", text, re.DOTALL)


@pytest.mark.thorough
def test_accuracy_of_towers_alone_names_their_output(run, towers, tmp_path):
    ran = run("imagenet", "--ckpt", towers / "base", "--data", "digits", "--limit", 40, "-o", tmp_path, "-q")
    assert ran.code == 0, ran.err
    assert "(the tower's output)" in ran.out and "LLM" not in ran.out
