"""Looking for our own keys in what a vendor lists, newest entries first."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from leadctl.domain.errors import Transient
from leadctl.domain.model import EMPTY, Absent, CannotTell, Finding, Found


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry of a list: its id, every text of it that may be a key, and its parts (a contact's id)."""

    identity: int
    marks: Set[str]
    parts: Mapping[str, str] = field(default_factory=lambda: EMPTY)


async def find_marked(
    pages: AsyncGenerator[Sequence[Listed], None],
    keys: Sequence[str],
    floors: Mapping[str, int],
    url_of: Callable[[int], str | None],
) -> Mapping[str, Finding]:
    """Which of the keys the list has.

    ``pages`` descend by id; an empty page is the end of the list, and no other is asked for; a list that ends without
    one was not walked to its end. ``floors``: key → an id that was there before the key was sent, where that is known:
    what is not found above it is absent. A page that cannot be read (Transient) proves nothing for what was not found
    until then; the first one's failure is raised. A list that was read as far as it may be, and did not tell, never
    will.
    """
    hits: dict[str, list[Listed]] = {key: [] for key in keys}
    lowest: int | None = None
    told = CannotTell("there are too many newer entries to look through", final=True)
    try:
        async with aclosing(pages):
            async for page in pages:
                for entry in page:
                    for key in entry.marks & hits.keys():
                        hits[key].append(entry)
                ids = [entry.identity for entry in page]
                if floors and ids != sorted(ids, reverse=True):
                    told = CannotTell("the list is not in the order asked for", final=True)
                    lowest = None
                    break
                lowest = min(ids, default=0)
                if not page:
                    break
                if floors and lowest <= min(floors.values()):
                    told = replace(told, final=False)  # asked without the others, the rest is looked for further
                    break
    except Transient as error:
        if lowest is None and not any(hits.values()):
            raise  # not one page: that says something about the vendor, and nothing about the keys
        told = CannotTell(error.message)
    return {
        key: _finding(found, lowest is not None and lowest <= floors.get(key, 0), told, url_of)
        for key, found in hits.items()
    }


def _finding(found: Sequence[Listed], passed: bool, told: CannotTell, url_of: Callable[[int], str | None]) -> Finding:
    by_id = {entry.identity: entry for entry in found}
    if by_id:
        first, *others = sorted(by_id)
        return Found(str(first), by_id[first].parts, url_of(first), tuple(map(str, others)))
    return Absent() if passed else told
