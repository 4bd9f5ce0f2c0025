"""The card of an extracted encoder shows names as they are: they are no Markdown, no HTML and no front matter of it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile_names import NAMES

from visprobe.demo.base import BASE
from visprobe.encoders.exchange.export import extract_encoder
from visprobe.io.inert import escape_control_characters, escape_markdown

MARKED = (
    "[x](http:evil)",
    "![x](http:evil)",
    "`code` **b** __b__",
    "a\n---\nlicense: mit",
    "# h | x | ~~s~~ $m$",
    "\\`x`",
)
PLAIN = re.compile(r"\\([!-/:-@\[-`{-~])|&(lt|gt|amp);")


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def tags(text):
    parser = Tags()
    parser.feed(text)
    parser.close()
    return parser.tags


def shown(text):
    """What a reader sees of escaped Markdown."""
    return PLAIN.sub(lambda found: found[1] or {"lt": "<", "gt": ">", "amp": "&"}[found[2]], text)


@pytest.mark.parametrize("name", [*NAMES, *MARKED])
def test_names_are_shown_and_do_nothing(name):
    written = escape_markdown(name)
    assert shown(written) == escape_control_characters(name)
    assert not tags(written) and "\n" not in written
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*\[\]#|~$!]", written)


@pytest.mark.parametrize("name", ['"><img src=x onerror=alert(1)>', *MARKED[:4]])
def test_a_card_of_a_model_with_a_hostile_name(tmp_path, name):
    folder = tmp_path / name.replace("/", "")
    folder.mkdir()
    for file in Path(BASE).iterdir():
        (folder / file.name).symlink_to(file)
    extract_encoder(folder, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert not tags(card)
    lines = card.splitlines()
    assert [number for number, line in enumerate(lines) if line == "---"] == [0, 3]
    assert [line for line in lines if line.startswith("#")] == [f"# Vision encoder of {escape_markdown(folder.name)}"]
    assert "license" not in lines[1] + lines[2]
