"""Valid JSON and YAML documents with faults put into them: other types, other keys, depth, size, bytes."""

import copy
import json
import math

import yaml
from hypothesis import strategies as st

DEEP = "@deep@"  # written as thousands of brackets
VALUES = (
    None, True, False, 0, -1, 1, 3, 60_000, 10**6, 2**31, 10**12, 10**30, -(2**63), 0.5, 1e308, math.nan, math.inf,
    "", "x", "x" * 5000, "\0", "\ud800", "\x1b[31m", "a\nb", "1e5", "../..", [], [1], [[]], [None, "a"], {}, {"a": 1},
    {"": None}, {"x": [{}]}, [0] * 2000, DEEP,
)  # fmt: skip
KEYS = ("", "x", "__class__", "self", "size", "\0", "\ud800", "y" * 3000, "1", "null")
BYTES = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b", b"[", b"{", b'"', b"\n", b",", b":", b"9" * 5000)
YAML = (
    b"&a ", b"*a ", b"!!int ", b"!!timestamp ", b"!!bool ", b"!!binary ", b"2024-01-01", b"2024-13-45", b"? ", b"- ",
    b"<<: ", b"1: 2\n", b"2024-01-01: 3\n", b"~: 1\n", b"? [a]\n: 1\n", b"|\n", b"\t", b"%", b"@", b"---\n",
)  # fmt: skip


def places(document):
    """(container, key) of every value in `document`."""
    if not isinstance(document, dict | list):
        return []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    return [place for key, value in items for place in [(document, key), *places(value)]]


@st.composite
def documents(draw, document):
    """`document` with one to three values replaced, deleted, renamed, swapped or put into lists."""
    root = [copy.deepcopy(document)]
    for _ in range(draw(st.integers(1, 3))):
        where = places(root)
        container, key = where[draw(st.integers(0, len(where) - 1))]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "delete", "rename", "swap", "wrap"]))
        if kind == "replace" or (kind == "rename" and isinstance(container, list)):
            container[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        elif kind == "swap":
            container[key] = copy.deepcopy(other := where[draw(st.integers(0, len(where) - 1))])[0][other[1]]
        elif kind == "wrap":
            container[key] = [container[key]]
        elif container is not root:
            value = container.pop(key)
            if kind == "rename":
                container[draw(st.sampled_from(KEYS))] = value
        if not places(root):
            break
    return root[0]


@st.composite
def written(draw, document, write):
    """Bytes of a mutated `document`, in one of three cases with faults of bytes and lines as well."""
    data = write(draw(documents(document))).encode("utf-8", "surrogatepass")
    extra = YAML if write is as_yaml else ()
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["insert", "insert", "truncate", "line", "random"]))
        if kind == "insert":
            data = data[:at] + draw(st.sampled_from(BYTES + extra)) + data[at:]
        elif kind == "truncate":
            data = data[:at]
        elif kind == "line":
            lines = data.splitlines(keepends=True) or [b""]
            data = b"".join([*lines[: at % len(lines)], lines[at % len(lines)], *lines[at % len(lines) :]])
        else:
            data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :]
    return data


def as_json(document):
    return json.dumps(document, indent=1).replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000)


def as_yaml(document):
    return yaml.safe_dump(document, allow_unicode=True).replace(f"'{DEEP}'", "[" * 5000 + "]" * 5000)
