"""Names from outside are text wherever they are shown: in pages, tables, figures, and on the terminal."""

import json
import os
import shutil

import pytest
from hostile_names import NAMES, TEXTS, as_file, call
from hostile_outputs import KINDS, check_html, check_terminal, strict

MODELS = (NAMES[1], NAMES[13] + NAMES[16], NAMES[5])


@pytest.fixture(scope="module")
def ran(folder):
    """Every command over hostile names; name to what it printed. Files are in out/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISPROBE_CACHE", str(folder / "cache"))
        patch.setenv("FORCE_COLOR", "1")
        patch.delenv("NO_COLOR", raising=False)
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        yield {name: call(*arguments) for name, arguments in commands(folder).items()}


def commands(folder):
    models, out, data = [folder / "models" / name for name in MODELS], folder / "out", folder / "data"
    pictures = [folder / "flat" / as_file(name) for name in (NAMES[0], NAMES[6], NAMES[16], NAMES[17])]
    asked = [
        {"image": file.name, "prompt": text, "answer": "yes", "rejected": "no"}
        for file, text in zip(pictures, TEXTS, strict=False)
    ]
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    classes = [name.replace("\n", " ").replace("\r", " ").split("\u2028")[0] for name in TEXTS]
    labels = [classes[number % 5] for number in range(len(NAMES))]
    (folder / "labels.txt").write_text("\n".join(label.replace(" ", "_") for label in labels), "utf-8")
    measured = ["--max-bad", "50%"]
    return {
        "imagenet": ["imagenet", "--ckpt", models[0], "--ckpt", models[1], "--data", data, "-o", out / "imagenet",
                     *measured],
        "labels": ["imagenet", "--ckpt", models[0], "--data", folder / "flat", "--labels", folder / "labels.txt",
                   "--json", "--analyses", "imagenet", "-o", out / "labels"],
        "compare": ["compare", *models[:2], "--data", data, "--analyses", "imagenet,drift,weights,images", "-o",
                    out / "compare", *measured],
        "segment": ["segment", "--ckpt", models[0], "--ckpt", models[1], "--data", folder / "masked", "--seeds", 1,
                    "--steps", 5, "-o", out / "segment"],
        "gradcam": ["gradcam", *pictures, folder / "asked.jsonl", "--ckpt", models[0], "--ckpt", models[1],
                    "--method", "gradient-norm", "-o", out / "gradcam"],
        "report": ["report", out / "imagenet", out / "compare", "-o", out / "merged"],
        "figure": ["figure", "drift", out / "compare", "-o", out / "drift.pdf"],
        "scan": ["scan", folder / "models", "-o", out / "scan.csv"],
        "scan json": ["scan", folder / "models", "--json", "-o", out / "scan.json"],
        "cache": ["cache", "ls"],
        "cache json": ["cache", "ls", "--json"],
        "list": ["list", "analyses"],
    }  # fmt: skip


@pytest.mark.thorough
def test_every_command_does_its_work(ran):
    # One of the checkpoints is broken: a scan says so by its exit code, with everything printed and written.
    wanted = {"scan": 3, "scan json": 3}
    assert {name: one.err for name, one in ran.items() if one.code != wanted.get(name, 0)} == {}


@pytest.mark.thorough
def test_the_terminal_shows_text_in_straight_tables(ran):
    for name, one in ran.items():
        check_terminal(one.err)
        if "json" not in name and name != "labels":
            check_terminal(one.out)
            assert "\x1b[" in one.out or name in ("report", "figure", "scan json"), name  # colours were on
        else:
            strict(one.out)


@pytest.mark.thorough
def test_every_file_that_is_written_is_whole_and_inert(ran, folder):
    files = [path for path in (folder / "out").rglob("*") if path.is_file() and "kept" not in path.parts]
    assert {path.suffix for path in files} == set(KINDS) and len(files) > 60
    for path in files:
        KINDS[path.suffix](path)


@pytest.mark.thorough
def test_names_stay_apart_and_whole(ran, folder):
    document = json.loads((folder / "out" / "imagenet" / "report.json").read_text())
    assert [one["classes"] for one in document["data"]] == [len(NAMES)] * 2  # "Name" and "name" too
    assert [one["name"] for one in document["checkpoints"]] == list(MODELS[:2])
    assert document["data"][0]["bad_items"][0]["id"].endswith(f"{NAMES[0]}/{as_file(NAMES[1])}")
    page = check_html(folder / "out" / "imagenet" / "report.html").text
    assert NAMES[1] in page and "evil\\u202egpj\\u2066.exe" in page and "\\x1b[31mred" in page


@pytest.mark.thorough
def test_nothing_was_run_or_written_beside_the_output(ran, folder):
    assert os.listdir(folder / "here") == []
    assert {path.name for path in folder.iterdir()} == {
        "data", "flat", "masked", "models", "cache", "out", "here", "asked.jsonl", "labels.txt",
    }  # fmt: skip


@pytest.mark.thorough
def test_a_report_that_was_tampered_with_is_text_too(ran, folder, tmp_path):
    document = json.loads((folder / "out" / "compare" / "report.json").read_text())
    document["warnings"] = list(TEXTS)
    document["command"], document["platform"], document["data"][0]["name"] = TEXTS[-3], TEXTS[0], TEXTS[13]
    document["versions"] = {TEXTS[-3]: TEXTS[1]}
    document["verdict"] = [{"text": text, "evidence": []} for text in TEXTS]
    document["checkpoints"][0] |= {TEXTS[-3]: {TEXTS[1]: [TEXTS[2]]}}
    text = json.dumps(document)
    for result in document["results"]:
        result["question"], result["warnings"] = TEXTS[-3], list(TEXTS)
        for row in result["rows"]:
            row["estimate"]["method"] = TEXTS[-3]
    for number, changed in enumerate((document, json.loads(text.replace("block_0", "<script>_")))):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "report.json").write_text(json.dumps(changed))
        again = call("report", place)
        check_terminal(again.out + again.err)
        assert again.code in (0, 1), again.err  # 1: said to be damaged
        for path in [path for path in place.rglob("*") if path.suffix in KINDS and path.name != "report.json"]:
            KINDS[path.suffix](path)
    shutil.rmtree(tmp_path / "0")


@pytest.mark.thorough
def test_answers_of_any_words_are_text_too(ran, folder, tmp_path):
    """They stand beside the maps; the tokenizer of these models knows too few words to be asked for them."""
    document = json.loads((folder / "out" / "gradcam" / "report.json").read_text())
    sheets = [r["settings"]["sheet"] for r in document["results"] if "sheet" in r["settings"]]
    assert sheets
    for number, sheet in enumerate(sheets):
        sheet["titles"] = [f"{TEXTS[(number + n) % 4]} {TEXTS[-3]} / {TEXTS[n]}" for n in range(len(sheet["titles"]))]
    for number, option in enumerate(("prompt", "answer", "rejected")):
        document["options"][option]["value"] = TEXTS[number] + TEXTS[-3]
    (tmp_path / "report.json").write_text(json.dumps(document))
    again = call("report", tmp_path)
    assert again.code == 0, again.err
    assert "onload=alert(1)" in check_html(tmp_path / "report.html").text  # shown, and no tag
    for path in [path for path in tmp_path.rglob("*") if path.suffix in KINDS]:
        KINDS[path.suffix](path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["".join(TEXTS[start::4]) for start in range(4)])
def test_errors_show_the_name_and_steer_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for arguments in (
        ["compare", f"./{name}", "./b", "--data", "digits"],
        ["imagenet", "--ckpt", "x", "--data", f"./{name}"],
        ["imagenet", "--ckpt", "x", "--data", "digits", "--device", f"x{name}", "--max-bad", f"x{name}"],
        ["report", f"./{name}"],
        ["list", f"x{name}"],
        [f"x{name}"],
        ["compare", f"--x{name}"],
    ):
        for more in ([], ["--json"]):
            failed = call(*arguments, *more)
            assert failed.code not in (0, 130) and "Traceback" not in failed.err
            check_terminal(failed.err)
            if more and failed.out:
                strict(failed.out)
