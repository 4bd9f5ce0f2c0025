"""LLaVA JSON files with the odd rows that real ones have."""

import base64
import os

import pytest

from visprobe.data.rows import BadRow
from visprobe.errors import DataError
from visprobe.training.rows.llava import llava_json


def talk(question="<image>\nWhat?", answer="A dog."):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.mark.parametrize("name", ["blip_laion_cc_sbu_558k.json", "rows.jsonl"])
def test_rows_and_images_of_a_file(put_image, put_json, tmp_path, name, colour_of):
    put_image("images/00453/004539375.png", kind="PNG", colour=(10, 20, 30))
    path = put_json(
        name,
        [{"id": 1, "image": "00453/004539375.png", "conversations": talk()}, {"id": "b", "conversations": talk("Hi")}],
    )
    rows = llava_json(path, tmp_path / "images")
    assert len(rows) == 2 and rows.name == name
    assert [rows[i].id for i in range(2)] == [f"{name}#0", f"{name}#1"]
    assert colour_of(rows.image(rows[0].images[0])) == (10, 20, 30)
    assert rows[1].images == ()


def test_the_content_of_an_image_decides_not_its_name(put_image, put_json, colour_of):
    put_image("png.jpg", kind="PNG", colour=(1, 2, 3))
    put_image("图/é 猫.png", kind="PNG", colour=(4, 5, 6))
    put_image("moving.gif", kind="GIF", colour=(0, 0, 0))
    names = ["png.jpg", "图/é 猫.png", "moving.gif"]
    rows = llava_json(put_json("rows.json", [{"image": n, "conversations": talk()} for n in names]))
    assert [colour_of(rows.image(rows[i].images[0])) for i in range(3)] == [(1, 2, 3), (4, 5, 6), (0, 0, 0)]


def test_missing_and_damaged_images_say_so_and_are_left_alone(put_image, put_json, tmp_path):
    whole = put_image("cut.jpg", size=(64, 64))
    whole.write_bytes(whole.read_bytes()[:300])
    (tmp_path / "text.png").write_text("<html>")
    (tmp_path / "folder.jpg").mkdir()
    rows = llava_json(put_json("rows.json", []))
    before = {p: (p.read_bytes(), os.stat(p).st_mtime_ns) for p in tmp_path.glob("*.*g") if p.is_file()}
    for key, reason in [
        ("no.jpg", "missing image: no.jpg"),
        ("cut.jpg", "unreadable image: cut.jpg"),
        ("text.png", "unreadable image: text.png (not an image"),
        ("folder.jpg", "unreadable image: folder.jpg"),
        ("nul\0.jpg", "unreadable image"),
    ]:
        with pytest.raises(BadRow) as caught:
            rows.image(key)
        assert str(caught.value).startswith(reason)
    assert {p: (p.read_bytes(), os.stat(p).st_mtime_ns) for p in before} == before and len(before) == 2


def test_one_bad_record_does_not_spoil_its_neighbours(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": \n{"prompt": "c", "image": [{"bytes": "x"}]}\n[1]\n')
    rows = llava_json(path)
    assert rows[0].answer == "b"
    for index, reason in ((1, "not valid JSON"), (2, "an image is not a path"), (3, "not an object")):
        with pytest.raises(BadRow, match=reason):
            rows[index]


def test_the_hash_follows_the_content_not_the_place(put_json, tmp_path):
    record = {"image": "a.jpg", "conversations": talk()}
    first, second = put_json("one/rows.json", [record]), put_json("two/rows.json", [record])
    other = put_json("three/rows.json", [{**record, "conversations": talk(answer="A cat.")}])
    hashes = [llava_json(path).content_hash() for path in (first, second, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_wrong_image_folder_is_found_at_once(put_json, tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        llava_json(put_json("rows.json", []), tmp_path / "nowhere")


def test_images_as_data_urls_and_file_urls(put_image, put_json, colour_of):
    path = put_image("a b.png", kind="PNG", colour=(0, 200, 0))
    data = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    places = [data, f"file://{path.as_posix().replace(' ', '%20')}", "a b.png", str(path)]
    rows = llava_json(put_json("urls.json", [{"image": place, "prompt": "q", "answer": "a"} for place in places]))
    assert [colour_of(rows.image(rows[i].images[0])) for i in range(4)] == [(0, 200, 0)] * 4


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("https://example.org/a.png", "an image on the net, and nothing is fetched: https://example.org/a.png"),
        ("data:image/png;base64,####", "unreadable image: data:image/png"),
        ("data:image/png,abc", "a data URL without base64"),
        ("data:image/png;base64,aGVsbG8=", "unreadable image: data:image/png"),
    ],
)
def test_images_that_cannot_be_had_from_a_url(put_json, key, reason):
    rows = llava_json(put_json("url.json", [{"image": key, "prompt": "q", "answer": "a"}]))
    with pytest.raises(BadRow, match=reason):
        rows.image(rows[0].images[0])
