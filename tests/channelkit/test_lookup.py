"""Keys in what a vendor lists: what is found, what is absent, and what nobody can tell."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

import pytest

from leadctl.channelkit.lookup import Listed, find_marked
from leadctl.domain.errors import Transient
from leadctl.domain.model import Absent, CannotTell, Finding, Found

Page = Sequence[Listed] | Transient


def page(*ids: int, **marks: int) -> list[Listed]:
    """Entries of these ids; ``mark=id`` puts a key on one of them."""
    return [Listed(i, frozenset(key for key, at in marks.items() if at == i)) for i in ids]


async def served(pages: Sequence[Page], asked: list[int]) -> AsyncGenerator[Sequence[Listed], None]:
    for number, entries in enumerate(pages):
        asked.append(number)
        if isinstance(entries, Transient):
            raise entries
        yield entries


def look(pages: Sequence[Page], floors: Mapping[str, int] | None = None) -> tuple[Finding, list[int]]:
    """What is found of the key ``a``, and which pages were asked for."""
    asked: list[int] = []
    found = asyncio.run(find_marked(served(pages, asked), ["a"], floors or {}, lambda i: f"/{i}"))
    return found["a"], asked


BROKEN = Transient("the vendor answers HTTP 502")


@pytest.mark.parametrize(
    ("pages", "floors", "expected", "asked"),
    [
        ([page(9, 8, a=8), page(7), []], {}, Found("8", remote_url="/8"), 3),
        ([page(9, 8, a=9), page(8, 7, a=7), []], {}, Found("7", remote_url="/7", duplicates=("9",)), 3),
        ([page(9, 8), []], {}, Absent(), 2),
        ([[]], {}, Absent(), 1),
        # the end of a list is its end: a page after it is not asked for, and cannot fail
        ([page(9), [], BROKEN], {}, Absent(), 2),
        ([page(9), BROKEN], {}, CannotTell(BROKEN.message), 2),
        ([page(9, 8)], {}, CannotTell("there are too many newer entries to look through", final=True), 1),
        # older than the send
        ([page(9, 8), page(7, 5), page(4)], {"a": 6}, Absent(), 2),
        ([page(9, 8), BROKEN], {"a": 6}, CannotTell(BROKEN.message), 2),
        ([page(8, 9)], {"a": 6}, CannotTell("the list is not in the order asked for", final=True), 1),
    ],
)  # fmt: skip
def test_a_key(pages: Sequence[Page], floors: Mapping[str, int], expected: Finding, asked: int) -> None:
    assert look(pages, floors) == (expected, list(range(asked)))


def test_a_list_whose_first_page_fails_says_nothing_of_the_keys() -> None:
    with pytest.raises(Transient):
        look([BROKEN])
