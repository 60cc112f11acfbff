# ruff: noqa: S101 a test suite asserts
"""The contract suite: what every channel must do, whoever its vendor is.

Subclass it in the vendor's test file and say what cannot be derived::

    class TestContract(ChannelContract):
        name = "acme"
        data = {"base_url": "https://acme.example", "api_key": "canary-0123456789"}
        bad_data = {"api_key": "wrong-0123456789"}

``data`` is a complete credential with made-up secrets of at least 6 characters: these are looked for in every
text that a person could see. The tests over real sockets use the sandbox vendor's own ``credential()``;
``bad_data`` is laid over it (or override :meth:`spoil`) to make one that the vendor refuses.

What a vendor does differently is said by the other class attributes, each explained where it stands.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.http import HttpChannel
from leadctl.channelkit.spec import Retransmit, Step
from leadctl.channels import channel_class
from leadctl.domain import errors
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.model import Absent, Delivery, Done, Found, Receipt
from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.testing.checks import assert_well_formed, everything_of
from leadctl.testing.driver import VENDOR_SCALE, ChannelDriver, main_step, with_done
from leadctl.testing.fakes import make_delivery, open_channel
from leadctl.testing.hostile import HOSTILE_LEADS

#: What each fault of the sandbox must be read as.
FAULT_TABLE: Mapping[str, tuple[type, ...]] = {
    "timeout": (Ambiguous,),
    "reset": (Ambiguous,),
    "reset_before": (Ambiguous,),
    "broken_answer": (Ambiguous,),
    "bad_gateway": (Ambiguous,),
    "bad_gateway_after": (Ambiguous,),
    "server_error": (Ambiguous, Transient),
    "unauthorized": (Unusable,),
    "rate_limit": (Throttled, Transient),
    "reject": (Rejected, Split),
    "error_body": (DeliveryError,),
}
CANARY = "canary-value-5d1c"


class ChannelContract(ChannelDriver):
    """Inherit it; see the module's text."""

    #: Entries that differ from :data:`FAULT_TABLE`, by fault; ``()`` where the vendor's protocol cannot have it.
    faults: ClassVar[Mapping[str, tuple[type, ...]]] = {}
    #: True where the status line alone is a success (webhooks), so that a broken body is one too.
    broken_answer_is_done: ClassVar[bool] = False
    #: False where no read-only call can tell that a secret is wrong (webhooks): only a send shows it.
    check_sees_secret: ClassVar[bool] = True
    #: False where the vendor's index never proves an absence: ``find`` then must not answer Absent.
    absence_is_provable: ClassVar[bool] = True
    #: What is at the vendor once the first step is done, for building the later steps.
    done: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        missing = [name for name in ("name", "data") if not hasattr(cls, name)]
        if not hasattr(cls, "bad_data") and cls.spoil is ChannelDriver.spoil:
            missing.append("bad_data")
        if missing:
            raise TypeError(f"{cls.__name__} must set {', '.join(missing)}")

    # The spec

    def test_spec_is_complete(self) -> None:
        spec = channel_class(self.name).spec
        assert spec.name == self.name
        assert spec.title, "title is empty"
        assert spec.docs.startswith("https://"), "docs must be an https link"
        assert spec.limits, "limits is empty"
        assert spec.repeat, "repeat is empty"
        assert spec.errors, "errors is empty"
        for said, name in spec.errors.items():
            kind = getattr(errors, name, None)
            assert isinstance(kind, type), f"errors[{said!r}] names no error type: {name}"
            assert issubclass(kind, DeliveryError), f"errors[{said!r}] names {name}, which is no DeliveryError"
        assert spec.concurrency >= 1
        assert spec.request_timeout > 0

    def test_steps_are_complete(self) -> None:
        steps = channel_class(self.name).spec.steps
        assert steps, "a channel has at least one step"
        assert len({step.name for step in steps}) == len(steps), "names of steps must be unique"
        for step in steps:
            assert step.batch >= 1
            assert step.retransmit in set(Retransmit)
            if step.retransmit is Retransmit.LOOKUP:
                assert step.looks, f"{step.name}: LOOKUP needs looks"
                assert list(step.looks) == sorted(set(step.looks)), f"{step.name}: looks must ascend"

    def test_one_bucket_is_the_channels_own(self) -> None:
        channel = self.offline()
        buckets = channel.buckets()
        documented = [bucket for bucket in buckets if bucket.limit.documented is not None]
        assert len(documented) == 1, "exactly one bucket has a documented limit: the one that [limits] sets"
        assert len({bucket.scope for bucket in buckets}) == len(buckets), "scopes must be unique"
        for bucket in buckets:
            self.assert_no_secret(channel, bucket.scope)
            assert bucket.limit.rate > 0
            assert bucket.limit.per > 0
            assert bucket.limit.documented is None or bucket.limit.rate <= bucket.limit.documented

    def test_example_is_valid_and_has_a_schema(self) -> None:
        kind = channel_class(self.name)
        assert kind.spec.example_data, "example_data is empty"
        open_channel(self.name, kind.spec.example_data, kind.spec.example_settings, allow_private=())
        for model, example in ((kind.Config, kind.spec.example_data), (kind.Settings, kind.spec.example_settings)):
            schema = model.model_json_schema()
            json.dumps(schema)
            assert set(example) <= set(schema["properties"]), f"the example of {model.__name__} has unknown keys"

    # The credential

    def test_destination_is_stable_and_hides_secrets(self) -> None:
        channel, again = self.offline(), self.offline()
        destination = channel.destination()
        assert destination == again.destination()
        assert destination.key == again.destination().key
        assert destination.channel == self.name
        assert destination.target, "target is empty"
        self.assert_no_secret(channel, repr(destination), destination.target, destination.key, destination.account_key)

    def test_endpoints_pass_the_guard(self) -> None:
        channel = self.offline()
        assert channel.endpoints(), "endpoints is empty: the network guard would see nothing"
        for url in channel.endpoints():
            channel.toolbox.guard.check_url(url)

    def test_missing_keys_are_named(self) -> None:
        self.refused({})
        fields = channel_class(self.name).Config.model_fields
        for attribute, info in fields.items():
            key = str(info.validation_alias or info.alias or attribute)
            if info.is_required():
                error = self.refused({name: value for name, value in self.data.items() if name != key})
                assert f"data.{key}" in str(error), f"{key} is missing, and the error does not say so: {error}"

    def test_wrong_values_are_never_shown(self) -> None:
        """Whatever stands in a key: the channel opens, or says which key is wrong without its value."""
        for key in self.data:
            for value in ({"x": CANARY}, [[CANARY]], f"{CANARY}\r\nX: 1", f"{CANARY} é\u0436", 1.5, None, ""):
                error = self.opening_error({**self.data, key: value})
                if error is not None:
                    assert str(error), "the error says nothing"
                    assert CANARY not in everything_of(error), f"the error about {key} shows its value"

    def test_secrets_are_not_in_the_config_text(self) -> None:
        channel = self.offline()
        assert list(channel.secret_values()), "no secret is declared: use SecretStr"
        self.assert_no_secret(channel, repr(channel.config), str(channel.config), repr(channel.settings))

    # The lead

    def test_an_ordinary_lead_has_no_problems(self) -> None:
        assert list(self.offline().problems(self.lead(1))) == []

    @pytest.mark.parametrize("hostile", HOSTILE_LEADS)
    def test_hostile_lead_is_carried_as_text_or_refused_in_words(self, hostile: str) -> None:
        channel = self.offline()
        lead = self.lead(1, HOSTILE_LEADS[hostile])
        if problems := channel.problems(lead):
            assert all(problem.strip() for problem in problems), "a problem without words"
            return
        if not isinstance(channel, HttpChannel):
            return  # what it makes of the lead is proved over the socket below
        delivery = make_delivery(lead)
        for step in channel.steps:
            delivery = replace(delivery, done={**self.done, **delivery.done})
            if channel.needs(step, delivery):
                first, second = channel.build(step, [delivery]), channel.build(step, [delivery])
                assert first.content == second.content, "the same delivery must make the same body"
                assert_well_formed(first)
            delivery = replace(delivery, done={**delivery.done, step.name: "1001"})

    def test_hostile_leads_over_the_socket(self, sandbox: Sandbox) -> None:
        """Each ends as done once, or as refused in words: never as a crash, never as two."""
        leads = [self.lead(number, changes) for number, changes in enumerate(HOSTILE_LEADS.values(), 1)]

        async def run() -> dict[Any, Receipt]:
            async with self.connected(sandbox) as channel:
                sent = [lead for lead in leads if not channel.problems(lead)]
                return {lead.id: await self.send_one(channel, lead) for lead in sent}

        arrived = sandbox.judge.by_lead
        for lead_id, receipt in asyncio.run(run()).items():
            said = f"{list(HOSTILE_LEADS)[int(lead_id) - 1]}: {receipt!r}"
            assert isinstance(receipt, (Done, Rejected, Split)), said
            assert arrived(self.name)[str(lead_id)] == (1 if isinstance(receipt, Done) else 0), said

    # Over real sockets

    @pytest.fixture
    def sandbox(self) -> Iterator[Sandbox]:
        with running_sandbox([self.name], scale=VENDOR_SCALE) as box:
            yield box

    def test_a_lead_is_sent_once_through_all_steps(self, sandbox: Sandbox) -> None:
        async def run() -> None:
            async with self.connected(sandbox) as channel:
                delivery = self.delivery(self.lead(1))
                for step in channel.steps:
                    if not channel.needs(step, delivery):
                        continue
                    receipt = (await self.send_all(channel, step, [delivery]))[delivery.key]
                    assert isinstance(receipt, Done), f"{step.name}: {receipt!r}"
                    assert not receipt.open, f"{step.name}: {receipt.open!r}"
                    delivery = with_done(delivery, step, receipt)

        asyncio.run(run())
        assert sandbox.judge.by_lead(self.name) == {"1": 1}

    @pytest.mark.parametrize("fault", FAULT_TABLE)
    def test_fault_is_read_rightly(self, sandbox: Sandbox, fault: str) -> None:
        """An error that says "not executed" is true at the vendor; a Done is there; the rest is in doubt."""
        expected = {**FAULT_TABLE, **self.faults}[fault]
        if fault == "broken_answer" and self.broken_answer_is_done:
            expected = (Done,)

        async def run() -> Receipt:
            async with self.connected(sandbox) as channel:
                step, delivery = await self.at_main_step(channel, self.delivery(self.lead(1)))
                sandbox.faults.script(self.name, 1, [fault] * 5)
                return (await self.send_all(channel, step, [delivery]))[delivery.key]

        receipt = asyncio.run(run())
        if expected:
            assert isinstance(receipt, expected), f"{fault}: {receipt!r}"
        arrived = sandbox.judge.by_lead(self.name)["1"]
        if isinstance(receipt, Done):
            assert arrived == 1, f"{fault}: said to be done, and is not there"
        elif not isinstance(receipt, Ambiguous) and not (isinstance(receipt, Split) and receipt.executed_maybe):
            assert arrived == 0, f"{fault}: {receipt!r} means not executed, and it is there"

    def test_refused_connection_sends_nothing(self) -> None:
        with running_sandbox([self.name]) as box:
            data, settings = box.vendor(self.name).credential(), box.vendor(self.name).settings()

        async def run() -> Receipt:
            async with self.opened(data, settings) as channel:
                return await self.send_one(channel, self.lead(1))

        receipt = asyncio.run(run())
        assert isinstance(receipt, Transient), repr(receipt)

    def test_what_is_in_doubt_is_settled(self, sandbox: Sandbox) -> None:
        """After accept-then-time-out, in each step: a repeat makes no second one, or the vendor names what it has."""

        async def run() -> None:
            async with self.connected(sandbox) as channel:
                delivery = self.delivery(self.lead(1))
                for step in channel.steps:
                    if channel.needs(step, delivery):
                        sandbox.faults.script(self.name, 1, ["timeout"])
                        delivery = await self.settle(channel, step, delivery)
                        sandbox.faults.clear(self.name)

        asyncio.run(run())
        assert sandbox.judge.by_lead(self.name) == {"1": 1}

    async def settle(self, channel: Channel[Any, Any], step: Step, delivery: Delivery) -> Delivery:
        delivery = replace(delivery, context=await channel.prepare(step))
        receipt = (await self.send_all(channel, step, [delivery]))[delivery.key]
        if step == main_step(channel):
            assert isinstance(receipt, Ambiguous), repr(receipt)
        if isinstance(receipt, Ambiguous) and step.retransmit is Retransmit.IDEMPOTENT:
            receipt = (await self.send_all(channel, step, [delivery]))[delivery.key]
        if isinstance(receipt, Ambiguous) and step.retransmit is Retransmit.LOOKUP:
            await asyncio.sleep(step.looks[-1] / VENDOR_SCALE)
            finding = (await channel.find(step, [delivery]))[delivery.key]
            assert isinstance(finding, Found), f"{step.name}: {finding!r}"
            assert not finding.duplicates, f"{step.name}: {finding!r}"
            receipt = Done(finding.remote_id, parts=finding.parts)
        if step.retransmit is not Retransmit.BLIND:
            assert isinstance(receipt, Done), f"{step.name}: {receipt!r}"
        return with_done(delivery, step, receipt if isinstance(receipt, Done) else Done())

    def test_found_is_named_as_the_vendor_names_it(self, sandbox: Sandbox) -> None:
        """``find`` and ``send`` agree about the remote id; what was never sent is absent."""

        async def run() -> None:
            async with self.connected(sandbox) as channel:
                step, sent = await self.at_main_step(channel, self.delivery(self.lead(1)))
                receipt = (await self.send_all(channel, step, [sent]))[sent.key]
                assert isinstance(receipt, Done), repr(receipt)
                step, unsent = await self.at_main_step(channel, self.delivery(self.lead(2)))
                findings = await channel.find(step, [sent, unsent])
                absent = findings[unsent.key]
                assert not isinstance(absent, Found), repr(absent)
                if step.retransmit is Retransmit.LOOKUP:
                    found = findings[sent.key]
                    assert isinstance(found, Found), repr(found)
                    assert found.remote_id == receipt.remote_id == sandbox.judge.creations(self.name)[0].remote_id
                    assert isinstance(absent, Absent) == self.absence_is_provable, repr(absent)

        asyncio.run(run())

    def test_half_a_batch_is_no_success_for_the_rest(self, sandbox: Sandbox) -> None:
        async def run() -> dict[str, Receipt]:
            async with self.connected(sandbox) as channel:
                size = min(4, channel.batch_size(main_step(channel)))
                deliveries = [self.delivery(self.lead(n)) for n in range(1, size + 1)]
                batch = [(await self.at_main_step(channel, delivery))[1] for delivery in deliveries]
                sandbox.faults.script(self.name, 1, ["half_batch"] if size > 1 else [])
                return await self.send_all(channel, main_step(channel), batch)

        receipts = asyncio.run(run())
        arrived = sandbox.judge.by_lead(self.name)
        for number, receipt in enumerate(receipts.values(), 1):
            if isinstance(receipt, Done):
                assert arrived[str(number)] == 1, f"lead {number}: said to be done, and is not there"
            elif not isinstance(receipt, Ambiguous):
                assert arrived[str(number)] == 0, f"lead {number}: {receipt!r} means not executed, and it is there"

    def test_check_names_the_account_and_makes_nothing(self, sandbox: Sandbox) -> None:
        async def run() -> None:
            async with self.connected(sandbox) as channel:
                said = await channel.check()
                assert said.strip(), "check says nothing"
                self.assert_no_secret(channel, said)

        asyncio.run(run())
        assert sandbox.judge.creations(self.name) == []

    def test_a_wrong_secret_parks_the_credential(self, sandbox: Sandbox) -> None:
        vendor = sandbox.vendor(self.name)

        async def run() -> None:
            async with self.opened(self.spoil(vendor.credential()), vendor.settings()) as channel:
                if self.check_sees_secret:
                    with pytest.raises(Unusable) as caught:
                        await channel.check()
                    self.assert_no_secret(channel, everything_of(caught.value))
                receipt = await self.send_one(channel, self.lead(1))
                assert isinstance(receipt, Unusable), repr(receipt)

        asyncio.run(run())
        assert sandbox.judge.creations(self.name) == []
