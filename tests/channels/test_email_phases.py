"""How far a message came, and how a connection is made: against a server that does what no good one does."""

import asyncio
import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.smtp import Envelope, Phase, Refused
from leadctl.domain.errors import Ambiguous, DeliveryError, Transient, Unusable
from leadctl.domain.model import Done
from leadctl.sandbox.email import LOGIN, PASSWORD
from tests.support.channels import make_delivery
from tests.support.email import numbered, opened, send
from tests.support.smtp import CUT, HANG, ScriptedSmtp, scripted

#: Larger than what the system's buffers take at once.
LARGE = Envelope(LOGIN, ["maria@example.org"], (b"x" * 70 + b"\r\n") * 400_000)


def outcome_of(
    script: Mapping[str, Any], data: Mapping[str, Any] | None = None, **server: Any
) -> tuple[Any, ScriptedSmtp]:
    """One send against a script: Done or the error, and the server as it was left."""

    async def run() -> tuple[Any, ScriptedSmtp]:
        async with scripted(script, **server) as smtp, opened(smtp.credential(**(data or {}))) as channel:
            try:
                return await send(channel, make_delivery()), smtp
            except DeliveryError as error:
                return error, smtp

    return asyncio.run(run())


class TestPhases:
    @pytest.mark.parametrize("verb", ["GREETING", "EHLO", "AUTH", "MAIL", "RCPT", "DATA"])
    @pytest.mark.parametrize("said", [CUT, "no SMTP at all", "354 what", "25\r"])
    def test_before_the_dot_nothing_was_sent(self, verb: str, said: str) -> None:
        if (verb, said) == ("DATA", "354 what"):
            said = "250 what"
        if (verb, said) in {("RCPT", "354 what"), ("MAIL", "354 what")}:
            said = "999 what"
        error, smtp = outcome_of({verb: said})
        assert type(error) is Transient, repr(error)
        assert "nothing was sent" in error.message
        assert smtp.messages == []

    @pytest.mark.parametrize("said", [CUT, HANG, "no SMTP at all", "354 what", "25\r", "199 what"])
    def test_after_the_dot_nobody_knows(self, said: str) -> None:
        error, smtp = outcome_of({"BODY": said})
        assert type(error) is Ambiguous, repr(error)
        assert len(smtp.messages) == 1

    def test_cut_while_the_body_is_written_was_not_sent(self) -> None:
        """The receiver reads slowly and drops out: the dot, which is written last, never left."""

        async def run() -> None:
            async with scripted(cut_in_body=100_000) as smtp, opened(smtp.credential()) as channel:
                with pytest.raises(Transient, match="nothing was sent"):
                    await channel._pool.transact(LARGE)

        asyncio.run(run())

    def test_refusal_in_the_middle_of_the_body_is_heard(self) -> None:
        async def run() -> None:
            early = "552 5.3.4 too big"
            async with scripted(early=early, cut_in_body=100_000) as smtp, opened(smtp.credential()) as channel:
                with pytest.raises(Refused) as caught:
                    await channel._pool.transact(LARGE)
                assert (caught.value.phase, caught.value.reply.shown) == (Phase.DATA, early)

        asyncio.run(run())

    def test_silence_at_mail_ends(self) -> None:
        async def run() -> None:
            async with scripted({"MAIL": HANG}) as smtp, opened(smtp.credential()) as channel:
                server = replace(channel._pool._server, command_seconds=0.2)
                channel._pool._server = server
                with pytest.raises(Transient, match="nothing was sent"):
                    await send(channel, make_delivery())

        asyncio.run(run())

    def test_nobody_listens(self) -> None:
        async def run() -> None:
            async with scripted() as smtp:
                data = smtp.credential()
            async with opened(data) as channel:
                with pytest.raises(Transient, match="nothing was sent"):
                    await send(channel, make_delivery())

        asyncio.run(run())

    def test_cancelled_send_closes_its_connection(self) -> None:
        async def run() -> list[str]:
            async with scripted({"BODY": [HANG, "250 ok"]}) as smtp, opened(smtp.credential(), scale=1.0) as channel:
                task = asyncio.ensure_future(send(channel, numbered(1)))
                while not smtp.messages:  # noqa: ASYNC110 the server's list has no event
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await send(channel, numbered(2))
                return [str(smtp.connections)]

        assert asyncio.run(run()) == ["2"]


class TestConnecting:
    def test_guard_parks_an_address_found_by_resolving(self) -> None:
        async def private(host: str, port: int) -> list[str]:
            return ["10.1.2.3"]

        async def run() -> None:
            async with opened(
                {**ScriptedSmtp().credential(port=25), "host": "mail.example.org", "security": "tls"}
            ) as channel:
                channel._pool._guard = NetworkGuard((), private)
                await send(channel, make_delivery())

        with pytest.raises(Unusable, match=r"resolves to 10\.1\.2\.3") as caught:
            asyncio.run(run())
        assert caught.value.address_not_allowed

    def test_password_is_not_sent_in_clear_text(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not even to a host that the operator opened, unless it is this machine."""
        monkeypatch.setattr(ipaddress.IPv4Address, "is_loopback", property(lambda address: False))
        error, smtp = outcome_of({})
        assert type(error) is Unusable
        assert "clear text" in error.message
        assert smtp.verbs() == ["EHLO"]

    def test_no_starttls_is_no_reason_to_go_on(self) -> None:
        error, smtp = outcome_of({}, {"security": "starttls"})
        assert type(error) is Unusable
        assert smtp.verbs() == ["EHLO"]

    def test_starttls_refused_for_now(self) -> None:
        offers = "250-mail.example.org\r\n250 STARTTLS"
        error, smtp = outcome_of({"EHLO": offers, "STARTTLS": "454 4.7.0 not available"}, {"security": "starttls"})
        assert type(error) is Transient
        assert smtp.verbs() == ["EHLO", "STARTTLS"]

    @pytest.mark.parametrize(
        ("offered", "verbs"), [("PLAIN LOGIN CRAM-MD5", ["AUTH"]), ("CRAM-MD5 LOGIN", ["AUTH", PASSWORD])]
    )
    def test_one_mechanism_is_tried_once(self, offered: str, verbs: list[str]) -> None:
        replies = ["334 UGFzc3dvcmQ6", "535 5.7.8 no"] if "PLAIN" not in offered else ["535 5.7.8 no"]
        error, smtp = outcome_of({"EHLO": f"250-mail.example.org\r\n250 AUTH {offered}", "AUTH": replies})
        assert type(error) is Unusable
        assert "app password" in error.message
        assert len(smtp.commands) == 1 + len(verbs)

    @pytest.mark.parametrize("offers", ["250 mail.example.org", "250-mail.example.org\r\n250 AUTH CRAM-MD5"])
    def test_nothing_to_log_in_with(self, offers: str) -> None:
        assert type(outcome_of({"EHLO": offers})[0]) is Unusable

    def test_unknown_parameter_is_dropped_once(self) -> None:
        done, smtp = outcome_of({"MAIL": ["555 5.5.4 Unsupported option: SIZE", "250 ok"]})
        assert isinstance(done, Done)
        mails = [command for command in smtp.commands if command.startswith("MAIL")]
        assert " SIZE=" in mails[0]
        assert mails[1] == "MAIL FROM:<leads@example.org>"

    def test_leading_dots_are_doubled_and_lines_are_crlf(self) -> None:
        async def run() -> bytes:
            async with scripted() as smtp, opened(smtp.credential()) as channel:
                message = b"X-Lead-Id: 1\r\n\r\n.\r\n..a\r\n"
                await channel._pool.transact(Envelope(LOGIN, ["maria@example.org"], message))
                return smtp.messages[0]

        assert asyncio.run(run()) == b"X-Lead-Id: 1\r\n\r\n..\r\n...a\r\n.\r\n"
