"""Reading leads: oddities of real columns, selection, and key pages."""

import random
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.domain.model import Answer, LeadId
from leadctl.store.leads import (
    LeadFilter,
    LeadHead,
    Selection,
    classify,
    heads_by_ids,
    load_leads,
    read_text,
    read_time,
)
from tests.store.helpers import execute, opened
from tests.support.heads import iter_heads

ALL = LeadFilter()


def lead_with(leads: Path, **columns: Any) -> Any:
    names = ", ".join(columns)
    places = ", ".join("?" * len(columns))
    execute(leads, f"INSERT INTO leads (id, {names}) VALUES (1, {places})", [tuple(columns.values())])
    with opened(leads) as db:
        return load_leads(db, [1])[1]


@pytest.mark.parametrize(
    ("raw", "utm"),
    [
        ('{"utm_source": "yandex", "utm_medium": ""}', {"utm_source": "yandex"}),
        ('{"a": true, "b": 5, "c": 0.5, "d": null, "e": [1, "ж"], "f": {"g": 1}}',
         {"a": "true", "b": "5", "c": "0.5", "e": '[1, "ж"]', "f": '{"g": 1}'}),
        ('{"a": "\\ud800x"}', {"a": "?x"}),
        ("{broken", {}),
        ("", {}),
        ("null", {}),
        ('"a text"', {}),
        ('["a", "b"]', {}),
        ("[" * 100_000, {}),
        ('{"a": ' + "9" * 5000 + "}", {}),
        (b"\xff\xfe\x00", {}),
        (5, {}),
        (None, {}),
    ],
)  # fmt: skip
def test_utm(leads: Path, raw: Any, utm: dict[str, str]) -> None:
    assert lead_with(leads, utm=raw).utm == utm


@pytest.mark.parametrize(
    ("raw", "answers"),
    [
        ('{"budget": 100000, "yes?": true}', [("budget", "100000"), ("yes?", "true")]),
        ('[{"question": "City", "answer": "Kazan"}, {"question": "Who", "answer": ["a", "b"]}]',
         [("City", "Kazan"), ("Who", '["a", "b"]')]),
        ('[{"answer": "alone"}, {"question": "open"}, {"other": 1}, "text", null]', [("", "alone"), ("open", "")]),
        ('{"budget": null}', [("budget", "")]),
        ("[]", []),
        ("{}", []),
        ('[{"question": ', []),
        ("17", []),
        (None, []),
    ],
)  # fmt: skip
def test_answers(leads: Path, raw: Any, answers: list[tuple[str, str]]) -> None:
    assert lead_with(leads, answers=raw).answers == tuple(Answer(*pair) for pair in answers)


def test_texts_are_texts_whatever_the_column_holds(leads: Path) -> None:
    lead = lead_with(leads, name=None, phone=79000000001, email=b"anna@example.com", comment="[red]{{ x }}\r\n")
    assert (lead.name, lead.phone, lead.email) == ("", "79000000001", "anna@example.com")
    assert lead.comment == "[red]{{ x }}\r\n"


def test_one_broken_byte_does_not_fail_the_page(leads: Path) -> None:
    execute(leads, "INSERT INTO leads (id, name) VALUES (1, CAST(x'41ff42' AS TEXT)), (2, 'Anna')")
    with opened(leads) as db:
        assert [lead.name for lead in load_leads(db, [1, 2]).values()] == ["A\ufffdB", "Anna"]


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_every_value_becomes_a_text_that_can_be_encoded(value: Any) -> None:
    read_text(value).encode()


MOSCOW = ZoneInfo("Europe/Moscow")


@pytest.mark.parametrize(
    ("raw", "moment"),
    [
        ("2026-03-01 10:00:00", datetime(2026, 3, 1, 7, tzinfo=UTC)),
        ("2026-03-01T10:00:00.5", datetime(2026, 3, 1, 7, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-03-01T10:00:00Z", datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("2026-03-01T10:00:00+05:00", datetime(2026, 3, 1, 5, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 2, 28, 21, tzinfo=UTC)),
        (date(2026, 3, 1), datetime(2026, 2, 28, 21, tzinfo=UTC)),
        (datetime(2026, 3, 1, 10), datetime(2026, 3, 1, 7, tzinfo=UTC)),  # noqa: DTZ001 a naive column
        (datetime(2026, 3, 1, 10, tzinfo=timezone(timedelta(hours=5))), datetime(2026, 3, 1, 5, tzinfo=UTC)),
        (1772359200, datetime(2026, 3, 1, 10, tzinfo=UTC)),
        ("yesterday", None),
        ("0000-00-00 00:00:00", None),
        ("0001-01-01 00:00:00", None),
        (float("inf"), None),
        (10**30, None),
        (True, None),
        (b"2026", None),
        ("", None),
        (None, None),
    ],
)
def test_times(raw: Any, moment: datetime | None) -> None:
    found = read_time(raw, MOSCOW)
    assert found == moment
    assert found is None or found.tzinfo is UTC


def test_naive_times_are_read_in_the_zone_of_the_database(leads: Path) -> None:
    execute(leads, "INSERT INTO leads (id, created_at) VALUES (1, '2026-03-01 10:00:00')")
    with opened(leads, timezone="Europe/Moscow") as db:
        assert heads_by_ids(db, [1])[1].created_at == datetime(2026, 3, 1, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (LeadFilter(), [1, 2, 3, 4]),
        (LeadFilter(entity=5), [1, 2]),
        (LeadFilter(entity="5"), [1, 2]),
        (LeadFilter(entity="e-7"), [3]),
        (LeadFilter(project=9), [1]),
        (LeadFilter(project="None"), []),
        (LeadFilter(entity=5, project=9), [1]),
        (LeadFilter(entity=5, project=8), [2]),
        (LeadFilter(since=datetime(2026, 3, 1, tzinfo=UTC)), [2, 3]),
        (LeadFilter(until=datetime(2026, 3, 1, tzinfo=UTC)), [1]),
        (LeadFilter(since=datetime(2026, 3, 1, tzinfo=UTC), until=datetime(2026, 3, 2, tzinfo=UTC)), [2]),
        (LeadFilter(entity=5, since=datetime(2026, 3, 1, tzinfo=UTC)), [2]),
    ],
)
def test_filters(leads: Path, filters: LeadFilter, matches: list[int]) -> None:
    execute(
        leads,
        "INSERT INTO leads (id, external_entity_id, external_project_id, created_at) VALUES (?, ?, ?, ?)",
        [
            (1, 5, 9, "2026-02-28 23:59:59"),
            (2, "5", 8, "2026-03-01 00:00:00"),
            (3, "e-7", None, "2026-03-02 00:00:00"),
            (4, None, None, None),
        ],
    )
    with opened(leads) as db:
        assert [head.id for head in iter_heads(db, None, filters)] == matches
        named: list[LeadId] = [4, 3, 77, 2, 1]
        assert [head.id for head in iter_heads(db, named, filters)] == [i for i in named if i in matches]
        standings = {identity: standing for identity, standing, _ in classify(db, named, filters)}
        assert standings == {
            identity: "not_found" if identity == 77 else "planned" if identity in matches else "filtered"
            for identity in named
        }
    assert Selection is LeadFilter


def test_deleted_leads_are_not_found(leads: Path) -> None:
    execute(leads, "ALTER TABLE leads ADD COLUMN deleted_at")
    execute(leads, "INSERT INTO leads (id, deleted_at) VALUES (1, NULL), (2, '2026-01-01')")
    with opened(leads) as db:
        assert [head.id for head in iter_heads(db, None, ALL)] == [1]
        assert list(heads_by_ids(db, [1, 2])) == [1]
        assert list(load_leads(db, [1, 2])) == [1]


@pytest.mark.parametrize("page", [1, 7, 100, 1000])
def test_pages_neither_skip_nor_repeat_whatever_the_order_of_insertion(leads: Path, page: int) -> None:
    ids = random.Random(1).sample(range(1, 10_000), 300)
    execute(leads, "INSERT INTO leads (id) VALUES (?)", [(identity,) for identity in ids])
    with opened(leads) as db:
        assert [head.id for head in iter_heads(db, None, ALL, page)] == sorted(ids)


@pytest.mark.parametrize("column", ["TEXT PRIMARY KEY", "VARCHAR(20)", "", "BLOB"])
def test_ids_that_are_texts(leads: Path, column: str) -> None:
    ids = ["10", "9", "a", "B", "007", "x y", "ж"]
    execute(leads, "DROP TABLE leads")
    execute(leads, f"CREATE TABLE leads (id {column}, external_entity_id, external_project_id)")
    execute(leads, "INSERT INTO leads VALUES (?, NULL, NULL)", [(identity,) for identity in ids])
    with opened(leads) as db:
        found = [head.id for head in iter_heads(db, None, ALL, 2)]
        assert sorted(map(str, found)) == sorted(ids)
        assert 10 in found  # as the ledger will give it back
        if column.startswith(("TEXT", "VARCHAR")):
            assert list(heads_by_ids(db, [db.lead_id(text) for text in ("10", "007", "nobody")])) in (
                [10, "007"],
                ["007", 10],
            )


def test_rows_that_come_while_pages_are_read(leads: Path) -> None:
    execute(leads, "INSERT INTO leads (id) VALUES (?)", [(identity,) for identity in range(10, 40, 10)])
    with opened(leads) as db:
        heads = iter_heads(db, None, ALL, 1)
        first = next(heads)
        execute(leads, "INSERT INTO leads (id) VALUES (5), (15)")
        execute(leads, "DELETE FROM leads WHERE id = 20")
        assert [first.id, *(head.id for head in heads)] == [10, 15, 30]


def test_more_than_ten_thousand_ids(leads: Path) -> None:
    count = 10_001
    execute(leads, "INSERT INTO leads (id) VALUES (?)", [(identity,) for identity in range(1, count + 1)])
    with opened(leads) as db:
        assert sum(1 for _ in iter_heads(db, None, ALL)) == count
        backwards: list[LeadId] = list(range(count, 0, -1))
        assert [head.id for head in iter_heads(db, [*backwards, *backwards], ALL)] == backwards
        assert len(load_leads(db, backwards)) == count


def test_ids_that_no_row_can_have(leads: Path) -> None:
    execute(leads, "INSERT INTO leads (id) VALUES (1)")
    with opened(leads) as db:
        assert list(heads_by_ids(db, [1, "abc", 10**30, -5])) == [1]


def test_a_head_without_time_matches_no_time() -> None:
    head = LeadHead(1, None, None, None)
    assert LeadFilter().matches(head)
    assert not LeadFilter(until=datetime(2026, 1, 1, tzinfo=UTC)).matches(head)
