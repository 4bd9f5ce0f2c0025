"""Reading of YAML written by hand, bounded in time and memory, with plain errors."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError

_DEEPEST = 50  # nested lists and mappings
_MOST = 100_000  # values; a few lines of nested aliases can stand for millions
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # not allowed in a path, or not encodable as UTF-8


class _Loader(yaml.SafeLoader):
    """Loader of pyyaml with a bound on nesting: pyyaml recurses on each bracket, slower the deeper it is."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise ComposerError(None, None, f"more than {_DEEPEST} lists and mappings in each other", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def composed(content: str | bytes) -> yaml.Node | None:
    """Parse YAML `content` into its root node, or None if it is empty.

    Raises:
        ValueError: If it is not YAML, or has too many values; the message says where.
    """
    try:
        root = yaml.compose(content, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from error
    if root is not None:
        _count(root, {})
    return root


def yaml_value(content: str | bytes) -> Any:
    """Parse YAML `content` into plain values; keys of mappings stay texts, whatever type YAML gives them.

    Raises:
        ValueError: If it is not YAML, has too many values, a key twice, a list or mapping for a key, a
            value that does not fit its tag, or a character that no text has; the message says where.
    """
    root = composed(content)
    if root is None:
        return None
    _check_keys(root, set())
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(_problem(error)) from error
    except Exception as error:  # pyyaml raises many types on a value that is not what its form or its tag says
        raise ValueError(f"a date or number that is none, or a tag that does not fit its value ({error})") from error
    finally:
        loader.dispose()


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values of `node`, with its aliases followed; 0 in `known` marks nodes that are being counted."""
    if id(node) not in known:
        known[id(node)] = 0
        known[id(node)] = 1 + sum(_count(child, known) for child in _children(node))
    elif not known[id(node)]:
        raise ValueError(f"{_line(node)}what stands there is inside itself")
    if known[id(node)] > _MOST:
        raise ValueError(f"{_line(node)}more than {_MOST:,} values, its aliases followed")
    return known[id(node)]


def _check_keys(node: yaml.Node, seen: set[int]) -> None:
    """Turn keys into texts; refuse keys that are not scalars or come twice, and texts that cannot be encoded."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode) and _NO_TEXT.search(node.value):
        raise ValueError(f"{_line(node)}a character that no text has")
    keys = [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    named: set[str] = set()
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{_line(key)}a list or mapping stands where a key should")
        if key.value in named:
            raise ValueError(f"{_line(key)}{key.value[:80]} is given twice")
        named.add(key.value)
        if key.tag != "tag:yaml.org,2002:merge":
            key.tag = "tag:yaml.org,2002:str"
    for child in _children(node):
        _check_keys(child, seen)


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    said = [getattr(error, "context", None), getattr(error, "problem", None)] if mark else []
    where = f"line {mark.line + 1}: " if mark else ""
    return where + (", ".join(filter(None, said)) or " ".join(str(error).split()))


def _line(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}: "
