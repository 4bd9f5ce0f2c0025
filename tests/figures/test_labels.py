import unicodedata

import pytest

from visprobe.figures.labels import block_number, shorten, site_label
from visprobe.io.inert import escape_control_characters


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain name é 猫", "plain name é 猫"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        ("two\nlines", "two\\x0alines"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("bad\udcff", "bad\\udcff"),
        ("tag\U000e0041", "tag\\U000e0041"),
    ],
)
def test_invisible_characters_are_spelled_out(hostile: str, shown: str) -> None:
    assert escape_control_characters(hostile) == shown


def test_visible_text_stays_as_it_is_when_shown_again() -> None:
    once = escape_control_characters("".join(map(chr, range(0x3000))))
    assert escape_control_characters(once) == once
    assert not {unicodedata.category(c) for c in once} & {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}


def test_long_names_keep_both_ends() -> None:
    name = "sft-" + "x" * 247 + "-001"
    assert shorten(name, 12) == "sft-x…xx-001" and shorten("short", 12) == "short"
    assert all(len(shorten(name, n)) == n for n in range(2, 60))


def test_site_labels() -> None:
    assert [site_label(s) for s in ("block_00", "block_12", "final_norm", "projected")] == [
        "0",
        "12",
        "norm",
        "projected",
    ]
    assert block_number("projected") is None and block_number("block_07") == 7
