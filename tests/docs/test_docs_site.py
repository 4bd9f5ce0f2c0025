"""The documentation site builds without a warning, its links lead somewhere, and it loads nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import visprobe

ROOT = Path(__file__).parents[2]
LOADED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}

pytestmark = pytest.mark.thorough  # two builds of the site


class Page(HTMLParser):
    """The anchors, links, loaded files and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loaded, self.words, self._inside = set(), [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        self._inside += tag == "article"
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.loaded.append(found["href"])
        elif found.get(LOADED.get(tag)):
            self.loaded.append(found[LOADED[tag]])

    def handle_endtag(self, tag):
        self._inside -= tag == "article"

    def handle_data(self, data):
        if self._inside:
            self.words += data.split()


@pytest.fixture(scope="session")
def site(shared):
    return shared("site", build)


def build(out):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


@pytest.fixture(scope="session")
def pages(site):
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


@pytest.mark.thorough
def test_links_and_anchors_lead_somewhere(pages):
    dead = [f"{path.name}: {link}" for path, page in pages.items() for link in page.links if _dead(pages, path, link)]
    assert dead == []


def _dead(pages, path, link):
    parts = urlsplit(link)
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if parts.scheme:
        return False
    return not target.exists() or (parts.fragment and parts.fragment not in pages[target].anchors)


def test_no_page_is_empty(pages):
    made = {"index.html", "search.html", "genindex.html", "py-modindex.html"}
    assert [path.name for path, page in pages.items() if path.name not in made and len(page.words) < 40] == []


def test_nothing_is_loaded_from_elsewhere(site, pages):
    assert [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc] == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", text), style.name


@pytest.mark.thorough
def test_every_command_and_public_function_is_there(site, pages):
    names = subprocess.run(
        [sys.executable, "-c", "import commands; print(*commands.names(), sep='\\n')"],
        cwd=ROOT / "docs" / "_extensions", capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    anchors = pages[site / "docs" / "reference" / "command-line.html"].anchors
    assert len(names) > 25
    assert [name for name in names if re.sub(r"[ _]", "-", name) not in anchors] == []
    documented = pages[site / "docs" / "reference" / "python.html"].anchors
    assert [name for name in visprobe.__all__ if f"visprobe.{name}" not in documented] == []


def test_every_card_guide_and_notebook_is_a_page(site):
    patterns = "analyses/*/card.md", "docs/guides/*.md", "docs/design/*.md", "docs/notebooks/*.ipynb"
    sources = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert len(sources) > 30
    assert [path for path in sources if not (site / path.relative_to(ROOT)).with_suffix(".html").exists()] == []


def test_the_site_opens_at_the_readme(site):
    assert "url=README.html" in (site / "index.html").read_text()
    assert (site / "README.html").exists()


def test_a_notebook_becomes_a_page_without_being_run(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_extensions"))
    from notebooks import markdown

    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": ["raise SystemExit"], "outputs": [
            {"output_type": "stream", "text": ["printed\n"]},
            {"output_type": "display_data", "data": {"image/png": "QUJD\n", "text/plain": "<Figure>"}},
            {"output_type": "execute_result", "data": {"text/html": ["<b>bold</b>"], "text/plain": "bold"}},
        ]},
    ]  # fmt: skip
    page = markdown({"cells": cells})
    assert page.startswith("# Title\nwords\n\n````python\nraise SystemExit\n````\n\n````text\nprinted\n````")
    assert 'src="data:image/png;base64,QUJD"' in page
    assert '<div class="output"><b>bold</b></div>' in page
