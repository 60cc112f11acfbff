"""E-mail against the emulated server: TLS, recipients, connections, and the server's own strictness."""

import asyncio
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from leadctl.channelkit import smtppool
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.model import Done
from leadctl.sandbox.email import LOGIN, PASSWORD, EmailVendor
from leadctl.sandbox.server import running_sandbox
from leadctl.testing.fakes import FakeClock
from tests.support.channels import make_delivery
from tests.support.email import numbered, opened, send, serving
from tests.support.smtp import CUT, ScriptedSmtp, scripted


@contextmanager
def certificates(folder: Path, host: str = "127.0.0.1") -> Iterator[ssl.SSLContext]:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        yield context


class TestTls:
    @pytest.mark.parametrize("implicit", [True, False])
    def test_message_travels_encrypted(self, tmp_path: Path, implicit: bool) -> None:
        async def run(context: ssl.SSLContext) -> None:
            async with serving(tls=context, implicit_tls=implicit) as vendor, opened(vendor.credential()) as channel:
                for number in (1, 2):
                    await send(channel, numbered(number))
                assert vendor.judge.by_lead("email") == {"1": 1, "2": 1}
                assert len(vendor.connections) == 1
                assert "SMTPUTF8" in await channel.check()

        with certificates(tmp_path) as context:
            asyncio.run(run(context))

    @pytest.mark.parametrize("implicit", [True, False])
    def test_certificate_of_another_host_is_refused(self, tmp_path: Path, implicit: bool) -> None:
        async def run(context: ssl.SSLContext) -> None:
            async with serving(tls=context, implicit_tls=implicit) as vendor, opened(vendor.credential()) as channel:
                with pytest.raises(Unusable, match="certificate"):
                    await send(channel, make_delivery())
                assert vendor.messages == []

        with certificates(tmp_path, "mail.example.org") as context:
            asyncio.run(run(context))

    def test_cut_after_the_dot_is_in_doubt_over_tls_too(self, tmp_path: Path) -> None:
        async def run(context: ssl.SSLContext) -> None:
            async with serving(tls=context) as vendor, opened(vendor.credential()) as channel:
                vendor.faults.script("email", 42, ["reset"])
                with pytest.raises(Ambiguous):
                    await send(channel, make_delivery())
                await send(channel, make_delivery())
                assert vendor.judge.by_lead("email") == {"42": 1}
                assert len(vendor.judge.twins("email")) == 1
                first, second = vendor.messages
                assert first == second

        with certificates(tmp_path) as context:
            asyncio.run(run(context))


class TestRecipients:
    def test_each_has_a_verdict_and_only_the_open_ones_are_asked_again(self) -> None:
        to = ["maria@example.org", "busy@example.org", "refused@example.org"]

        async def run() -> None:
            async with serving() as vendor, opened({**vendor.credential(), "to": to}) as channel:
                first = await send(channel, make_delivery())
                assert set(first.parts) == {"rcpt:maria@example.org"}
                assert first.remote_id == first.parts["rcpt:maria@example.org"]
                assert {part: type(error) for part, error in first.open.items()} == {
                    "rcpt:busy@example.org": Transient,
                    "rcpt:refused@example.org": Rejected,
                }
                vendor.commands.clear()
                second = await send(channel, make_delivery(done=first.parts))
                assert set(second.parts) == {"rcpt:busy@example.org"}
                assert vendor.commands[1:] == ["RCPT TO:<busy@example.org>", "RCPT TO:<refused@example.org>"]
                with pytest.raises(Rejected, match="refused@example"):
                    await send(channel, make_delivery(done={**first.parts, **second.parts}))
                carried = [creation.detail.partition(":")[0] for creation in vendor.judge.creations("email")]
                assert carried == ["maria@example.org", "busy@example.org"]
                assert len({creation.key for creation in vendor.judge.creations("email")}) == 1

        asyncio.run(run())

    @pytest.mark.parametrize(
        ("to", "kind"),
        [
            (["refused@example.org"], Rejected),
            (["refused@example.org", "refused2@example.org"], Rejected),
            (["refused@example.org", "busy@example.org"], Transient),
        ],
    )
    def test_all_refused_is_the_error_itself(self, to: list[str], kind: type[DeliveryError]) -> None:
        async def run() -> None:
            async with serving() as vendor, opened({**vendor.credential(), "to": to}) as channel:
                with pytest.raises(DeliveryError) as caught:
                    await send(channel, make_delivery())
                assert type(caught.value) is kind
                await send(channel, make_delivery(done={f"rcpt:{to[0]}": "4F"})) if kind is Transient else None
                assert len(vendor.connections) == 1, "a refusal closes no connection"

        asyncio.run(run())

    def test_greylisted_is_tried_again(self) -> None:
        async def run() -> None:
            async with serving(greylist=True) as vendor, opened(vendor.credential()) as channel:
                with pytest.raises(Transient, match="Greylisted"):
                    await send(channel, make_delivery())
                assert not (await send(channel, make_delivery())).open

        asyncio.run(run())

    def test_one_too_many_goes_in_another_transaction(self) -> None:
        to = [f"m{number}@example.org" for number in range(5)]

        async def run() -> None:
            async with serving(max_recipients=2) as vendor, opened({**vendor.credential(), "to": to}) as channel:
                done = await send(channel, make_delivery())
                assert set(done.parts) == {f"rcpt:{address}" for address in to}
                assert not done.open
                assert len(set(done.parts.values())) == 3
                assert len({creation.key for creation in vendor.judge.creations("email")}) == 1

        asyncio.run(run())

    def test_doubt_in_the_second_transaction_leaves_the_first(self) -> None:
        async def run() -> Done:
            replies = {"RCPT": ["250 ok", "452 4.5.3 too many", "250 ok"], "BODY": ["250 ok", CUT]}
            to = ["maria@example.org", "ivan@example.org"]
            async with scripted(replies) as smtp, opened(smtp.credential(to=to)) as channel:
                return await send(channel, make_delivery())

        done = asyncio.run(run())
        assert set(done.parts) == {"rcpt:maria@example.org"}
        assert [type(error) for error in done.open.values()] == [Ambiguous]

    def test_daily_limit_ends_the_credential(self) -> None:
        async def run() -> None:
            async with serving(daily_recipients=2) as vendor, opened(vendor.credential()) as channel:
                await send(channel, numbered(1))
                with pytest.raises(LimitReached):
                    await send(channel, numbered(2))

        asyncio.run(run())

    def test_non_ascii_local_part_needs_smtputf8(self) -> None:
        to = ["maria@example.org", "мария@пример.рф"]

        async def run(offered: bool) -> tuple[Done, list[str]]:
            async with serving(smtputf8=offered) as vendor, opened({**vendor.credential(), "to": to}) as channel:
                done = await send(channel, make_delivery())
                return done, [command for command in vendor.commands if command.startswith("MAIL")]

        done, mails = asyncio.run(run(offered=True))
        assert set(done.parts) == {"rcpt:maria@example.org", "rcpt:мария@xn--e1afmkfd.xn--p1ai"}
        assert ["SMTPUTF8" in mail for mail in mails] == [False, True]
        done, _ = asyncio.run(run(offered=False))
        assert set(done.parts) == {"rcpt:maria@example.org"}
        assert [type(error) for error in done.open.values()] == [Rejected]


class TestConnections:
    def test_one_is_kept_and_replaced_after_so_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(smtppool, "MESSAGES_PER_CONNECTION", 2)

        async def run() -> int:
            async with scripted() as smtp, opened(smtp.credential()) as channel:
                for number in range(5):
                    await send(channel, numbered(number))
                return smtp.connections

        assert asyncio.run(run()) == 3

    def test_at_most_two_at_once(self) -> None:
        async def run() -> None:
            async with serving() as vendor, opened(vendor.credential()) as channel:
                await asyncio.gather(*(send(channel, numbered(number)) for number in range(10)))
                assert len(vendor.connections) == 2
                assert sum(vendor.judge.by_lead("email").values()) == 10

        asyncio.run(run())

    @pytest.mark.parametrize("said", [CUT, "421 4.3.2 idle too long"])
    @pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
    def test_kept_one_that_was_cut_is_replaced_at_once(self, verb: str, said: str) -> None:
        usual = "354 go on" if verb == "DATA" else "250 ok"

        async def run() -> ScriptedSmtp:
            async with scripted({verb: [usual, said, usual]}) as smtp, opened(smtp.credential()) as channel:
                await send(channel, numbered(1))
                await send(channel, numbered(2))
                return smtp

        smtp = asyncio.run(run())
        assert smtp.connections == 2
        assert len(smtp.messages) == 2

    def test_doubt_is_not_repeated_by_the_pool(self) -> None:
        async def run() -> ScriptedSmtp:
            async with scripted({"BODY": ["250 ok", CUT, "250 ok"]}) as smtp, opened(smtp.credential()) as channel:
                await send(channel, numbered(1))
                with pytest.raises(Ambiguous):
                    await send(channel, numbered(2))
                return smtp

        assert len(asyncio.run(run()).messages) == 2

    @pytest.mark.parametrize("said", ["550 5.7.1 spam message rejected", "421 4.3.0 closing"])
    def test_refused_message_is_not_repeated_by_the_pool(self, said: str) -> None:
        async def run() -> ScriptedSmtp:
            async with scripted({"BODY": ["250 ok", said, "250 ok"]}) as smtp, opened(smtp.credential()) as channel:
                await send(channel, numbered(1))
                with pytest.raises((Rejected, Transient)):
                    await send(channel, numbered(2))
                return smtp

        assert len(asyncio.run(run()).messages) == 2

    def test_long_idle_one_is_not_used(self) -> None:
        clock = FakeClock()

        async def run() -> int:
            async with scripted() as smtp, opened(smtp.credential(), clock=clock) as channel:
                await send(channel, numbered(1))
                clock.elapsed += smtppool.IDLE_SECONDS + 1
                await send(channel, numbered(2))
                return smtp.connections

        assert asyncio.run(run()) == 2

    def test_server_that_counts_messages_per_connection(self) -> None:
        async def run() -> None:
            async with serving(messages_per_connection=2) as vendor, opened(vendor.credential()) as channel:
                for number in range(5):
                    await send(channel, numbered(number))
                assert len(vendor.judge.by_lead("email")) == 5

        asyncio.run(run())


class TestSandbox:
    """The emulated server is as strict as a real one."""

    @pytest.fixture
    def client(self) -> Iterator[tuple[smtplib.SMTP, EmailVendor]]:
        with running_sandbox(["email"]) as box:
            vendor = box.vendor("email")
            assert isinstance(vendor, EmailVendor)
            client = smtplib.SMTP(vendor.host, vendor.port, timeout=5)
            client.ehlo()
            yield client, vendor
            client.close()

    HEAD = b"From: <leads@example.org>\r\nDate: x\r\nMessage-ID: <lc-abc123-42-7@example.org>\r\nSubject: x\r\n"

    def test_log_in_comes_before_mail(self, client: tuple[smtplib.SMTP, EmailVendor]) -> None:
        assert client[0].docmd("MAIL FROM:<leads@example.org>")[0] == 530

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (HEAD + b"\r\nx\r\n", 250),
            (HEAD + b"X-Lead-Id: 42\r\n\r\n" + b"x" * 999 + b"\r\n", 500),
            (HEAD + b"Subject: twice\r\n\r\nx\r\n", 554),
            (HEAD.replace(b"Date", b"Dote") + b"\r\nx\r\n", 554),
            (HEAD.replace(b"Subject: x", b"Subject: \xd0\xb6") + b"\r\nx\r\n", 554),
            (HEAD.replace(b"Subject: x", b"no header") + b"\r\nx\r\n", 554),
            (HEAD.replace(b"<leads@", b"<boss@") + b"\r\nx\r\n", 553),
            (HEAD.replace(b"<lc-abc123-42-7@", b"<a b@") + b"\r\nx\r\n", 554),
        ],
    )
    def test_message_is_examined(self, client: tuple[smtplib.SMTP, EmailVendor], message: bytes, code: int) -> None:
        smtp, vendor = client
        smtp.login(LOGIN, PASSWORD)
        assert smtp.docmd("MAIL FROM:<boss@example.org>")[0] == 553
        assert smtp.docmd("MAIL FROM:<leads@example.org>")[0] == 250
        assert smtp.docmd("RCPT TO:<maria@example.org>")[0] == 250
        assert smtp.docmd("DATA")[0] == 354
        smtp.send(message + b".\r\n")
        assert smtp.getreply()[0] == code
        assert vendor.judge.by_lead("email") == ({"42": 1} if code == 250 else {})

    def test_bare_line_feed_ends_the_connection(self, client: tuple[smtplib.SMTP, EmailVendor]) -> None:
        smtp, _ = client
        smtp.send(b"NOOP\n")
        with suppress(smtplib.SMTPServerDisconnected, ConnectionError):  # the reset may overtake the reply
            assert smtp.getreply()[0] == 521
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
            smtp.noop()

    @pytest.mark.parametrize(
        ("kind", "error"),
        [
            ("rate_limit", Throttled), ("reset_before", Transient), ("unauthorized", Unusable),
            ("server_error", Transient), ("error_body", Transient), ("reject", Rejected), ("bad_gateway", Ambiguous),
            ("bad_gateway_after", Ambiguous), ("reset", Ambiguous), ("timeout", Ambiguous),
            ("broken_answer", Ambiguous),
        ],
    )  # fmt: skip
    def test_fault_that_is_switched_on(self, kind: str, error: type[DeliveryError]) -> None:
        async def run() -> None:
            async with serving() as vendor, opened(vendor.credential()) as channel:
                vendor.faults.always("email", kind)
                with pytest.raises(DeliveryError) as caught:
                    await send(channel, make_delivery())
                assert type(caught.value) is error
                assert vendor.judge.by_lead("email")["42"] == (
                    kind in ("timeout", "reset", "broken_answer", "bad_gateway_after")
                )
                vendor.faults.clear("email")
                await send(channel, make_delivery())
                assert vendor.judge.by_lead("email")["42"] == 1

        asyncio.run(run())

    def test_half_of_the_recipients(self) -> None:
        async def run() -> None:
            async with serving() as vendor, opened(vendor.credential()) as channel:
                vendor.faults.always("email", "half_batch")
                first = await send(channel, make_delivery())
                assert len(first.parts) == len(first.open) == 1
                second = await send(channel, make_delivery(done=first.parts))
                assert not second.open

        asyncio.run(run())
