"""A million ids in eight bytes each."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from leadctl.domain.model import LeadId

_MAX = 2**63


class UniqueIds(Sequence["LeadId"]):
    """Ids in the order in which they came, each once.

    Whole numbers are kept as an array, and as long as they rise nothing else is needed to see that one is new.
    """

    def __init__(self, ids: "Iterable[LeadId]" = ()) -> None:
        self._ids: array[int] | list[LeadId] = array("q")
        self._seen: set[LeadId] | None = None
        self._last = -_MAX - 1
        for identity in ids:
            self.add(identity)
        if self._ids:
            self.settle()

    def add(self, identity: "LeadId") -> bool:
        """False if it is there already."""
        if self._seen is None:
            if type(identity) is int and self._last < identity < _MAX:
                self._last = identity
                self._ids.append(identity)
                return True
            self._seen = set(self._ids)
        if identity in self._seen:
            return False
        self._seen.add(identity)
        if isinstance(self._ids, array) and not (type(identity) is int and -_MAX <= identity < _MAX):
            self._ids = list(self._ids)
        self._ids.append(identity)  # type: ignore[arg-type]  # an array takes what was looked at above
        return True

    def settle(self) -> "UniqueIds":
        """Give back the memory that :meth:`add` has needed; adding more will need it again."""
        self._seen, self._last = None, _MAX
        return self

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # it can grow

    def __iter__(self) -> "Iterator[LeadId]":
        return iter(self._ids)

    @overload
    def __getitem__(self, place: int) -> "LeadId": ...
    @overload
    def __getitem__(self, place: slice) -> "list[LeadId]": ...
    def __getitem__(self, place: int | slice) -> "LeadId | list[LeadId]":
        return list(self._ids[place]) if isinstance(place, slice) else self._ids[place]
