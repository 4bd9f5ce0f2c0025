"""Mixtures draw what their strategies say, the same for the same seed."""

import pytest

from visprobe.errors import DataError, UsageError
from visprobe.training.rows.check import survey
from visprobe.training.rows.combine import Concatenated, Selected
from visprobe.training.rows.llava import llava_json
from visprobe.training.rows.mixture import mixture
from visprobe.training.rows.usable import supervised


@pytest.fixture
def ten(put_json, tmp_path):
    for name in "ab":
        put_json(f"{name}.json", [{"prompt": f"{name}{i}", "answer": "x"} for i in range(10)])
    return tmp_path


def prompts(rows):
    return [rows[i].turns[0].text for i in range(len(rows))]


def mix(folder, *strategies, seed=0):
    lines = [f"  - {{json_path: a.json, sampling_strategy: '{s}'}}" for s in strategies]
    (folder / "mix.yaml").write_text("datasets:\n" + "\n".join(lines))
    return mixture(str(folder / "mix.yaml"), seed=seed)


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("all", range(10)),
        ("first:3", range(3)),
        ("end:3", range(7, 10)),
        ("end:0", []),
        ("first:25%", range(3)),  # rounded up, as LLaVA does
        ("end:11%", [8, 9]),
        ("first:99", range(10)),
    ],
)
def test_strategies(ten, strategy, expected):
    assert prompts(mix(ten, strategy)) == [f"a{i}" for i in expected]


def test_random_samples_are_fixed_by_the_seed_and_differ_between_entries(ten):
    drawn = prompts(mix(ten, "random:6", "random:6", seed=3))
    assert drawn == prompts(mix(ten, "random:6", "random:6", seed=3))
    assert drawn != prompts(mix(ten, "random:6", "random:6", seed=4))
    assert drawn[:6] != drawn[6:] and len(set(drawn[:6])) == 6
    assert sorted(prompts(mix(ten, "random:100%"))) == [f"a{i}" for i in range(10)]


def test_braces_name_several_files(ten):
    rows = mixture(str(ten / "{b,a}.json"))
    assert prompts(rows) == [f"{name}{i}" for name in "ba" for i in range(10)]


@pytest.mark.parametrize(
    "text, error",
    [
        ("datasets: [{json_path: a.json, sampling_strategy: middle:3}]", UsageError),
        ("datasets: [{sampling_strategy: all}]", UsageError),
        ("datasets: []", UsageError),
        ("just text", UsageError),
        ("datasets: [", DataError),
        ("datasets: [{json_path: no.json}]", DataError),
    ],
)
def test_mistakes_in_a_mixture(ten, text, error):
    (ten / "mix.yaml").write_text(text)
    with pytest.raises(error):
        mixture(str(ten / "mix.yaml"))


def test_each_image_is_found_in_its_own_part(put_image, put_json, tmp_path, colour_of):
    for name, colour in (("one", (9, 0, 0)), ("two", (0, 9, 0))):
        put_image(f"{name}/same.png", kind="PNG", colour=colour)
        put_json(f"{name}/rows.json", [{"image": "same.png", "prompt": "q", "answer": "x"}] * 2)
    whole = Concatenated("both", [llava_json(tmp_path / name / "rows.json") for name in ("one", "two")])
    chosen = Selected(whole, [3, 0, 3])
    keys = [chosen[i].images[0] for i in range(len(chosen))]
    assert [colour_of(chosen.image(key)) for key in keys] == [(0, 9, 0), (9, 0, 0), (0, 9, 0)]
    assert Selected(whole, [3, 0]).content_hash() != Selected(whole, [0, 3]).content_hash()
    for outside in (-1, 4):
        with pytest.raises(IndexError):
            whole[outside]


def test_a_bad_row_is_named_by_its_own_file(put_json, tmp_path):
    for name in ("one", "two"):
        put_json(f"{name}.json", [{"prompt": "q", "answer": "x"}, {"caption": "x"}])
    rows = mixture(str(tmp_path / "{one,two}.json"))
    found = survey(rows, supervised, lambda row, sizes: "", image_required=False)
    assert found.reasons == {"no conversation": 2}
    assert found.examples["no conversation"].endswith("conversations: row 1 of one.json")


def test_nothing_concatenated_is_empty():
    assert len(Concatenated("none", [])) == 0
