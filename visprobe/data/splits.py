"""Names of splits, and files sorted by the split that their names say."""

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
# Words that say nothing of the role: seg_train, trainset, train_images, imgs_train, ILSVRC2012_img_val.
_BESIDE = {"set", "seg", "split", "data", "dataset", "img", "imgs", "image", "images", "ilsvrc", "folder", "dir"}
_JOINED = re.compile(rf"({'|'.join(SPLITS)})(?:set|data|images|imgs)")


def role_of(name: str) -> Role | None:
    """What a split of this name is for, in any case and with any year; None if it is the name of no split."""
    words = [word for word in re.split(r"[\W\d_]+", name.lower()) if word and word not in _BESIDE]
    if len(words) != 1:
        return None
    joined = _JOINED.fullmatch(words[0])
    return _ROLE.get(joined[1] if joined else words[0])


def with_role(names: Iterable[str], *roles: Role) -> list[str]:
    """Those names that have one of the roles, in the order of the roles; a role's own name and short ones first."""
    found = [
        (roles.index(role), name.lower() != role, len(name), name) for name in names if (role := role_of(name)) in roles
    ]
    return [name for *_, name in sorted(found)]


def by_split(split_of: Mapping[Path, str | None], folder: Path) -> dict[str, list[Path]]:
    """Files by split; one split "data" where no name says a split.

    Raises:
        DataError: If only some names say their split.
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
