# ruff: noqa: S101 a test suite asserts
"""Opening a channel and driving it as the engine does, for the contract suite."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.spec import Step
from leadctl.domain.clock import SystemClock
from leadctl.domain.errors import Ambiguous, DeliveryError, InvalidCredential
from leadctl.domain.model import Delivery, Done, Lead, Receipt
from leadctl.sandbox.server import Sandbox
from leadctl.testing.checks import everything_of, long_enough
from leadctl.testing.fakes import MemoryCredentials, make_delivery, make_lead, open_channel

#: Divides time-outs: the shortest that a request can have, one second.
CLIENT_SCALE = 60.0
#: The vendor's limits and delays, so much faster.
VENDOR_SCALE = 5000.0


def main_step(channel: Channel[Any, Any]) -> Step:
    """The step that makes a delivery."""
    return next(step for step in channel.steps if not step.preparatory)


def with_done(delivery: Delivery, step: Step, receipt: Done) -> Delivery:
    """The delivery as the engine hands it to the next step."""
    return replace(delivery, done={**delivery.done, **receipt.parts, step.name: receipt.remote_id or ""})


class ChannelDriver:
    """One channel, by name, with a complete credential."""

    name: ClassVar[str]
    data: ClassVar[Mapping[str, Any]]
    settings: ClassVar[Mapping[str, Any]] = {}
    #: Laid over the sandbox vendor's credential: the vendor refuses the result.
    bad_data: ClassVar[Mapping[str, Any]]
    #: Fields of the lead that this vendor needs otherwise.
    lead_overrides: ClassVar[Mapping[str, Any]] = {}

    def spoil(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The credential with a secret that the vendor does not know."""
        return {**data, **self.bad_data}

    def lead(self, number: int, changes: Mapping[str, Any] | None = None) -> Lead:
        """An ordinary lead of its own id, e-mail and phone, with these fields changed."""
        own = {"id": number, "email": f"anna{number}@example.com", "phone": f"+7 900 000-{number:02}-01"}
        return make_lead(**{**own, **self.lead_overrides, **(changes or {})})

    def delivery(self, lead: Lead) -> Delivery:
        return make_delivery(lead, first_at=datetime.now(UTC))

    def offline(self) -> Channel[Any, Any]:
        """The channel of ``data``; it is never connected."""
        return open_channel(self.name, self.data, self.settings)

    def refused(self, data: Mapping[str, Any]) -> InvalidCredential:
        error = self.opening_error(data)
        assert error is not None, f"a credential of only {sorted(data)} was accepted"
        self.assert_no_secret(self.offline(), everything_of(error))
        return error

    def opening_error(self, data: Mapping[str, Any]) -> InvalidCredential | None:
        try:
            open_channel(self.name, data, self.settings)
        except InvalidCredential as error:
            return error
        return None

    @asynccontextmanager
    async def opened(self, data: Mapping[str, Any], settings: Mapping[str, Any]) -> AsyncIterator[Channel[Any, Any]]:
        rows = MemoryCredentials({7: dict(data)})
        channel = open_channel(
            self.name, data, settings, clock=SystemClock(), credentials=rows, scale=CLIENT_SCALE
        )  # fmt: skip
        try:
            yield channel
        finally:
            await channel.close()

    @asynccontextmanager
    async def connected(self, sandbox: Sandbox) -> AsyncIterator[Channel[Any, Any]]:
        """A channel of the sandbox vendor's own credential."""
        vendor = sandbox.vendor(self.name)
        async with self.opened(vendor.credential(), vendor.settings()) as channel:
            yield channel

    async def at_main_step(self, channel: Channel[Any, Any], delivery: Delivery) -> tuple[Step, Delivery]:
        """The delivery with all that goes before the main step done. Raises DeliveryError."""
        main = main_step(channel)
        for step in channel.steps[: channel.steps.index(main)]:
            if channel.needs(step, delivery):
                receipt = (await self.send_all(channel, step, [delivery]))[delivery.key]
                if isinstance(receipt, DeliveryError):
                    raise receipt
                delivery = with_done(delivery, step, receipt)
        return main, replace(delivery, context=await channel.prepare(main))

    async def send_one(self, channel: Channel[Any, Any], lead: Lead) -> Receipt:
        """One lead up to and through the main step, as the engine does it."""
        try:
            step, delivery = await self.at_main_step(channel, self.delivery(lead))
        except DeliveryError as error:
            self.assert_no_secret(channel, everything_of(error))
            return error
        return (await self.send_all(channel, step, [delivery]))[delivery.key]

    async def send_all(self, channel: Channel[Any, Any], step: Step, batch: Sequence[Delivery]) -> dict[str, Receipt]:
        """A receipt per key; an error of the whole request counts for each. Looks for secrets on the way."""
        try:
            context = await channel.prepare(step)
            verdict = await channel.send(step, [replace(d, context={**context, **d.context}) for d in batch])
        except DeliveryError as error:
            self.assert_no_secret(channel, everything_of(error))
            return dict.fromkeys((delivery.key for delivery in batch), error)
        self.assert_no_secret(channel, repr(verdict.receipts))
        for receipt in verdict.receipts.values():
            if isinstance(receipt, DeliveryError):
                self.assert_no_secret(channel, everything_of(receipt))
        left_out = Ambiguous("the answer leaves it out")
        return {delivery.key: verdict.receipts.get(delivery.key, left_out) for delivery in batch}

    def assert_no_secret(self, channel: Channel[Any, Any], *texts: str) -> None:
        for secret in long_enough(channel.secret_values()):
            for text in texts:
                assert secret not in text, "a secret of the credential is shown"
