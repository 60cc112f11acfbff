"""The file of --ids-file."""

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.cli.ids import MAX_LINE, ParsedIds, parse_ids, read_ids
from leadctl.domain.errors import ConfigError
from leadctl.domain.model import LeadId, parse_id


def integer(text: str) -> LeadId:
    if not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ValueError("an id must be a whole number")
    return int(text)


def parsed(content: str | bytes) -> ParsedIds:
    raw = content if isinstance(content, bytes) else content.encode()
    return parse_ids(io.BytesIO(raw), "ids.txt", integer)


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        ("", []),
        ("\n\n# nothing\n", []),
        ("1\n2\n3\n", [1, 2, 3]),
        ("3\n1\n2", [3, 1, 2]),
        ("\ufeff1\r\n2\r\n", [1, 2]),
        ("1\r2\r3", [1, 2, 3]),
        ("  1  \n\t2\t\n", [1, 2]),
        ("# a list\n1\n\n  # more\n2 # the second\n", [1, 2]),
        ('"1"\n"2"\n', [1, 2]),
        ("lead_id\n1\n2\n", [1, 2]),
        ("Leads of March\n1\n", [1]),
        ("id,name\n1,Anna\n2,Boris\n", [1, 2]),
        ("1,Anna\n2,Boris\n", [1, 2]),
        ("1;Anna\n2;Boris\n", [1, 2]),
        ("1\tAnna\n2\tBoris\n", [1, 2]),
        ("name;lead_id\nAnna;1\nBoris;2\n", [1, 2]),
        ("name;ID\nAnna;1\n", [1]),
        ("id,lead_id\n9,1\n", [1]),
        ("sep=;\nname;id\nAnna;1\n", [1]),
        ('name,id\n"Petrov, Ivan",1\n"said ""hi""",2\n', [1, 2]),
        ('id,comment\n1,"two\nlines"\n2,x\n', [1, 2]),
        ("id,comment\n1,room #5\n", [1]),
        ("id,name\n,,\n1,Anna\n", [1]),
        ("-5\n", [-5]),
        ("id,name\n1,\xef\xff\n".encode("latin-1"), [1]),
        ('lead_id,channel,code,message,remote_id\n7,amocrm,vendor_down,"no answer, twice",\n', [7]),
    ],
)
def test_forms(content: str | bytes, ids: list[int]) -> None:
    found = parsed(content)
    assert found.ids == ids
    assert found.bad == []


def test_repeats_are_sent_once_and_counted() -> None:
    found = parsed("2\n1\n2\n2\n")
    assert (list(found.ids), found.repeats) == ([2, 1], 2)


@pytest.mark.parametrize(
    ("content", "ids", "numbers"),
    [
        ("1\nabc\n3\n", [1, 3], [2]),
        ("1\n\n# x\n2.0\n1 234\n", [1], [4, 5]),
        ("id,name\n1,a\n,b\nx,c\n", [1], [3, 4]),
        ("name,id\nAnna\nBoris,2\n", [2], [2]),
        ('id,comment\n1,"never closed\n2,x\n3,y\n', [2, 3], [2]),
        ("1\n" + "9" * 300 + "\n", [1], [2]),
        ("1\n1\u200b\n", [1], [2]),
        ("1\n１\n", [1], [2]),
    ],
)
def test_bad_lines_are_listed_by_number(content: str, ids: list[int], numbers: list[int]) -> None:
    found = parsed(content)
    assert found.ids == ids
    assert [line.number for line in found.bad] == numbers


def test_nothing_is_read_from_a_file_with_a_bad_line_unless_skipped(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("1\nabc\n[red]x\x1b[31m\n")
    with pytest.raises(ConfigError) as caught:
        read_ids(str(path), None, integer, skip_bad_lines=False)
    assert "2 lines hold no lead id" in caught.value.message
    assert 'line 2: "abc": an id must be a whole number' in caught.value.message
    assert "line 3" in caught.value.message
    assert "\x1b" not in caught.value.message
    assert "--skip-bad-lines" in caught.value.hint
    assert read_ids(str(path), None, integer, skip_bad_lines=True).ids == [1]


def test_a_long_list_of_bad_lines_is_cut() -> None:
    complaint = parsed("1\n" + "x\n" * 30).complaint()
    assert complaint.count("line ") == 20
    assert complaint.endswith("and 10 more")


@pytest.mark.parametrize("content", [b"1\n\x002\n", b"PK\x03\x04\x00\x00", "1\n2\n".encode("utf-16")])
def test_a_binary_file_is_said(content: bytes) -> None:
    with pytest.raises(ConfigError, match=r"ids\.txt: line \d+ is not text") as caught:
        parsed(content)
    assert "UTF-8" in caught.value.hint


def test_an_endless_line_is_said() -> None:
    with pytest.raises(ConfigError, match="line 2 is longer than"):
        parsed(b"1\n" + b"7" * (MAX_LINE + 1))


def test_stdin_is_read_only_for_a_dash(tmp_path: Path) -> None:
    stdin = io.BytesIO(b"1\n2\n")
    path = tmp_path / "ids"
    path.write_text("9\n")
    assert read_ids(str(path), stdin, integer, skip_bad_lines=False).ids == [9]
    assert stdin.tell() == 0
    assert read_ids("-", stdin, integer, skip_bad_lines=False).ids == [1, 2]
    with pytest.raises(ConfigError, match="stdin is closed"):
        read_ids("-", None, integer, skip_bad_lines=False)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_ids(str(path), None, integer, skip_bad_lines=False)


def test_text_ids_keep_their_text() -> None:
    found = parse_ids(io.BytesIO(b"id\n007\na-1\n7\n"), "ids", parse_id)
    assert found.ids == ["007", "a-1", 7]


@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(ConfigError):
        found = parsed(content)
        assert len(found.ids) == len(set(found.ids))


@given(
    st.lists(st.integers(0, 10**9), max_size=30),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["{}", "  {} ", '"{}"', "{},x", '{};"a;b"', "{}\tq"]),
    st.booleans(),
)
def test_each_valid_line_yields_its_id(ids: list[int], end: str, form: str, bom: bool) -> None:
    text = ("\ufeff" if bom else "") + "".join(form.format(i) + end for i in ids)
    found = parsed(text)
    assert found.ids == list(dict.fromkeys(ids))
    assert found.bad == []
    assert found.repeats == len(ids) - len(set(ids))
