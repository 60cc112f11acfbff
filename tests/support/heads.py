"""The selected leads one by one, as the store's pages give them."""

from collections.abc import Iterator, Sequence

from leadctl.domain.model import LeadId
from leadctl.store.database import Database, pages
from leadctl.store.leads import LeadFilter, LeadHead, classify, head_pages


def iter_heads(db: Database, ids: Sequence[LeadId] | None, filters: LeadFilter, page: int = 1000) -> Iterator[LeadHead]:
    """In the order of ``ids`` (each once), else ascending by id."""
    if ids is None:
        for heads in head_pages(db, filters, page):
            yield from heads
        return
    for some in pages(list(dict.fromkeys(ids)), page):
        for _, standing, head in classify(db, some, filters):
            if standing == "planned" and head is not None:
                yield head
