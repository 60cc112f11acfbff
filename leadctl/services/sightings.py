"""One look, at the end of a bulk run, for what a vendor has only queued. A warning comes of it, never a verdict."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from leadctl.delivery.lanes import AccountQueue
from leadctl.delivery.limits import Limiter
from leadctl.domain.errors import DeliveryError
from leadctl.domain.events import Notice
from leadctl.domain.model import Absent, Delivery, Finding
from leadctl.domain.ports import Observer
from leadctl.services.loops import call_in
from leadctl.services.stopping import StopSwitch
from leadctl.services.work import travelling_key
from leadctl.store.leads import load_leads
from leadctl.store.rows import ItemRow

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

_PAGE = 200


async def look_for_accepted(
    app: "App", run_id: str, queues: Sequence[AccountQueue], limiter: Limiter, observer: Observer, stop: StopSwitch
) -> None:
    """Tell the observer, a credential at a time, how many of the run's accepted leads the vendor does not show."""
    for queue in queues:
        route = queue.route
        wait = route.channel.spec.visible_after
        if wait is None or queue.parking is not None:
            continue
        if not app.ledger.accepted_items(run_id, route.account.credential_id, -1, 1):
            continue
        await _pause(wait / app.settings.limits.scale, stop)
        counts = await _Look(app, run_id, queue, limiter, stop).counts()
        if counts[Absent]:
            observer(_notice(queue, counts[Absent], counts.total()))


async def _pause(seconds: float, stop: StopSwitch) -> None:
    """Until then, or until the stop; in no thread: there are few of them, and others need them meanwhile."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    stop.listen(lambda: call_in(loop, over.set))
    with suppress(TimeoutError):
        await asyncio.wait_for(over.wait(), seconds)


class _Look:
    """The look at one credential's leads, page by page."""

    def __init__(self, app: "App", run_id: str, queue: AccountQueue, limiter: Limiter, stop: StopSwitch) -> None:
        self._app = app
        self._run_id = run_id
        self._queue = queue
        self._limiter = limiter
        self._stop = stop
        self._free = asyncio.Semaphore(queue.route.channel.spec.concurrency)

    async def counts(self) -> Counter[type[Finding]]:
        """How many leads were found, are absent, or cannot be told of."""
        found: Counter[type[Finding]] = Counter()
        after = -1
        while not self._stop.requested:
            items, deliveries = await asyncio.to_thread(self._page, after)
            if not items:
                break
            after = items[-1].seq
            found.update(type(finding) for finding in await asyncio.gather(*map(self._ask, deliveries)) if finding)
        return found

    def _page(self, after: int) -> tuple[Sequence[ItemRow], list[Delivery]]:
        app, credential_id = self._app, self._queue.route.account.credential_id
        items = app.ledger.accepted_items(self._run_id, credential_id, after, _PAGE)
        leads = load_leads(app.db, [item.lead_id for item in items]) if items else {}
        now = app.clock.now()
        return items, [
            Delivery(
                leads[item.lead_id],
                travelling_key(app.ledger.installation, item.lead_id, credential_id, item.n),
                item.finished_at or now,
            )
            for item in items
            if item.lead_id in leads
        ]

    async def _ask(self, delivery: Delivery) -> Finding | None:
        """None: the vendor could not be asked, which says nothing."""
        channel = self._queue.route.channel
        async with self._free:
            if self._stop.requested:
                return None
            await self._app.clock.sleep(await self._limiter.reserve(self._queue.buckets))
            try:
                return (await channel.find(channel.steps[0], [delivery])).get(delivery.key)
            except DeliveryError:
                return None


def _notice(queue: AccountQueue, missing: int, asked: int) -> Notice:
    account, title = queue.route.account, queue.route.channel.spec.title
    text = (
        f"{title} has accepted {asked:,} leads and does not show {missing:,} of them yet: they may still be queued, "
        "wait for the person's confirmation, or have been dropped (an address that bounced, a contact that was "
        "deleted before). Look at the list in the panel"
    )
    return Notice(account.channel, account.credential_id, "not_visible", text)
