"""Reading ``application/hal+json`` (lists with links) and ``application/problem+json`` (RFC 7807 errors)."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leadctl.channelkit.http import Answer, HttpRequest, nothing_made, with_status
from leadctl.domain.errors import Ambiguous, DeliveryError, Transient
from leadctl.domain.masking import clean

Entity = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. ``more``: it links to a next one."""

    items: Sequence[Entity]
    more: bool = False


def page(body: Any, kind: str) -> Page:
    """The page of entities of this kind. Raises ValueError if the body is no such page."""
    embedded = body.get("_embedded") if isinstance(body, dict) else None
    items = embedded.get(kind) if isinstance(embedded, dict) else None
    links = body.get("_links") if isinstance(body, dict) else None
    return Page(entities(items), isinstance(links, dict) and "next" in links)


def entities(items: Any) -> Sequence[Entity]:
    """The list itself. Raises ValueError if it is none, or not of objects with an id."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError("not a list of objects")
    for item in items:
        identity(item)
    return items


def identity(entity: Entity) -> int:
    """The id. Raises ValueError where there is none."""
    value = entity.get("id")
    if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()):
        return int(value)
    raise ValueError("an entity without an id")


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def problem(answer: Answer) -> Mapping[str, Any]:
    """The error as an object; empty if the body is no JSON object (a gateway's HTML)."""
    body = answer.json_or_none()
    return body if isinstance(body, dict) else {}


def words(answer: Answer) -> str:
    """What the error says to people, as one short line."""
    body = problem(answer)
    said = str(body.get("detail") or body.get("title") or "") if body else answer.text
    return clean(said, 200 if body else 80) or "no explanation"


class Reader:
    """GETs of a HAL API. A GET changes nothing, so that no failure of it is Ambiguous: those are Transient.

    ``failure`` reads an answer's status; ``pause`` is waited for between the pages of one list.
    """

    def __init__(
        self,
        base: str,
        exchange: Callable[[HttpRequest], Awaitable[Answer]],
        failure: Callable[[Answer], DeliveryError | None],
        pause: Callable[[], Awaitable[None]],
    ) -> None:
        self._base = base
        self._exchange = exchange
        self._failure = failure
        self._pause = pause

    async def read(self, path: str) -> Mapping[str, Any]:
        """The object at this path; empty for HTTP 204, which stands for an empty list."""
        try:
            answer = await self._exchange(HttpRequest("GET", self._base + path))
            if answer.status == 204:
                return {}
            if answer.status != 200:
                unread = Transient(f"the vendor answers HTTP {answer.status} ({words(answer)})")
                raise with_status(self._failure(answer) or unread, answer)
            body = answer.json()
        except Ambiguous as error:
            raise nothing_made(error) from None
        if not isinstance(body, dict):
            raise Transient("the vendor's answer is not of the documented form", http_status=200)
        return body

    async def page(self, path: str, kind: str) -> Page:
        """One page of a list."""
        body = await self.read(path)
        try:
            return page(body, kind) if body else Page(())
        except ValueError:
            raise Transient(f"the vendor's list of {kind} is not of the documented form", http_status=200) from None

    async def pages(self, path: str, kind: str, *, size: int, most: int) -> AsyncGenerator[Sequence[Entity], None]:
        """At most so many pages of a list; an empty one says that the list has ended."""
        for number in range(1, most + 1):
            if number > 1:
                await self._pause()
            found = await self.page(f"{path}&limit={size}&page={number}", kind)
            if found.items:
                yield found.items
            if len(found.items) < size and not found.more:
                yield ()
                return
