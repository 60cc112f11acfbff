"""Ids, digests and destinations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.domain.model import Account, Answer, Destination, Lead, parse_id, sort_key

IDS = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=30)


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("42", 42), ("0", 0), ("-1", -1), ("9223372036854775807", 2**63 - 1), ("-9223372036854775808", -(2**63)),
        ("007", "007"), ("-0", "-0"), ("+7", "+7"), ("--7", "--7"), ("-", "-"), ("", ""), (" 7", " 7"),
        ("7\n", "7\n"), ("1e3", "1e3"), ("1_000", "1_000"), ("4.0", "4.0"), ("٤٢", "٤٢"), ("²", "²"), ("a7", "a7"),
        ("9223372036854775808", "9223372036854775808"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_parse_id(text: str, identity: int | str) -> None:
    parsed = parse_id(text)
    assert parsed == identity
    assert type(parsed) is type(identity)


@given(IDS)
def test_an_id_survives_being_written_and_read(identity: int | str) -> None:
    if isinstance(identity, int):
        assert parse_id(str(identity)) == identity
    assert str(parse_id(str(identity))) == str(identity)


@given(st.lists(IDS))
def test_numbers_come_first_in_numeric_order(identities: list[int | str]) -> None:
    ordered = sorted(identities, key=sort_key)
    numbers = [identity for identity in ordered if isinstance(identity, int)]
    texts = [identity for identity in ordered if isinstance(identity, str)]
    assert ordered == [*numbers, *texts]
    assert numbers == sorted(numbers)
    assert texts == sorted(texts)


@given(IDS, IDS)
def test_only_equal_ids_sort_equal(one: int | str, other: int | str) -> None:
    assert (sort_key(one) == sort_key(other)) == (one == other and type(one) is type(other))


LEAD = Lead(42, 1, 2, "Anna", "+7900", "a@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("q", "a"),))


@pytest.mark.parametrize(
    "other",
    [
        Lead(42, 1, 2, "Ann", "+7900", "a@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("q", "a"),)),
        Lead(42, 1, 2, "Anna", "+7901", "a@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("q", "a"),)),
        Lead(42, 1, 2, "Anna", "+7900", "b@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("q", "a"),)),
        Lead(42, 1, 2, "Anna", "+7900", "a@b.co", "ho", "https://x", {"utm_source": "s"}, (Answer("q", "a"),)),
        Lead(42, 1, 2, "Anna", "+7900", "a@b.co", "hi", "https://y", {"utm_source": "s"}, (Answer("q", "a"),)),
        Lead(42, 1, 2, "Anna", "+7900", "a@b.co", "hi", "https://x", {"utm_source": "t"}, (Answer("q", "a"),)),
        Lead(42, 1, 2, "Anna", "+7900", "a@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("q", "b"),)),
        Lead(42, 1, 2, "Anna", "+7900", "a@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("qa", ""),)),
    ],
)
def test_a_change_of_what_is_sent_changes_the_digest(other: Lead) -> None:
    assert other.digest != LEAD.digest


def test_what_is_not_sent_does_not_change_the_digest() -> None:
    moved = Lead(43, 5, 6, "Anna", "+7900", "a@b.co", "hi", "https://x", {"utm_source": "s"}, (Answer("q", "a"),))
    assert moved.digest == LEAD.digest
    reordered = {"b": "2", "a": "1"}
    assert Lead(1, utm=reordered).digest == Lead(1, utm=dict(sorted(reordered.items()))).digest


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_has_a_digest(text: str) -> None:
    """Half a surrogate pair too."""
    assert len(Lead(1, name=text, comment=text).digest) == 16
    assert len(Account(1, "email", data={"x": text}).digest) == 16
    assert Destination("email", (text,), (text,), "t").key.startswith("email:")


def test_an_account_changes_with_data_and_settings_and_shows_neither() -> None:
    account = Account(7, "amocrm", data={"access_token": "canary"}, settings={"tags": ["canary"]})
    assert "canary" not in repr(account)
    assert "canary" not in account.digest
    assert account.digest != Account(7, "amocrm", data={"access_token": "other"}, settings={"tags": ["canary"]}).digest
    assert account.digest != Account(7, "amocrm", data={"access_token": "canary"}, settings={}).digest
    assert account.digest == Account(8, "amocrm", name="x", data=account.data, settings=account.settings).digest


def test_a_destination_is_its_parts_and_hides_them() -> None:
    one = Destination("getresponse", ("canary",), ("canary", "campaign"), "campaign")
    same = Destination("getresponse", ("canary",), ("canary", "campaign"), "another name")
    assert one.key == same.key
    assert one.account_key == same.account_key
    assert "canary" not in f"{one!r} {one.key} {one.account_key}"
    others = [
        Destination("unisender", ("canary",), ("canary", "campaign"), "campaign"),
        Destination("getresponse", ("canary",), ("canary", "campaign2"), "campaign"),
        Destination("getresponse", ("canary",), ("canarycampaign",), "campaign"),
        Destination("getresponse", ("canary",), ("canary", "", "campaign"), "campaign"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
