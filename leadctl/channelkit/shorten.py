"""Making a lead's free texts fit a vendor's limit: only its comment and its answers are ever shortened."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

from leadctl.domain.model import Answer, Lead


def utf16_units(text: str) -> int:
    """The length as JavaScript, Java and Telegram's entities count it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, units: int) -> str:
    """At most ``units`` UTF-16 units, with ``…`` where something is missing."""
    if utf16_units(text) <= units:
        return text
    kept = text.encode("utf-16-le", "surrogatepass")[: 2 * max(0, units - 1)].decode("utf-16-le", "ignore")
    return f"{kept}…" if units > 0 else ""


def shortened(lead: Lead, room: int) -> Lead:
    """Comment and answers in ``room`` units together; neither pushes the other out of its half."""
    wanted = sum(utf16_units(a.question) + utf16_units(a.answer) for a in lead.answers)
    comment = cut(lead.comment, max(room - wanted, room // 2))
    left = room - utf16_units(comment)
    answers: list[Answer] = []
    for answer in lead.answers:
        left -= utf16_units(answer.question)
        if left <= 0:
            break
        answers.append(Answer(answer.question, cut(answer.answer, left)))
        left -= utf16_units(answer.answer)
    return replace(lead, comment=comment, answers=tuple(answers))


def longest(limit: int, fits: Callable[[int], bool]) -> int | None:
    """The largest room from 0 to ``limit`` that fits (if a room fits, so do the smaller ones), or None."""
    room = bisect_left(range(limit + 1), True, key=lambda size: not fits(size)) - 1
    return room if room >= 0 else None
