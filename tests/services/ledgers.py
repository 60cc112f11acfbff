"""A database, a ledger and rows in it, without any sending."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leadctl.domain.model import CredentialId, LeadId, LeadPlan, PlannedDelivery
from leadctl.domain.outcomes import TargetState
from leadctl.domain.ports import AttemptRecord, Granted, Intent, Record, TargetWrite
from leadctl.services.bootstrap import App, open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.work import travelling_key
from leadctl.settings import load_settings
from leadctl.store.writer import LedgerWriter
from tests.support.channels import NOW
from tests.support.world import World

#: Nobody listens at port 9.
TELEGRAM = {
    "bot_token": "123456789:AAHexampleexampleexampleexampleexamp", "chat_id": -100123, "base_url": "http://127.0.0.1:9"
}  # fmt: skip
WEBHOOKS = {"url": "http://127.0.0.1:9/hooks/s3cr3t-path"}


def make_world(folder: Path) -> World:
    """Three leads of entity 1, a telegram credential 11 and a webhooks credential 12."""
    world = World(folder)
    world.add_leads([1, 2, 3])
    world.add_credential(11, "telegram", TELEGRAM)
    world.add_credential(12, "webhooks", WEBHOOKS)
    return world


@contextmanager
def opened(world: World, *, create_ledger: bool = True) -> Iterator[App]:
    with open_app(load_settings(str(world.folder / "leadctl.toml"), {}), create_ledger=create_ledger) as app:
        yield app


def planned(app: App, lead_id: LeadId, credential_id: CredentialId) -> PlannedDelivery:
    """What the plan would send."""
    plan: LeadPlan = next(iter(plan_leads(app, LeadSelection([lead_id]), Selectors())))
    return next(d for d in plan.deliveries if d.account.credential_id == credential_id)


def leave(
    app: App,
    lead_id: LeadId,
    credential_id: CredentialId,
    state: TargetState,
    *,
    holder: str = "holder-that-is-gone",
    **more: Any,
) -> None:
    """The ledger as an attempt leaves it that ended in this state; ``sending``: that did not end."""
    delivery = planned(app, lead_id, credential_id)
    asyncio.run(_leave(app, delivery, state, holder, more))


async def _leave(app: App, delivery: PlannedDelivery, state: TargetState, holder: str, more: dict[str, Any]) -> None:
    writer = LedgerWriter(app.ledger, app.leases, holder)
    account, place = delivery.account, delivery.destination
    key = travelling_key(app.ledger.installation, delivery.lead_id, account.credential_id, 0)
    try:
        (claim,) = await writer.claim(
            "r0",
            [Intent(delivery.lead_id, place.key, 0, None, key, account.credential_id, account.channel,
                    place.account_key, "message", NOW, NOW)],
        )  # fmt: skip
        assert isinstance(claim, Granted)
        if state is not TargetState.SENDING:
            attempt = AttemptRecord(delivery.lead_id, place.key, 0, account.credential_id, account.channel, "message",
                                    "first", NOW, NOW, "ambiguous", http_status=502, answer="Bad Gateway")  # fmt: skip
            write = TargetWrite(delivery.lead_id, place.key, 0, state, **more)
            await writer.record("r0", [Record(attempt=attempt, target=write)])
    finally:
        await asyncio.to_thread(writer.close)
