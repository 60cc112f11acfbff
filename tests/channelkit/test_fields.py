"""A lead's fields, whatever stands in them."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leadctl.channelkit.fields import (
    answers_text,
    email_address,
    is_email,
    multiline,
    phone_e164,
    phone_text,
    split_name,
    utm,
)
from leadctl.domain.masking import clean
from leadctl.domain.model import Answer
from leadctl.testing.hostile import HOSTILE_LEADS, HOSTILE_TEXTS
from tests.support.channels import make_lead

#: Any text, halves of surrogate pairs included.
TEXTS = st.text(st.characters(exclude_categories=()))
#: Texts that look like an address here and there.
NEARLY = st.lists(
    st.sampled_from([*"a@.-_+<> \r\n\t,;:\"'()\\[]%=?", "ж", "\u202e", "\ud800", "example.com", "\x00"])
).map("".join)


@pytest.mark.parametrize(
    "text",
    ["anna@example.com", "a.b+c_d-e@sub.example.co.uk", "o'neil@example.ie", "анна@пример.рф",
     "a@xn--e1afmkfd.xn--p1ai", "a@उदाहरण.भारत", "x@1.example.com", f"{'a' * 64}@example.com",
     "a!#$%&*/=?^`{|}~@example.com"],
)  # fmt: skip
def test_addresses(text: str) -> None:
    assert is_email(text)
    assert email_address(make_lead(email=f" {text}\n")) == text


@pytest.mark.parametrize(
    "text",
    ["", "@", "anna", "anna@", "@example.com", "anna@example", "anna@@example.com", "a@b@example.com", ".a@example.com",
     "a..b@example.com", "a@example..com", "a@.example.com", "a@-x.example", "a@example.com.", "a@example.c0_",
     "a@127.0.0.1", "a@[127.0.0.1]", "Anna <a@example.com>", '"a b"@example.com', "a@example.com, b@example.com",
     "a@example.com\n", "a@example.com\r\nBcc: x@evil.example", "a@example.com\u2028", "a@exam\u202eple.com",
     "an\ud800na@example.com", f"{'a' * 65}@example.com", f"a@{'b' * 250}.com",
     "a@example.com>", "mailto:a@example.com", "a@exam%ple.com", "a@example-.com", "a@exam_ple.com"],
)  # fmt: skip
def test_no_addresses(text: str) -> None:
    assert not is_email(text)


@given(TEXTS | NEARLY)
@example("a@example.com\n")
def test_what_is_taken_for_an_address_can_break_nothing(text: str) -> None:
    if is_email(text):
        assert not re.search(r"[\s<>,;:\"()\[\]\\]", text)
        assert text.isprintable()
        assert text.count("@") == 1
        assert len(text.encode()) <= 4 * 254


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+7 900 000-00-01", "+79000000001"), ("8 (900) 000-00-01", "+79000000001"), ("9000000001", "+79000000001"),
        ("+1 415 555 2671", "+14155552671"), ("+44 20 7946 0958", "+442079460958"),
        ("+7\u00a0900\u200b0000001", "+79000000001"),
        ("тел. +7 900 000-00-01", "+79000000001"), ("", None), ("call me", None), ("12", None), ("<b>", None),
        ("+999999999999999999", None), ("+7 900 000-00-01\r\nX-Evil: 1", None), ("9" * 5000, None),
    ],
)  # fmt: skip
def test_phones(text: str, number: str | None) -> None:
    lead = make_lead(phone=text)
    assert phone_e164(lead) == number
    assert phone_text(lead) == (number or clean(text, 60))


@given(TEXTS | st.text("+0123456789()- .;extдоб", max_size=40))
def test_a_phone_is_digits_or_nothing(text: str) -> None:
    number = phone_e164(make_lead(phone=text))
    assert number is None or re.fullmatch(r"\+[0-9]{5,17}", number)
    said = phone_text(make_lead(phone=text))
    assert said.isprintable() or all(not char.isspace() or char == " " for char in said)
    assert len(said) <= 60


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("Анна Ким", ("Анна", "Ким")), ("Анна", ("Анна", "")), ("  Анна \t Ким\n младшая ", ("Анна", "Ким младшая")),
        ("", ("", "")), ("Anna\r\nBcc: x", ("Anna", "Bcc: x")),
    ],
)  # fmt: skip
def test_split_name(name: str, parts: tuple[str, str]) -> None:
    assert split_name(make_lead(name=name)) == parts


def test_utm_keeps_the_five_that_are_there() -> None:
    lead = make_lead(utm={"utm_term": "t", "utm_source": " a\r\nb ", "utm_campaign": "", "gclid": "x"})
    assert dict(utm(lead)) == {"utm_source": "a b", "utm_term": "t"}


def test_answers_are_a_line_each() -> None:
    lead = make_lead(answers=(Answer("Bud\nget", "100\r\n000"), Answer("City", "")))
    assert answers_text(lead) == "Bud get: 100 000\nCity: "


@given(TEXTS, st.integers(1, 300))
def test_multiline_is_clean_lines_within_the_limit(text: str, limit: int) -> None:
    said = multiline(text, limit)
    assert len(said) <= limit
    said.encode()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", said)


def test_multiline_keeps_line_breaks() -> None:
    assert multiline("a\r\nb\rc\n\n d \n", 100) == "a\nb\nc\n\nd"
    assert multiline("abcdef", 4) == "abc…"


@pytest.mark.parametrize("name", HOSTILE_LEADS)
def test_hostile_leads_come_out_as_plain_text(name: str) -> None:
    lead = make_lead(**HOSTILE_LEADS[name])
    texts = [phone_text(lead), email_address(lead) or "", *split_name(lead), *utm(lead).values()]
    for text in [*texts, *answers_text(lead).split("\n"), *multiline(lead.comment, 1000).split("\n")]:
        text.encode()
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202e]", text)


def test_hostile_words_are_kept_as_words() -> None:
    """Cleaning is no censorship: what a vendor shows as text stays as it was written."""
    for name in ("markup", "formula", "template", "batch_reference", "emoji"):
        assert answers_text(make_lead(answers=(Answer("q", HOSTILE_TEXTS[name]),))) == f"q: {HOSTILE_TEXTS[name]}"
