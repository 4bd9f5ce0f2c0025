"""Recognition of split and class folders, by unambiguous names and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from visprobe.data.labels.metadata import NAMES
from visprobe.data.layout.left_out import beside
from visprobe.data.layout.splits import ROLES, likely_role, role_of, same_but_for_role, splits_among
from visprobe.data.sources.folder import folders_in, image_paths, loose_in
from visprobe.errors import DataError

_WRAPPERS = {"images", "image", "imgs", "img", "data", "dataset", "jpegimages"}
_DEPTH = 8  # nested folders that are followed: a link may lead back up
_NAMED = 4  # folders named in one message


@dataclass(frozen=True)
class Layout:
    """Split or class folders of a folder of images.

    Attributes:
        splits: Folders of the splits by name; empty if there are none.
        classes: Folder with one folder per class, if there are no splits; None if there are no classes.
        notes: Remarks on what is left out, and on readings of ambiguous names.
    """

    splits: dict[str, Path] = field(default_factory=dict)
    classes: Path | None = None
    notes: tuple[str, ...] = ()


class _Place:
    """Folder that holds images, at any depth."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name

    @cached_property
    def flat(self) -> bool:
        """True if images lie directly in it."""
        return any(True for _ in loose_in(self.path))

    @cached_property
    def inside(self) -> dict[str, _Place]:
        """Folders in it that hold images, by name."""
        return {place.name: place for place in _places(self.path)}

    @property
    def only(self) -> _Place | None:
        """Folder in it that holds all its images, if there is one."""
        return None if self.flat else self.lone

    @property
    def lone(self) -> _Place | None:
        """Single folder with images in it; loose images may lie beside that."""
        return next(iter(self.inside.values())) if len(self.inside) == 1 else None


def find_layout(folder: Path) -> Layout:
    """Find the splits in `folder`, or its classes, also inside folders that hold all its images.

    The folder of a split is the innermost one that holds its images, as in seg_train/seg_train and train/images.

    Raises:
        DataError: If there are two readings.
    """
    outer, notes, said = folder, list[str](), list[str]()
    for _ in range(_DEPTH + 1):
        below = _places(folder)
        splits, said = _splits(folder, below)
        if splits:
            return _in_splits(folder, splits, notes)
        inner = _holder_of_splits(below)
        if said or inner is None:
            break
        notes += beside(folder, [inner.path])
        folder = inner.path
    return _in_classes(outer, said)


def _in_splits(folder: Path, splits: Sequence[_Place], notes: Sequence[str]) -> Layout:
    found = {place.name: _inner(place) for place in sorted(splits, key=_order)}
    while deeper := _one_folder_in_all(list(found.values())):
        notes = [*notes, f"{folder}: the classes are the folders in {deeper}, the only one in each split"]
        found = {name: place.only or place for name, place in found.items()}
    for place in found.values():
        _refuse_splits_in_classes(place.path, list(place.inside.values()))
    linked = [inside for place in found.values() for inside in folders_in(place.path)]
    notes = [*notes, *beside(folder, [*(place.path for place in splits), *linked])]
    for place in splits:
        notes = [*notes, *_passed(place, found[place.name])]
    return Layout({name: place.path for name, place in found.items()}, None, tuple(notes))


def _in_classes(outer: Path, notes: Sequence[str]) -> Layout:
    """Find the classes in `outer`, or in the only folder in it that holds several."""
    place, passed = _Place(outer), list(notes)
    for _ in range(_DEPTH):
        if place.only is None:
            break
        passed += beside(place.path, [place.only.path])
        place = place.only
    deeper = place.path != outer
    if deeper and (any((outer / name).is_file() for name in NAMES) or (place.flat and place.name.lower() in _WRAPPERS)):
        return Layout(notes=tuple(passed))  # only metadata can give classes here
    if deeper and len(place.inside) > 1:
        passed.append(f"the classes of {outer} are the folders in {place.path.relative_to(outer)}")
        return Layout(classes=place.path, notes=(*passed, *_checked(place)))
    return Layout(classes=outer, notes=(*notes, *_checked(_Place(outer))))


def _checked(classes: _Place) -> list[str]:
    """Return notes on class folders; refuses what cannot be classes."""
    below = list(classes.inside.values())
    _refuse_splits_in_classes(classes.path, below)
    _refuse_copies(classes.path, below)
    return [] if classes.flat else _ragged(classes.path, below)


def _splits(folder: Path, below: Sequence[_Place]) -> tuple[list[_Place], list[str]]:
    """Return the split folders, and a note if one with a split's name is a class."""
    roles = splits_among([place.name for place in below], folder)
    splits = [place for place in below if place.name in roles]
    others = [place for place in below if place.name not in roles]
    if not splits:
        if len(below) == 1 and likely_role(below[0].name) and len(below[0].inside) > 1:
            return list(below), []
        _refuse_lone_split(folder, below)
        return [], []
    # Folders in a folder may be classes, which makes it likelier to be a split.
    several = [place for place in splits if len(place.inside) > 1]
    if len(set(roles.values())) > 1:
        only_likely = any(role_of(name) is None for name in roles) and not same_but_for_role(roles)
        if only_likely and not several:
            raise _ambiguous(folder, splits, others)
        if not several and any(place.flat for place in splits) and any(place.flat for place in others):
            raise _ambiguous(folder, splits, others)
    elif others:
        if _is_vehicle(splits, others):
            names = ", ".join(place.name for place in others[:_NAMED])
            return [], [f"{folder}: {splits[0].name} is read as a class, as {names} beside it are"]
        for place in others:
            if (inner := _splits_inside(place)) is not None:
                raise DataError(
                    f"{folder} holds the split {splits[0].name}, and {place.name} beside it holds splits too",
                    hint=f"Give {inner}, or move {place.name} away.",
                )
        if not several or not _may_lie_beside(splits[0], others):
            raise _ambiguous(folder, splits, others)
    empty = [path for path in folders_in(folder) if role_of(path.name) and path.name not in roles]
    return [*splits, *map(_Place, empty)], []


def _refuse_lone_split(folder: Path, below: Sequence[_Place]) -> None:
    """Refuse a folder that looks like a split, by name and shape, among others that do not."""
    for place in below:
        others = [other for other in below if other is not place]
        deep = len(place.inside) > 1 and not _share_classes(place, others)
        if likely_role(place.name) and (deep or not others):
            raise _ambiguous(folder, [place], others)


def _is_vehicle(splits: Sequence[_Place], others: Sequence[_Place]) -> bool:
    """Return whether "train" is one of several classes: none of the others is named like a split, all look alike."""
    if len(splits) != 1 or splits[0].name.lower() != "train" or len(others) < 2:
        return False
    if any(likely_role(place.name) for place in others):
        return False
    shapes = {None if place.flat else tuple(place.inside) for place in (*splits, *others)}
    return len(shapes) == 1 and len(shapes.pop() or ()) < 2


def _may_lie_beside(split: _Place, others: Sequence[_Place]) -> bool:
    """Return whether folders beside the only split are no classes: one of loose images, or with the same classes."""
    return (len(others) == 1 and others[0].flat) or _share_classes(split, others)


def _share_classes(split: _Place, others: Sequence[_Place]) -> bool:
    return all(len(set(split.inside) & set(place.inside)) > 1 for place in others)


def _ambiguous(folder: Path, splits: Sequence[_Place], others: Sequence[_Place]) -> DataError:
    names, more = _listed(splits), _listed(others)
    one = len(splits) == 1
    plain = all(role_of(place.name) for place in splits)
    into = "" if any(likely_role(place.name) == "train" for place in splits) else "into a folder named train, or "
    away = f"move {more} {into}out of the folder" if others else ""
    call = "" if plain else f"call {'it' if one else 'them'} {' and '.join(_plain_names(splits))}"
    return DataError(
        f"{folder} holds images in {names}{f' and in {more}' if others else ''}: {names} may be "
        f"{'a split or a class' if one else 'splits or classes'}",
        hint=f"If {'it is a class' if one else 'they are classes'}, move all classes into one folder named val; if "
        f"{'it is a split' if one else 'they are splits'}, {' and '.join(filter(None, (away, call)))}.",
    )


def _plain_names(splits: Sequence[_Place]) -> Iterator[str]:
    return (str(likely_role(place.name)) for place in splits)


def _holder_of_splits(below: Sequence[_Place]) -> _Place | None:
    """Return the only folder, or the only one with splits if its class folders or its name show it is no class."""
    if len(below) == 1:
        return below[0]
    holders = [place for place in below if _roles_in(place)]
    if len(holders) != 1 or len(set(_roles_in(holders[0]).values())) < 2:
        return None
    inside = holders[0].inside
    classes = all(len(inside[name].inside) > 1 for name in _roles_in(holders[0]))
    return holders[0] if classes or holders[0].name.lower() in _WRAPPERS else None


def _roles_in(place: _Place) -> dict[str, str]:
    """Return the split folders in `place`: of at least two roles, or all folders there are."""
    roles = {name: role for name in place.inside if (role := role_of(name))}
    whole = len(set(roles.values())) > 1 or (len(roles) == len(place.inside) and not place.flat)
    return {**roles} if whole else {}


def _splits_inside(place: _Place) -> Path | None:
    """Return the folder in `place`, below any folders that hold nothing else, that has splits of two roles."""
    for _ in range(_DEPTH):
        if len(set(_roles_in(place).values())) > 1:
            return place.path
        if place.only is None:
            break
        place = place.only
    return None


def _refuse_copies(folder: Path, below: Sequence[_Place]) -> None:
    """Refuse a folder that repeats its neighbours, as after unpacking an archive twice."""
    names = {place.name for place in below}
    for place in below:
        again = sorted(names & set(place.inside))
        if len(again) > 1 and not place.flat:
            raise DataError(
                f"{folder}: {place.name} holds the folders {', '.join(again[:3])}, which lie beside it too",
                hint=f"If it is a copy, move {place.name} away; if the classes are in it, give {place.path}.",
            )


def _ragged(folder: Path, below: Sequence[_Place]) -> list[str]:
    """Return a note on classes made of folders beside classes made of images, which may be whole data sets."""
    deep = [place for place in below if len(place.inside) > 1 and not place.flat]
    if not deep or not any(place.flat for place in below):
        return []
    holds = "; ".join(f"{place.name} (the folders {', '.join(list(place.inside)[:3])})" for place in deep[:_NAMED])
    return [f"{folder}: read as one class each: {holds}"]


def _refuse_splits_in_classes(folder: Path, below: Sequence[_Place]) -> None:
    """Refuse class folders that hold splits, such as cat/train and cat/test, and say where to move them."""
    moves = [(place.name, split) for place in below for split in _roles_in(place)]
    if not moves:
        return
    holders = list(dict.fromkeys(name for name, _ in moves))
    rest = [place.name for place in below if place.name not in holders]
    how = ", ".join(f"{name}/{split} to {split}/{name}" for name, split in moves[:_NAMED])
    raise DataError(
        f"{folder}: {', '.join(holders[:_NAMED])} hold folders called as splits: "
        f"{', '.join(f'{name}/{split}' for name, split in moves[:_NAMED])}",
        hint=f"If {holders[0]} is a class, move {how}{' and so on' if len(moves) > _NAMED else ''}"
        + (f", and sort {', '.join(rest[:_NAMED])} into the splits likewise" if rest else "")
        + f"; if it is a data set of its own, give {folder / holders[0]}.",
    )


def refuse_unknown_splits(folder: Path) -> None:
    """Refuse folders that share most of their subfolders, as splits do and classes do not.

    Raises:
        DataError: If there are such folders; the message names them.
    """
    below = _places(folder)
    inside = [{path.name for path in folders_in(_inner(place).path)} for place in below]
    shared = set.intersection(*inside) if len(inside) > 1 else set()
    if len(shared) > 1 and 2 * len(shared) >= len(set.union(*inside)):
        raise DataError(
            f"{folder}: {', '.join(place.name for place in below[:_NAMED])} all hold the folders "
            f"{', '.join(sorted(shared)[:3])}: they may be splits or classes",
            hint="If splits, rename them, as train and val; if classes, move them all into one folder named val.",
        )


def _places(folder: Path) -> list[_Place]:
    return [_Place(path) for path in folders_in(folder) if any(image_paths(path))]


def _listed(places: Sequence[_Place]) -> str:
    names = ", ".join(place.name for place in places[:_NAMED])
    return names if len(places) <= _NAMED else f"{names} and {len(places) - _NAMED} more"


def _order(split: _Place) -> int:
    return [*ROLES, None].index(likely_role(split.name))


def _inner(split: _Place) -> _Place:
    """Return the innermost only folder in `split` that is not a class."""
    place = split
    while (inner := place.lone) is not None and (not place.flat or len(inner.inside) > 1):
        if not _is_wrapped(split, inner):
            break
        place = inner
    return place


def _is_wrapped(split: _Place, inner: _Place) -> bool:
    """Return whether the only folder in a split is named like the split, its role, or a folder of images."""
    if inner.name.lower() in _WRAPPERS or inner.name.lower() == split.name.lower():
        return True
    if role := role_of(inner.name):
        return role == likely_role(split.name)
    return likely_role(inner.name) == likely_role(split.name) and len(inner.inside) > 1


def _one_folder_in_all(splits: Sequence[_Place]) -> str | None:
    """Return the name of the only folder in every split, if it holds several; it cannot be the only class."""
    names = {place.only.name if place.only is not None and len(place.only.inside) > 1 else None for place in splits}
    return names.pop() if len(names) == 1 else None


def _passed(split: _Place, inner: _Place) -> Iterator[str]:
    """Yield notes on what lies beside the folders between a split and its images."""
    place = split
    while place.path != inner.path and place.lone is not None:
        yield from beside(place.path, [place.lone.path])
        place = place.lone
