"""Small stand-ins for the world around a channel, and builders of leads and deliveries."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from leadctl.channelkit.channel import Channel, Toolbox
from leadctl.channelkit.http import HttpChannel
from leadctl.channelkit.network import NetworkGuard
from leadctl.channels import channel_class
from leadctl.domain.events import Event
from leadctl.domain.model import Account, Answer, CredentialId, Delivery, Lead
from leadctl.domain.ports import Clock

NOW = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


class FakeClock:
    """A clock that moves only when it is slept on."""

    def __init__(self, start: datetime = NOW) -> None:
        self.start = start
        self.elapsed = 0.0
        self.sleeps: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.elapsed += seconds


class MemoryCredentials:
    """Credential rows in memory (``leadctl.domain.ports.CredentialStore``)."""

    def __init__(self, rows: dict[CredentialId, dict[str, Any]] | None = None, *, read_only: bool = False) -> None:
        self.rows = rows or {}
        self.read_only = read_only
        self.kept: dict[tuple[CredentialId, str], Any] = {}

    async def read(self, credential_id: CredentialId) -> Mapping[str, Any]:
        return dict(self.rows[credential_id])

    async def writable(self, credential_id: CredentialId) -> bool:
        return not self.read_only and credential_id in self.rows

    async def swap(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        row = self.rows[credential_id]
        if any(row.get(key) != value for key, value in old.items()):
            return False
        row.update(new)
        return True

    async def keep(self, credential_id: CredentialId, key: str, value: Any) -> str:
        if self.read_only or credential_id not in self.rows:
            self.kept[credential_id, key] = value
            return "ledger"
        self.rows[credential_id][key] = value
        return "data"

    @asynccontextmanager
    async def lease(self, credential_id: CredentialId) -> AsyncIterator[None]:
        del credential_id
        yield


def make_lead(**changes: Any) -> Lead:
    """A complete lead, with these fields changed."""
    values: dict[str, Any] = {
        "id": 42, "external_entity_id": 1, "external_project_id": 2, "name": "Анна Ким", "phone": "+7 900 000-00-01",
        "email": "anna@example.com", "comment": "Перезвоните после 18:00", "page_url": "https://example.com/p",
        "utm": {"utm_source": "yandex", "utm_medium": "cpc"},
        "answers": (Answer("budget", "100 000"),), "created_at": NOW,
    }  # fmt: skip
    return Lead(**{**values, **changes})


def make_delivery(lead: Lead | None = None, **changes: Any) -> Delivery:
    """A delivery of this lead under the key of credential 7."""
    lead = lead or make_lead()
    values: dict[str, Any] = {"lead": lead, "key": f"lc-abc123-{lead.id}-7", "first_at": NOW}
    return Delivery(**{**values, **changes})


def open_channel(
    name: str,
    data: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
    *,
    handler: Callable[[httpx.Request], httpx.Response] | None = None,
    allow_private: tuple[str, ...] = ("127.0.0.0/8",),
    credentials: MemoryCredentials | None = None,
    clock: Clock | None = None,
    events: list[Event] | None = None,
    scale: float = 1.0,
) -> Channel[Any, Any]:
    """A channel over a handler (``httpx.MockTransport``), or over real sockets where there is none."""
    toolbox = Toolbox(
        credential_id=7,
        guard=NetworkGuard(allow_private),
        clock=clock or FakeClock(),
        credentials=credentials or MemoryCredentials({7: dict(data)}),
        notify=events.append if events is not None else lambda event: None,
        scale=scale,
    )
    account = Account(7, name, "Main", True, data, settings or {})
    channel = channel_class(name).open(account, toolbox)
    if handler is not None:
        if not isinstance(channel, HttpChannel):
            raise TypeError(f"{name} does not speak HTTP: it takes no handler")
        channel.use_transport(httpx.MockTransport(handler))
    return channel
