"""Shortening a lead: what is cut, what is kept, and that it fits."""

import pytest

from leadctl.channelkit.shorten import cut, longest, shortened, utf16_units
from leadctl.domain.model import Answer
from tests.support.channels import make_lead


@pytest.mark.parametrize("text", ["", "abc", "Жжж", "😀😀😀", "a😀b😀", "x\ud800y"])
def test_cut_is_at_most_so_many_units_and_never_half_a_character(text: str) -> None:
    for units in range(utf16_units(text) + 2):
        found = cut(text, units)
        assert utf16_units(found) <= units
        assert found == text or units == 0 or found.endswith("…")
        assert text.startswith(found.removesuffix("…"))


def test_short_answers_stay_whole_beside_a_long_comment() -> None:
    lead = shortened(make_lead(comment="c" * 500, answers=(Answer("q", "a" * 20),)), 100)
    assert lead.answers == (Answer("q", "a" * 20),)
    assert len(lead.comment) == 79


def test_a_comment_keeps_half_beside_long_answers() -> None:
    answers = tuple(Answer(f"q{number}", "a" * 40) for number in range(10))
    lead = shortened(make_lead(comment="c" * 500, answers=answers), 100)
    assert len(lead.comment) == 50
    assert [(a.question, len(a.answer)) for a in lead.answers] == [("q0", 40), ("q1", 6)]


def test_nothing_else_is_touched() -> None:
    lead = make_lead()
    cut_lead = shortened(lead, 0)
    assert (cut_lead.comment, cut_lead.answers) == ("", ())
    assert (cut_lead.name, cut_lead.phone, cut_lead.email, cut_lead.id) == (lead.name, lead.phone, lead.email, lead.id)


@pytest.mark.parametrize(("most", "expected"), [(-1, None), (0, 0), (7, 7), (10, 10), (99, 10)])
def test_longest_is_the_largest_that_fits(most: int, expected: int | None) -> None:
    assert longest(10, lambda room: room <= most) == expected
