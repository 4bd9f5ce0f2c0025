"""The demo as a newcomer runs it, in its fast form."""

import json


def test_the_fast_demo_compares_three_checkpoints_and_resumes(run, tmp_path):
    ran = run("demo", "--fast", "--output-dir", tmp_path / "demo")
    assert ran.code == 0, ran.err
    assert f"checkpoints: {tmp_path / 'demo' / 'base'} {tmp_path / 'demo' / 'sft'}" in ran.out
    document = json.loads((tmp_path / "demo" / "report" / "report.json").read_text())
    assert [c["name"] for c in document["checkpoints"]] == ["base", "sft", "dpo"]
    results = {result["analysis"]: result["rows"] for result in document["results"]}
    looks = {"attribution", "maps", "map_differences", "map_contrast"}
    assert set(results) == {"imagenet", "drift", "weights", "answers", *looks}
    shares = {
        (r["checkpoint"], r["measure"]): r["estimate"]["value"] for r in results["answers"] if r["role"] != "difference"
    }
    assert shares["base", "accuracy/all"] >= shares["blind", "accuracy/all"] + 0.25
    assert {measure for _, measure in shares} == {
        f"accuracy/{g}" for g in ("general", "knowledge", "ocr", "vision", "all")
    }
    page = (tmp_path / "demo" / "report" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    for name in ("sft", "dpo"):
        assert (tmp_path / "demo" / name / "model.safetensors").is_file()
    first = {name: (tmp_path / "demo" / name / "manifest.json").read_bytes() for name in ("sft", "dpo")}
    again = run("demo", "--fast", "--output-dir", tmp_path / "demo", "--json")
    assert json.loads(again.out)["results"] == document["results"]
    assert first == {name: (tmp_path / "demo" / name / "manifest.json").read_bytes() for name in ("sft", "dpo")}


def test_unknown_arms_are_refused(run, tmp_path):
    ran = run("demo", "--fast", "--arms", "sft,ppo", "--output-dir", tmp_path / "demo")
    assert ran.code == 2
    assert "--arms ppo: no such arm" in ran.err
