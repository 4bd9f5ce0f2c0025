"""Classes of a flat folder's images from a label file beside it, in any usual form."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visprobe.data.image_set import ImageSet
from visprobe.data.labels.class_column import (
    LABEL,
    NotClassesError,
    NumbersError,
    SeveralLabelsError,
    class_names,
    is_row_number,
    may_be_class,
    same_name,
    sorted_classes,
)
from visprobe.data.labels.titles import INDEX, names_in
from visprobe.data.layout.image_names import SEVERAL, ImageNames, is_file_name
from visprobe.data.subset import Relabelled
from visprobe.errors import DataError, UsageError
from visprobe.io.regular import read_regular

KAGGLE = "PredictionString"  # "n03995372 85 1 499 272": the class, then boxes
LISTS = (INDEX, "synsets.txt", "synset_words.txt", "LOC_synset_mapping.txt")  # line k + 1 names class number k
_FILE = re.compile(r"(image|img|file|photo)?[_ ]?(file)?[_ ]?(name|path|id|index)?s?", re.IGNORECASE)


def relabelled(images: ImageSet, file: Path, classes: tuple[str, ...] | None) -> Relabelled:
    """Return the images with the classes in `file`.

    The separator and the column of file names are those that match most images. The class column is the one with a
    usual name (`visprobe.data.labels.class_column`), with the classes of the training images, or the only other one.

    Classes are matched by name. Numbers that are not class names are, if 0 is among them, positions from 0 in one of
    `LISTS`; otherwise, if the last id is among them, ILSVRC2012 ids from 1 in the order of meta.mat. The list or
    meta.mat lies beside `file`.

    Args:
        images: Images without classes from folders.
        file: One class per line in the order of the file names (ILSVRC2012_validation_ground_truth.txt); one
            line per image, "file class" (Caffe's val.txt); a table (Kaggle's LOC_val_solution.csv) or JSON.
        classes: Class names of the training images; None to use the file's own.

    Raises:
        UsageError: If the images have classes from folders.
        DataError: If the file does not give each image one class, or a class cannot be matched.
    """
    before = getattr(images, "label_column", None)
    if images.classes is not None and before is None:
        raise UsageError(
            f"--labels {file}: the images of {images.name} have classes already", hint="Leave --labels out."
        )
    given, where, notes = _given(images, file, classes)
    labels = given if classes is None else _matched(given, classes, file, where)
    names = sorted_classes(set(labels)) if classes is None else classes
    numbers = {name: number for number, name in enumerate(names)}
    found = Relabelled(images, [numbers[label] for label in labels], names)
    if images.classes is not None and labels != [images.classes[item.label or 0] for item in images.items]:
        notes.append(f"the classes of {images.name} are those of {file.name}, not of {before}")
    found.notes = (*found.notes, *notes)
    return found


def _given(images: ImageSet, file: Path, classes: Sequence[str] | None) -> tuple[list[str], str, list[str]]:
    """Return the class of each image as in the file, its place for messages, and notes."""
    names = ImageNames(images)
    tables, lines = readings(file)
    blanks = _by_blanks(lines, names)
    # Try every column of every reading as file names; the one that names most images wins.
    hits, rows, column = max(
        ((_hits(rows, names, column), rows, column) for rows in (*tables, blanks) for column in range(_width(rows))),
        key=lambda found: found[0],
        default=((0, 0, 0), blanks, 0),
    )
    if not hits[1] or 2 * hits[1] < min(
        len(rows.cells), len(images.items)
    ):  # too few matches to be a column of file names: class names may equal a few image names
        given = _classes(_in_order(tables, lines, images, file, classes), str(file))
        return _without_gaps(given, images, file), str(file), []
    _refuse_ragged(rows, file)
    header, body = _header(rows, column, names)
    at = _class_column(header, column, body, classes, file)
    cells = [row[at] for row in body]
    if header[at].lower() == KAGGLE.lower():
        cells = [cell.split(" ", 1)[0] for cell in cells]
    where = f"{file}, {header[at]},"
    labels, notes = _by_image(images, names, [row[column] for row in body], _classes(cells, where), file)
    return labels, where, notes


def _width(rows: Rows) -> int:
    """Return the number of columns; 0 for single cells, which cannot hold files beside classes."""
    width = max(map(len, rows.cells), default=0)
    return width if width > 1 else 0


def _hits(rows: Rows, names: ImageNames, column: int) -> tuple[int, int, int]:
    """Rank a column by images named with suffix, images named at all, and a usual name for a file column."""
    cells = [row[column] for row in rows.cells if column < len(row)]
    called = rows.header[column] if rows.header else str(cells[0])
    return (
        len({names.exactly(cell) for cell in cells} - {None}),
        len({names.find(cell) for cell in cells} - {None}),
        1 if called and _FILE.fullmatch(called) else 0,
    )


def _by_blanks(lines: Sequence[str], names: ImageNames) -> Rows:
    """Cut each line at the blank next to an image's name, else at the last one."""
    return Rows([_cut(line, names) for line in lines], None, lines)


def _cut(line: str, names: ImageNames) -> list[str]:
    places = [match.span() for match in re.finditer(r"\s+", line)]
    for find in (names.exactly, names.find):
        for start, end in places:
            if find(line[:start]) is not None:
                return [line[:start], line[end:]]
            if find(line[end:]) is not None:
                return [line[end:], line[:start]]
    return line.rsplit(None, 1)


def _refuse_ragged(rows: Rows, file: Path) -> None:
    width = len(rows.cells[0])
    for number, (row, line) in enumerate(zip(rows.cells, rows.lines, strict=True), start=1):
        if len(row) != width:
            raise DataError(
                f"{file}: row {number} has {len(row)} fields and the first {width}: {line!r}",
                hint=f"Put names that hold the separator into quotes. {FORMS}",
            )


def _header(rows: Rows, column: int, names: ImageNames) -> tuple[tuple[str, ...], Sequence[Sequence[Any]]]:
    """Return column names, numbered ones if there are none, and the rows below."""
    if rows.header is not None:
        return rows.header, rows.cells
    first = str(rows.cells[0][column])
    if names.find(first) is None and not is_file_name(first) and not any(map(str.isdigit, first)):
        return tuple(map(str, rows.cells[0])), rows.cells[1:]
    return tuple(f"column {number}" for number in range(1, len(rows.cells[0]) + 1)), rows.cells


def _class_column(
    header: Sequence[str], files: int, body: Sequence[Sequence[Any]], classes: Sequence[str] | None, file: Path
) -> int:
    """Return the index of the class column."""
    others = [at for at, name in enumerate(header) if at != files and not is_row_number(name)]
    if kaggle := [at for at in others if header[at].lower() == KAGGLE.lower()]:
        return kaggle[0]
    named = [at for at in others if may_be_class(header[at])] or others
    known = set(map(same_name, classes or ()))
    fitting = [at for at in named if {same_name(str(row[at])) for row in body} <= known]
    plain = [at for at in named if header[at].lower() == LABEL]
    for found in (fitting, plain, named):
        if len(found) == 1:
            return found[0]
    raise DataError(
        f"{file} has the columns {', '.join(header)}: which of them is the class is not clear"
        if others
        else f"{file} has no column beside {header[files]}",
        hint="Call the column of the class 'label' and that of the files 'file', in the first line.",
    )


def _classes(cells: Sequence[Any], where: str) -> list[str | None]:
    try:
        return class_names(cells)[0]
    except NotClassesError as error:
        how = {SeveralLabelsError: "labels", NumbersError: "numbers"}.get(type(error))
        probe = f"; visprobe probe --targets {how} reads them from metadata.csv in the folder of the images"
        raise DataError(
            f"{where} {error}",
            hint="Give each image one class: a word or a whole number" + (probe if how else "") + ".",
        ) from error


def _in_order(
    tables: Sequence[Rows], lines: Sequence[str], images: ImageSet, file: Path, classes: Sequence[str] | None
) -> list[Any]:
    """Return the cells of a file without image names, one per image, in their order."""
    for rows in tables:
        header = rows.header or tuple(map(str, rows.cells[0]))
        body = rows.cells if rows.header else rows.cells[1:]
        if [name for name in header if not is_row_number(name)] == [header[-1]] and may_be_class(header[-1]):
            return _as_many([row[-1] for row in body], images, file)
    if may_be_class(lines[0]) if lines else False:
        lines = lines[1:]
    known = {same_name(name) for name in classes or ()}
    in_fields = any(len({len(row) for row in rows.cells}) == 1 and _width(rows) for rows in tables) or all(
        len(line.split()) > 1 for line in lines
    )
    if not lines or (in_fields and not {same_name(line) for line in lines} <= known) or any(map(_names_a_file, lines)):
        first = tables[0].cells[0] if tables else lines[0].split()
        raise DataError(
            f"{file} does not name the {len(images.items)} images of {images.name}: its first row is "
            f"{', '.join(map(str, first))!r}, the first image {images.items[0].id!r}",
            hint=f"Give the label file of these images. {FORMS}",
        )
    return _as_many(lines, images, file)


def _names_a_file(line: str) -> bool:
    return any(is_file_name(part) for part in re.split(r"[\s,;]+", line))


def _as_many(cells: Sequence[Any], images: ImageSet, file: Path) -> list[Any]:
    if len(cells) != len(images.items):
        raise DataError(
            f"{file} has {len(cells)} lines for the {len(images.items)} images of {images.name}", hint=FORMS
        )
    return list(cells)


def _by_image(
    images: ImageSet, names: ImageNames, files: Sequence[Any], classes: Sequence[str | None], file: Path
) -> tuple[list[str], list[str]]:
    """Return classes in the order of the set, and a note on listed files that are not there."""
    labels: list[str | None] = [None] * len(images.items)
    absent = []
    for name, label in zip(files, classes, strict=True):
        index = names.find(name)
        if index is None:
            absent.append(str(name))
        elif index == SEVERAL:
            raise DataError(
                f"{file}: {name} fits several images of {images.name}", hint="Write their paths below the folder."
            )
        elif label is not None and labels[index] not in (None, label):
            raise DataError(
                f"{file} gives {name} the classes {labels[index]} and {label}", hint="Give each image one class."
            )
        else:
            labels[index] = label
    lists = (
        [f"{file.name} lists {len(absent)} of {len(files)} images that are not there, first {absent[0]}"]
        if absent
        else []
    )
    return _without_gaps(labels, images, file, lists), lists


def _without_gaps(labels: Sequence[str | None], images: ImageSet, file: Path, said: Sequence[str] = ()) -> list[str]:
    if without := [index for index, label in enumerate(labels) if label is None]:
        raise DataError(
            f"{file} has no label for {len(without)} of the {len(labels)} images of {images.name}, "
            f"the first {images.items[without[0]].id}" + "".join(f"; {one}" for one in said),
            hint="Add their labels, or remove the images.",
        )
    return [label for label in labels if label is not None]


def _matched(labels: Sequence[str], classes: Sequence[str], file: Path, where: str) -> list[str]:
    """Match labels to the training images' classes by name, by number, or by a list beside `file`."""
    named = {same_name(name): name for name in classes}
    numbered = {str(int(name)): name for name in classes if name.isdecimal()}
    if not set(labels) <= set(named) and all(label.isdecimal() for label in labels):
        if set(labels) <= set(numbered):
            named = numbered  # "00012" equals "12"
        else:
            labels = _mapped(labels, named, file, where)
    if unknown := sorted(set(labels) - set(named)):
        raise DataError(
            f"{len(unknown)} classes of {file} are not among the {len(classes)} of the training images, "
            f"the first {unknown[0]!r}" + _like(unknown[0], classes),
            hint="Give a file whose classes are called as those of the training images.",
        )
    return [named[label] for label in labels]


def _like(name: str, classes: Sequence[str]) -> str:
    """Return a hint at the class with the same letters and digits, to show the difference."""

    def bare(text: str) -> str:
        return "".join(filter(str.isalnum, same_name(text).casefold()))

    alike = next((one for one in classes if bare(one) == bare(name)), None)
    return f" (there is {alike!r})" if alike is not None else ""


def _mapped(labels: Sequence[str], classes: Mapping[str, str], file: Path, where: str) -> list[str]:
    """Return class names for numbers, by the list or the meta.mat beside `file`."""
    numbers = [int(label) for label in labels]
    from_zero = min(numbers) == 0
    names = _listed(file.parent, where, classes) if from_zero else _ilsvrc_ids(file.parent, where)
    last = len(names) - 1 if from_zero else len(names)
    if max(numbers) > last:
        raise DataError(f"{file} has the class {max(numbers)}; the list beside it ends at {last}", hint=_LIST)
    if not from_zero and max(numbers) != last:
        raise DataError(
            f"{file} has classes {min(numbers)} to {max(numbers)} of {last}: they may count from 0 or from 1",
            hint="Write the names of the classes instead of numbers.",
        )
    return [names[number if from_zero else number - 1] for number in numbers]


_LIST = (
    "Write the names of the classes instead; or put the list of names beside the file, one per line in the order of "
    f"the numbers: {INDEX} for numbers from 0 (ImageNet: {', '.join(LISTS[1:])}), the devkit's meta.mat for ILSVRC2012 "
    "ids, from 1. The order of sorted folder names is not that of these ids."
)


def _listed(folder: Path, where: str, classes: Mapping[str, str]) -> list[str]:
    path = next((folder / name for name in LISTS if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{where} has numbers, the training images have class names", hint=_LIST)
    return [line if line in classes else line.split(None, 1)[0] for line in names_in(path) if line]


def _ilsvrc_ids(folder: Path, where: str) -> list[str]:
    """Return WordNet ids in the order of ILSVRC2012_ID, from the devkit's meta.mat."""
    path = folder / "meta.mat"
    if not path.is_file():
        raise DataError(f"{where} has numbers, the training images have class names", hint=_LIST)
    from scipy.io import loadmat

    try:
        synsets: Any = loadmat(path, squeeze_me=True)["synsets"]
        # Ids beyond the last class belong to ancestors of classes.
        leaves = [row for row in synsets if int(row["num_children"]) == 0]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        return [names[number] for number in range(1, len(names) + 1)]
    except Exception as error:  # scipy raises many types on damaged files
        raise DataError(f"{path} cannot be read: {error}", hint="Take meta.mat of ILSVRC2012_devkit_t12.") from error


FORMS = (
    "Write one class per line in the order of the file names; lines 'file class'; a table with the columns file and "
    "label (csv, tsv, semicolons); or JSON: {file: class}, or records with file and label."
)
_SEPARATORS = "\t;,|"
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
         codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Table as it stands in a file.

    Attributes:
        cells: Cells by row; rows of equal length in a well-formed file.
        header: Names of the columns, if the file format has them.
        lines: Text of each row in the file.
    """

    cells: Sequence[Sequence[Any]]
    header: tuple[str, ...] | None
    lines: Sequence[str]


def readings(file: Path) -> tuple[list[Rows], list[str]]:
    """Read the tables that a file may be, one for each separator in it, and its lines.

    Args:
        file: Text or JSON file.

    Raises:
        DataError: If the file is unreadable, malformed or empty.
    """
    text = _text(file)
    if text.lstrip()[:1] in ("{", "["):
        return [_json_rows(text, file)], []
    lines = [line.strip(" ") for line in text.split("\n") if line.strip() and not line.startswith("#")]
    if not lines:
        raise DataError(f"{file} is empty", hint=FORMS)
    return [_split(lines, mark, file) for mark in _SEPARATORS if any(mark in line for line in lines)], lines


def _text(file: Path) -> str:
    try:
        data = read_regular(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", hint=FORMS) from error
    encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(encoding)
    except ValueError as error:
        raise DataError(
            f"{file} is no text in UTF-8 or UTF-16", hint=f"Save it as text in UTF-8 (in Excel: 'CSV UTF-8'). {FORMS}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _split(lines: Sequence[str], mark: str, file: Path) -> Rows:
    try:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=mark, skipinitialspace=True)]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read: {error}", hint=FORMS) from error
    return Rows(cells, None, lines)


def _json_rows(text: str, file: Path) -> Rows:
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        except ValueError as error:
            raise DataError(f"{file} is neither JSON nor lines of JSON: {error}", hint=FORMS) from error
    while isinstance(found, dict) and len(found) == 1 and isinstance(inner := next(iter(found.values())), (dict, list)):
        found = inner  # unwrap {"labels": ...}
    if isinstance(found, dict) and any(map(may_be_class, found)):  # one list per column
        columns = [list(cells.values()) if isinstance(cells, dict) else cells for cells in found.values()]
        if not all(isinstance(cells, list) for cells in columns) or len({len(cells) for cells in columns}) > 1:
            raise DataError(f"{file} holds {', '.join(found)}, which are no columns of one table", hint=FORMS)
        found = [dict(zip(found, row, strict=True)) for row in zip(*columns, strict=True)]
    elif isinstance(found, dict):
        found = [
            {"file": name, **inner} if isinstance(inner, dict) else {"file": name, "label": inner}
            for name, inner in found.items()
        ]
    if not found:
        raise DataError(f"{file} is empty", hint=FORMS)
    return _records(found, file)


def _records(found: Sequence[Any], file: Path) -> Rows:
    lines = [json.dumps(record, ensure_ascii=False)[:200] for record in found]
    if all(isinstance(record, dict) for record in found):
        header = tuple(dict.fromkeys(name for record in found for name in record))
        return Rows([[record.get(name) for name in header] for record in found], header, lines)
    if all(isinstance(record, list) for record in found):
        return Rows(found, None, lines)
    if any(isinstance(record, (dict, list)) for record in found):
        raise DataError(f"{file} mixes records and values", hint=FORMS)
    return Rows([[record] for record in found], ("label",), lines)
