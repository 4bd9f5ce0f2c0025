"""Which fields of a configuration something reads, found by letting it read a copy that takes notes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from transformers import PreTrainedConfig

_EVERYTHING = "*"


class _Watching:
    """Mixed into the class of a configuration, notes the name of every attribute that is asked for."""

    watch_notes: ClassVar[set[str]]
    watch_place: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Leave the class as it is; a configuration's own hook would make a dataclass of it again."""

    def __getattribute__(self, name: str) -> Any:
        cls = type(self)
        # whoever asks for all attributes as a dictionary (to_dict, iteration) reads each of them
        own = _EVERYTHING if name == "__dict__" else getattr(cls, "attribute_map", {}).get(name, name)
        cls.watch_notes.add(cls.watch_place + own)
        return super().__getattribute__(name)

    def __getstate__(self) -> dict[str, Any]:
        """Copying is not reading: the copy takes notes too."""
        return dict(object.__getattribute__(self, "__dict__"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        object.__getattribute__(self, "__dict__").update(state)


def fields_read(config: Any, use: Callable[[Any], object]) -> dict[str, Any]:
    """The fields of `config` that `use` reads, with their values as plain JSON.

    Args:
        config: Configuration of transformers; it is not changed.
        use: Called once with a copy of `config`. If it fails, nobody knows what it would have read: every field counts.

    Returns:
        Values by name, those of a configuration inside another one by dotted name ("text_config.rms_norm_eps").
    """
    notes: set[str] = set()
    try:
        use(_watching(config, "", notes))
    except Exception:  # of whatever type: `use` is anybody's code
        notes.add(_EVERYTHING)
    whole = tuple(note.removesuffix(_EVERYTHING) for note in notes if note.endswith(_EVERYTHING))
    return {name: value for name, value in _fields(config, "") if name in notes or name.startswith(whole)}


def _watching(config: Any, place: str, notes: set[str]) -> Any:
    """A copy of `config`, at the dotted name `place` with its dot, that adds to `notes`."""
    kind = type(config)
    watched = copy.copy(config)
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            vars(watched)[name] = _watching(value, f"{place}{name}.", notes)
    watched.__class__ = type(kind.__name__, (_Watching, kind), {"watch_notes": notes, "watch_place": place})
    return watched


def _fields(config: Any, place: str) -> Iterator[tuple[str, Any]]:
    plain = config.to_dict()
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _fields(value, f"{place}{name}.")
        elif name in plain:
            yield place + name, plain[name]
