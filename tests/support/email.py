"""An e-mail channel over sockets, and servers to send to."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from leadctl.channels.email import EmailChannel
from leadctl.domain.clock import SystemClock
from leadctl.domain.model import Delivery, Done
from leadctl.sandbox.email import EmailVendor
from leadctl.sandbox.judge import Faults, Judge
from tests.support.channels import make_delivery, make_lead, open_channel

#: Time-outs of one second for the final reply, five for the rest.
FAST = 120.0


@asynccontextmanager
async def opened(data: Mapping[str, Any], **more: Any) -> AsyncIterator[EmailChannel]:
    channel = open_channel("email", data, {"locale": "en"}, **{"clock": SystemClock(), "scale": FAST, **more})
    assert isinstance(channel, EmailChannel)
    try:
        yield channel
    finally:
        await channel.close()


@asynccontextmanager
async def serving(**attributes: Any) -> AsyncIterator[EmailVendor]:
    vendor = EmailVendor(Judge(), Faults())
    for name, value in attributes.items():
        assert hasattr(vendor, name), name
        setattr(vendor, name, value)
    await vendor.start("127.0.0.1")
    try:
        yield vendor
    finally:
        await vendor.stop()


async def send(channel: EmailChannel, delivery: Delivery) -> Done:
    verdict = await channel.send(channel.steps[0], [delivery])
    receipt = verdict.receipts[delivery.key]
    assert isinstance(receipt, Done)
    return receipt


def numbered(number: int) -> Delivery:
    return make_delivery(make_lead(id=number))
