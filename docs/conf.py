"""The documentation site: `make docs`.

The source folder is the whole repository, so that every page is where its readers on disk look for it, no page is a
copy, and every link between pages works in both places.
"""

import sys
from pathlib import Path

from visprobe import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "visprobe"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "made_pages"]
root_doc = "README"
include_patterns = [
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "analyses/*/card.md", "training/README.md", "figures/README.md",
    "docs/*.md", "docs/design/*.md", "docs/guides/*.md", "docs/reference/*.md", "docs/notebooks/*.ipynb",
]  # fmt: skip
exclude_patterns = ["docs/contents.md", ".*", "site", "visprobe-*"]  # the last three: not to be searched
source_suffix = {".md": "markdown", ".ipynb": "notebook"}

myst_enable_extensions = ["deflist", "html_image"]
myst_heading_anchors = 3

default_role = "code"
highlight_language = "text"
smartquotes = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source"]
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"visprobe {release}"
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_extra_path = ["_site"]  # index.html, which leads to README.html
html_static_path = ["_static"]
html_css_files = ["site.css"]
