"""Names of splits, and grouping of files by the split in their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from visprobe.errors import DataError

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")
TRAIN = ("train", "training", "trn")
VAL = ("val", "validation", "valid", "validate", "dev", "devel", "development", "eval", "evaluation")
TEST = ("test", "testing", "tst", "holdout")
SPLITS = (*TRAIN, *VAL, *TEST)
_ROLE: dict[str, Role] = {
    **dict.fromkeys(TRAIN, "train"), **dict.fromkeys(VAL, "val"), **dict.fromkeys(TEST, "test")
}  # fmt: skip
# Words without meaning for the role: seg_train, trainset, train_images, imgs_train, ILSVRC2012_img_val.
_BESIDE = {"set", "seg", "split", "data", "dataset", "img", "imgs", "image", "images", "ilsvrc", "folder", "dir"}
_JOINED = re.compile(rf"({'|'.join(SPLITS)})(?:set|data|images|imgs)")


def role_of(name: str) -> Role | None:
    """Return the role of a split name, in any case and with any year; None if it is not a split name."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word and word not in _BESIDE]
    if len(words) != 1:
        return None
    joined = _JOINED.fullmatch(words[0])
    return _ROLE.get(joined[1] if joined else words[0])


def likely_role(name: str) -> Role | None:
    """Return `role_of(name)`, or the role of the only split word in it: train for "asl_train" or "train_small".

    A class may have such a name too ("bullet train"), so ask this only of names of splits.
    """
    if role := role_of(name):
        return role
    roles = _words(name)[0]
    return roles[0] if len(roles) == 1 else None


def splits_among(names: Iterable[str], where: Path) -> dict[str, Role]:
    """Find the split names among neighbouring names.

    They are those that `role_of` knows, plus one name with further words for each role they lack, if it is the only
    one. Without any: names that differ only in the role (asl_train and asl_test), or else all, if no role repeats.

    Raises:
        DataError: If there are several families, such as small_train, small_test, big_train and big_test.
    """
    names = list(names)
    known = {name: role for name in names if (role := role_of(name))}
    likely = {name: role for name in names if name not in known and (role := likely_role(name))}
    if known:
        lacking = [role for role in ROLES if role not in known.values()]
        more = {role: [name for name in likely if likely[name] == role] for role in lacking}
        return known | {found[0]: role for role, found in more.items() if len(found) == 1}
    families: dict[tuple[str, ...], dict[str, Role]] = {}
    for name, role in likely.items():
        families.setdefault(_words(name)[1], {})[name] = role
    whole = [family for family in families.values() if len(set(family.values())) > 1]
    if len(whole) > 1:
        raise DataError(
            f"{where} holds the splits of several data sets: {', '.join(name for family in whole for name in family)}",
            hint=f"Move those of one, as {' and '.join(whole[0])}, into a folder of their own and give that.",
        )
    if whole:
        return whole[0]
    return likely if len(likely) == len(names) == len(set(likely.values())) > 1 else {}


def same_but_for_role(names: Iterable[str]) -> bool:
    """Return whether split names, such as train_small and test_small, differ in nothing but the role."""
    return len({_words(name)[1] for name in names}) == 1


def _words(name: str) -> tuple[list[Role], tuple[str, ...]]:
    """Return the roles that words of a name stand for, and its other meaningful words."""
    words = re.findall(r"\d+|[^\W\d_]+", name.lower())
    role_in = {word: role for word in words if (role := role_of(word))}
    return [role_in[word] for word in words if word in role_in], tuple(
        word for word in words if word not in role_in and word not in _BESIDE
    )


def with_role(names: Iterable[str], *roles: Role) -> list[str]:
    """Return the split names that have one of the roles, in the order of the roles.

    Within a role, its own name comes first, then short names, then names with further words.
    """
    found = [
        (roles.index(role), name.lower() != role, role_of(name) is None, len(name), name)
        for name in names
        if (role := likely_role(name)) in roles
    ]
    return [name for *_, name in sorted(found)]


def files_in(folder: Path, suffix: str) -> list[Path]:
    """Return files of one suffix directly in a folder, sorted, without macOS's hidden ones ("._0.tar")."""
    return [path for path in sorted(folder.glob(f"*{suffix}")) if not path.name.startswith(".")]


def in_split_folders(folder: Path, suffix: str) -> dict[Path, str | None]:
    """Return files of one suffix in split folders, with the folder's name for each."""
    places = {path.name: files_in(path, suffix) for path in sorted(folder.iterdir()) if path.is_dir()}
    known = splits_among([name for name, files in places.items() if files and not name.startswith(".")], folder)
    return {path: name for name in places if name in known for path in places[name]}


def by_split(split_of: Mapping[Path, str | None], folder: Path) -> dict[str, list[Path]]:
    """Group files by split; one split "data" if no name has a split.

    Raises:
        DataError: If only some names have a split.
    """
    unnamed = [path for path, split in split_of.items() if split is None]
    if unnamed and len(unnamed) < len(split_of):
        raise DataError(
            f"{len(unnamed)} of {len(split_of)} files of {folder} do not say their split, the first {unnamed[0].name}",
            hint="Name all files after their split, as train-0000 and val-0000, or none.",
        )
    splits: dict[str, list[Path]] = {}
    for path, split in split_of.items():
        splits.setdefault(split or "data", []).append(path)
    return splits
