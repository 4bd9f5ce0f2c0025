"""What every kind of output may hold, whatever the names that went in."""

import csv
import json
import re
import unicodedata
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from pyarrow import parquet
from rich.cells import cell_len

SGR = re.compile(r"\x1b\[[0-9;]*m")
FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r")
UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
LINK = re.compile(
    r"#|data:,|data:image/(png|jpeg);base64,|(runs/)?[\w/.-]*\.(json|csv|html|parquet|svg|png)$|[\w/.-]*figures/"
)
VOID = {"meta", "link", "br", "img", "hr", "input"}


def unseen(text):
    """Characters that steer a terminal or a line's direction."""
    return {c for c in set(text) if unicodedata.category(c) in UNSEEN} - {"\n"}


class Page(HTMLParser):
    """A page that is balanced, runs one script, and reaches for nothing."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.scripts, self.text = [], 0, ""
        self.feed(html)
        self.close()
        assert not self.open and self.scripts == 1

    def handle_starttag(self, tag, attrs):
        self._check(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._check(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def _check(self, tag, attrs):
        assert re.fullmatch(r"[a-zA-Z0-9]+", tag) and tag not in (
            "iframe",
            "object",
            "embed",
            "form",
            "base",
            "foreignobject",
        )
        self.scripts += tag == "script"
        for name, value in attrs:
            assert re.fullmatch(r"[a-zA-Z0-9:-]+", name) and not name.startswith("on"), name
            if name.endswith("href") or name == "src":
                assert LINK.match(value), value
        if dict(attrs).get("http-equiv"):
            assert dict(attrs)["http-equiv"] == "Content-Security-Policy"


def check_html(path):
    html = path.read_text("utf-8")
    assert not unseen(html)
    return Page(html)


def check_csv(path):
    text = path.read_text("utf-8")
    rows = list(csv.reader(text.splitlines(keepends=True)))
    assert rows and {len(row) for row in rows} == {len(rows[0])} and not unseen(text)
    for cell in (cell for row in rows for cell in row):
        assert not cell.lstrip().startswith(FORMULAS) or re.fullmatch(r"-?[\d.]+(e-?\d+)?", cell), cell


def check_json(path):
    return strict(path.read_text("utf-8"))


def strict(text):
    """A JSON text without NaN and without a raw character that cannot be seen."""
    assert not unseen(text)
    return json.loads(text, parse_constant=lambda name: 1 / 0)


def check_svg(path):
    text = path.read_text("utf-8")
    assert not unseen(text)
    for element in ElementTree.fromstring(text).iter():
        assert element.tag.rpartition("}")[2] not in ("script", "foreignObject", "a", "animate", "set"), element.tag
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2]
            assert not name.startswith("on") and (name != "href" or LINK.match(value)), name


def check_png(path):
    with Image.open(path) as image:
        image.verify()
        assert image.format == "PNG" and not set(image.info) - {"dpi"}


def check_pdf(path):
    data = path.read_bytes()
    assert data.startswith(b"%PDF") and not re.search(rb"/(JavaScript|JS|URI|Launch|OpenAction)\b", data)


def check_npz(path):
    with np.load(path, allow_pickle=False) as arrays:
        assert all(arrays[name].dtype != object for name in arrays.files)


KINDS = {
    ".html": check_html, ".csv": check_csv, ".json": check_json, ".svg": check_svg, ".png": check_png,
    ".pdf": check_pdf, ".npz": check_npz, ".parquet": lambda path: parquet.read_table(path).to_pylist(),
}  # fmt: skip


def check_terminal(text):
    """Only colours beside what can be seen, and tables whose lines are of one width."""
    plain = SGR.sub("", text)
    assert not unseen(plain), unseen(plain)
    lines = plain.split("\n")
    for rule in (number for number, line in enumerate(lines) if line.strip() and set(line.strip()) == {"─"}):
        first, last = rule, rule
        while lines[last + 1].startswith("  ") and lines[last + 1].strip():
            last += 1
        assert len({cell_len(line) for line in lines[first - 1 : last + 1]}) == 1, lines[first - 1 : last + 1]
