"""What may be kept or shown of a foreign text."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leadctl.domain.masking import MASK, Secrets, clean, mask_personal

#: Any text, halves of surrogate pairs included.
TEXTS = st.text(st.characters(exclude_categories=()))
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@given(TEXTS, st.integers(1, 80))
def test_clean_is_one_plain_line_within_its_limit(text: str, limit: int) -> None:
    said = clean(text, limit)
    assert not CONTROLS.search(said)
    assert len(said) <= limit
    assert said == said.strip()
    said.encode()
    assert clean(said, limit) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\r\nb\tc", "a b c"), ("\x1b[31mred\x1b[0m", "[31mred [0m"), ("a\u202egpj.exe", "a gpj.exe"),
        ("  a  b ", "a b"), ("A\ud800", "A"), ("\U0001f469\u200d\U0001f467", "\U0001f469\u200d\U0001f467"), ("", ""),
        ("[red]<b>{{ x }}", "[red]<b>{{ x }}"), ("abcdefghij", "abcdefghij"), ("abcdefghijk", "abcdefghi…"),
    ],
)  # fmt: skip
def test_clean(text: str, said: str) -> None:
    assert clean(text, 10 if text.startswith("abc") else 500) == said


SECRETS = st.lists(st.text("abcAB/+ %:é", min_size=6, max_size=12), min_size=1, max_size=4)


@given(SECRETS, st.data())
def test_no_secret_is_left(secrets: list[str], data: st.DataObject) -> None:
    """Wherever they stand, one within the other, or one over the end of another."""
    pieces = data.draw(st.lists(st.sampled_from(secrets) | st.text("abcAB/ é", max_size=5)))
    said = Secrets(secrets).hide("".join(pieces))
    assert not any(secret in said for secret in secrets)


def test_the_longest_secret_is_hidden_whole() -> None:
    assert Secrets(["abcdef", "abcdefghi"]).hide("(abcdefghi) (abcdef)") == f"({MASK}) ({MASK})"


def test_a_secret_is_found_as_it_stands_in_a_url() -> None:
    secrets = Secrets(["p+ss/w rd=1"])
    for text in ("p+ss/w rd=1", "p%2Bss%2Fw%20rd%3D1", "p%2Bss/w%20rd%3D1", "p%2Bss%2Fw+rd%3D1"):
        assert secrets.hide(f"x={text}&") == f"x={MASK}&"


def test_secrets_are_added_as_they_come_and_short_ones_are_not_searched_for() -> None:
    secrets = Secrets()
    assert secrets.hide("token-1 token-2 abc") == "token-1 token-2 abc"
    secrets.add(["token-1", "abc", ""])
    assert secrets.hide("token-1 token-2 abc") == f"{MASK} token-2 abc"
    secrets.add(["token-2", "token-1"])
    assert secrets.hide("token-1 token-2 abc") == f"{MASK} {MASK} abc"


def test_a_secret_is_no_pattern() -> None:
    assert Secrets(["a.*b[c"]).hide("a.*b[c axxb") == f"{MASK} axxb"
    assert Secrets(["tok\ud800en"]).hide("tok\ud800en") == MASK


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("write to anna.k+1@mail.example.com now", f"write to {MASK} now"), ("<a@b.co>", f"<{MASK}>"),
        ('"email":"анна@пример.рф"', f'"email":"{MASK}"'), ("a@b@c.de", f"a@{MASK}"),
        ("call +7 (900) 000-00-01!", f"call {MASK}!"),
        ("89000000001", MASK), ("HTTP 422, code 1008", "HTTP 422, code 1008"), ("lead 9774766", "lead 9774766"),
        ("@nobody", "@nobody"), ("", ""), ("2026-11-24 09:00 8-900-000-00-01", f"2026-11-24 09:00 {MASK}"),
        ("2026-11-24T07:56:42.557Z", "2026-11-24T07:56:42.557Z"), ("12026-11-24", MASK), ("2026-11-2400", MASK),
    ],
)  # fmt: skip
def test_mask_personal(text: str, said: str) -> None:
    assert mask_personal(text) == said


@given(st.text("abж.@ <>,+0123456789-() \n", max_size=60))
def test_no_address_and_no_phone_is_left(text: str) -> None:
    said = mask_personal(text)
    assert not re.search(r"[abж0-9]@[abж0-9]+\.[abж0-9]", said)
    assert not re.search(r"\d{8}", said)
    assert mask_personal(said) == said


@pytest.mark.parametrize(
    "text", ["a" * 200_000, "a@" * 100_000, "1-" * 100_000 + "x", "a.b@c" * 40_000, "- " * 100_000]
)
def test_long_texts_are_masked_in_linear_time(text: str) -> None:
    began = time.process_time()
    mask_personal(text)
    assert time.process_time() - began < 2
