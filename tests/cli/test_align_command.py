"""`visprobe align`: words without captions, alignment with them, and what is refused."""

import json

import pytest


def test_words_and_alignment_of_checkpoints_in_one_report(run, checkpoints, tmp_path):
    ckpts = ("--ckpt", checkpoints / "base", "--ckpt", checkpoints / "moved")
    out = tmp_path / "report"
    done = run("align", *ckpts, "--data", "digits", "--limit", 64, "--lm", checkpoints / "base", "-o", out, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    results = {result["analysis"]: result for result in document["results"]}
    assert set(results) == {"align", "words"}
    rows = {(r["checkpoint"], r["measure"], r["role"]) for r in results["align"]["rows"]}
    assert ("moved", "text_knn/base, half depth, projected", "difference") in rows
    assert ("untrained", "text_best/base", "baseline") in rows and ("shuffled", "text_best/base", "baseline") in rows
    picture = results["words"]["settings"]["picture"]
    assert picture["source"].startswith("data:image/jpeg") and picture["grid"] == [8, 8]
    assert len(picture["words"]["moved"]) == 64
    for name in ("text_alignment", "nearest_words"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 5000
    page = (out / "report.html").read_text()
    assert "Neighbours shared with a language model" in page and "nearest word" in page


@pytest.mark.thorough
def test_without_captions_or_language_model_one_message(run, checkpoints, tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number in range(24):
        Image.new("RGB", (64, 64), (number * 10, 99, 255 - number)).save(tmp_path / "images" / f"{number}.png")
    options = ("--data", tmp_path / "images", "-o", tmp_path / "report")
    words = run("align", "--ckpt", checkpoints / "base", *options)
    assert words.code == 0, words.err
    mute = run("align", "--ckpt", checkpoints / "base", "--lm", checkpoints / "base", *options)
    assert mute.code == 1 and "has no captions" in mute.err and "Traceback" not in mute.err
    wrong = run("align", "--ckpt", checkpoints / "base", "--lm", tmp_path / "nothing", *options)
    assert wrong.code == 1 and "does not exist" in wrong.err and "Traceback" not in wrong.err


def test_a_bare_tower_has_no_words(run, tmp_path):
    import transformers

    config = transformers.SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.SiglipVisionModel(config).save_pretrained(tmp_path / "tower")
    done = run("align", "--ckpt", tmp_path / "tower", "--data", "digits", "--limit", 64, "-o", tmp_path / "report")
    assert done.code == 2 and "without a language model" in done.err
