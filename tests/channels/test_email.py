"""E-mail without a socket: the credential, the message, and what refusals mean; then the contract."""

import base64
import re
from collections.abc import Callable, Mapping
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import Any, ClassVar

import pytest

from leadctl.channelkit.mailtext import HEADER_NAMES, encoded_words, message_id, parse_mailbox, wire_address
from leadctl.channelkit.smtp import Phase, Refused, Reply
from leadctl.channelkit.smtpreplies import is_one_too_many, read_refusal
from leadctl.channels.email import EmailChannel
from leadctl.domain.errors import (
    DeliveryError,
    InvalidCredential,
    LimitReached,
    Rejected,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.model import Delivery
from leadctl.sandbox.email import examine
from leadctl.testing.contract import ChannelContract
from leadctl.testing.hostile import HOSTILE_LEADS, RENDERED
from tests.support.channels import make_delivery, make_lead, open_channel

DATA: dict[str, Any] = {
    "host": "smtp.example.org", "port": 587, "security": "starttls", "username": "leads@example.org",
    "password": "canary-0123456789", "from": "Сайт <leads@example.org>",
    "to": ["maria@example.org", "Ivan@Example.org"],
}  # fmt: skip


def channel_of(settings: Mapping[str, Any] | None = None, **changes: Any) -> EmailChannel:
    channel = open_channel("email", {**DATA, **changes}, settings)
    assert isinstance(channel, EmailChannel)
    return channel


def head_of(message: bytes) -> list[str]:
    """The header lines, unfolded."""
    head = message.partition(b"\r\n\r\n")[0].decode("utf-8")
    return head.replace("\r\n ", " ").split("\r\n")


def parsed(message: bytes) -> EmailMessage:
    return message_from_bytes(message, policy=policy.default)


def body_of(message: bytes, kind: str) -> str:
    part = parsed(message).get_body((kind,))
    assert isinstance(part, EmailMessage)
    return str(part.get_content()).replace("\r\n", "\n")


class TestCredential:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"host": "smtp example"}, "data.host"),
            ({"host": "http://smtp.example.org"}, "data.host"),
            ({"host": "smtp.example.org/x"}, "data.host"),
            ({"host": ""}, "data.host"),
            ({"port": 0}, "data.port"),
            ({"port": "many"}, "data.port"),
            ({"security": "ssl"}, "data.security"),
            ({"password": None}, "data.password"),
            ({"password": ""}, "data.password"),
            ({"username": "a\r\nb"}, "data.username"),
            ({"from": "nobody"}, "data.from"),
            ({"from": "A <a@example.org>, B <b@example.org>"}, "data.from"),
            ({"from": "A\r\nBcc: x <a@example.org\r\n>"}, "data.from"),
            ({"to": []}, "data.to"),
            ({"to": ""}, "data.to"),
            ({"to": ["maria@example.org", "x y@example.org"]}, "data.to"),
            ({"to": ["<maria@example.org>"]}, "data.to"),
            ({"to": "maria@example.org\r\nRCPT TO:<x@evil.example>"}, "data.to"),
            ({"to": [f"m{n}@example.org" for n in range(101)]}, "data.to"),
            ({"reply_to": "x@evil.example\r\nBcc: y@evil.example"}, "data.reply_to"),
        ],
    )
    def test_wrong_value_is_named(self, changes: dict[str, Any], named: str) -> None:
        with pytest.raises(InvalidCredential, match=f"^{re.escape(named)}: "):
            channel_of(**changes)

    @pytest.mark.parametrize(
        "settings", [{"locale": "de"}, {"template": "{{ lead.name"}, {"subject": "{% if %}"}, {"subject": ["x"]}]
    )
    def test_wrong_setting_is_named(self, settings: dict[str, Any]) -> None:
        with pytest.raises(InvalidCredential, match=rf"^settings\.{next(iter(settings))}: "):
            channel_of(settings)

    def test_destination_is_host_login_and_sorted_recipients(self) -> None:
        destination = channel_of(host="SMTP.example.org").destination()
        assert destination.account == ("smtp.example.org", "leads@example.org")
        assert destination.parts == ("smtp.example.org", "leads@example.org", "ivan@example.org,maria@example.org")
        assert destination.target == "maria@example.org, Ivan@example.org"
        assert destination == channel_of(to="maria@example.org; Ivan@Example.org").destination()

    def test_recipients_are_one_each_and_in_idna(self) -> None:
        config = channel_of(to="Maria@пример.рф, maria@ПРИМЕР.рф, ivan@example.org").config
        assert config.to == ["Maria@xn--e1afmkfd.xn--p1ai", "ivan@example.org"]

    @pytest.mark.parametrize(
        ("written", "used"),
        [
            ("abcd efgh ijkl mnop", "abcdefghijklmnop"),
            ("abcd\u00a0efgh\u00a0ijkl\u00a0mnop", "abcdefghijklmnop"),
            (" canary-1\n", "canary-1"),
            ("my long pass phrase here", "my long pass phrase here"),
        ],
    )
    def test_spaces_of_an_app_password_are_not_part_of_it(self, written: str, used: str) -> None:
        password = channel_of(password=written).config.password
        assert password is not None
        assert password.get_secret_value() == used

    def test_auth_as_it_travels_is_a_secret_too(self) -> None:
        secrets = set(channel_of().secret_values())
        assert base64.b64encode(b"\0leads@example.org\0canary-0123456789").decode() in secrets
        assert base64.b64encode(b"canary-0123456789").decode() in secrets

    @pytest.mark.parametrize(
        ("changes", "url"),
        [
            ({}, "smtp+starttls://smtp.example.org:587"),
            ({"security": "tls", "port": "465"}, "smtps://smtp.example.org:465"),
            ({"security": "none", "host": "127.0.0.1", "port": 25}, "smtp://127.0.0.1:25"),
            ({"host": "почта.рф"}, "smtp+starttls://xn--80a1acny.xn--p1ai:587"),
            ({"host": "[2001:4860::8888]"}, "smtp+starttls://[2001:4860::8888]:587"),
        ],
    )
    def test_endpoint_says_how_it_is_secured(self, changes: dict[str, Any], url: str) -> None:
        assert list(channel_of(**changes).endpoints()) == [url]

    @pytest.mark.parametrize("changes", [{"host": "10.0.0.1"}, {"host": "8.8.8.8", "security": "none"}])
    def test_guard_sees_the_address(self, changes: dict[str, Any]) -> None:
        with pytest.raises(InvalidCredential, match="not allowed"):
            channel_of(**changes)


class TestMessage:
    def test_headers_are_those_of_the_sheet(self) -> None:
        lines = head_of(channel_of().message(make_delivery(make_lead(name=""))))
        subject = base64.b64encode("Новый лид 42".encode()).decode()
        assert lines[:-1] == [
            f"From: =?utf-8?b?{base64.b64encode('Сайт'.encode()).decode()}?= <leads@example.org>",
            "To: maria@example.org, Ivan@example.org",
            "Reply-To: anna@example.com",
            f"Subject: =?utf-8?b?{subject}?=",
            "Date: Sun, 01 Mar 2026 10:00:00 +0000",
            "Message-ID: <lc-abc123-42-7@example.org>",
            "Auto-Submitted: auto-generated",
            "X-Auto-Response-Suppress: All",
            "X-Lead-Id: 42",
            "MIME-Version: 1.0",
        ]
        assert lines[-1].startswith("Content-Type: multipart/alternative;")

    def test_every_attempt_has_the_same_bytes(self) -> None:
        delivery = make_delivery()
        later = make_delivery(done={"rcpt:maria@example.org": "4F"})
        assert channel_of().message(delivery) == channel_of().message(later)

    def test_default_texts_hold_the_whole_lead(self) -> None:
        message = channel_of().message(make_delivery())
        text, html = body_of(message, "plain"), body_of(message, "html")
        for part in ("Анна Ким", "+79000000001", "Перезвоните после 18:00", "budget: 100 000", "utm_medium: cpc",
                     "https://example.com/p", "2026-03-01 10:00 UTC"):  # fmt: skip
            assert part in text
            assert part in html
        assert "Имя: Анна Ким" in text
        assert "Name: Анна Ким" in body_of(channel_of({"locale": "en"}).message(make_delivery()), "plain")

    def test_templates_of_the_settings(self) -> None:
        settings = {"subject": "Lead {{ lead.id }}\nfor you", "template": "<b>{{ lead.name }}</b>\n{{ lead.comment }}"}
        message = channel_of(settings).message(make_delivery(make_lead(name="A & B", comment="{{ 7*7 }}\r\n\x00.")))
        assert parsed(message)["Subject"] == "Lead 42 for you"
        assert body_of(message, "plain") == "<b>A & B</b>\n{{ 7*7 }}\n ."
        assert "&lt;b&gt;A &amp; B&lt;/b&gt;\n{{ 7*7 }}" in body_of(message, "html")

    @pytest.mark.parametrize("settings", [{}, {"template": "{{ lead.id }}"}])
    def test_possible_repeat_is_said(self, settings: dict[str, str]) -> None:
        message = channel_of({"locale": "en", **settings}).message(make_delivery(possible_repeat=True))
        for kind in ("plain", "html"):
            assert "Possible repeat (lc-abc123-42-7)" in body_of(message, kind)
        again = channel_of({"locale": "en", **settings}).message(make_delivery())
        assert "Possible repeat" not in body_of(again, "plain")

    @pytest.mark.parametrize(
        ("data", "lead", "expected"),
        [
            ({}, "anna@example.com", "anna@example.com"),
            ({}, "anna@пример.рф", "anna@xn--e1afmkfd.xn--p1ai"),
            ({}, "анна@example.com", None),
            ({}, "anna@example.com, x@evil.example", None),
            ({}, "anna@example.com\r\nBcc: x@evil.example", None),
            ({}, "anna@example\uff0ccom@evil.example", None),
            ({}, "", None),
            ({"reply_to": "office@example.org"}, "anna@example.com", "office@example.org"),
        ],
    )
    def test_reply_to_only_where_it_is_one_address(self, data: dict[str, Any], lead: str, expected: str | None) -> None:
        assert parsed(channel_of(**data).message(make_delivery(make_lead(email=lead))))["Reply-To"] == expected

    @pytest.mark.parametrize("hostile", HOSTILE_LEADS)
    def test_hostile_lead_makes_no_header(self, hostile: str) -> None:
        message = channel_of().message(make_delivery(make_lead(**HOSTILE_LEADS[hostile])))
        names = [line.partition(":")[0] for line in head_of(message)]
        assert set(names) <= set(HEADER_NAMES)
        assert len(names) == len(set(names))
        assert message.isascii()
        assert max(map(len, message.split(b"\r\n"))) <= 998
        assert b"\n" not in message.replace(b"\r\n", b"")
        assert b"\r" not in message.replace(b"\r\n", b"")
        assert RENDERED not in body_of(message, "plain") + body_of(message, "html")
        assert examine(message, utf8=False)[1] is None

    def test_markup_is_text_in_html(self) -> None:
        html = body_of(channel_of().message(make_delivery(make_lead(**HOSTILE_LEADS["markup"]))), "html")
        assert "&lt;b&gt;x&lt;/b&gt;" in html
        assert "<b>x</b>" not in html

    def test_lead_ids_of_any_kind_are_shown(self) -> None:
        lead = make_lead(id="заявка 7\r\nBcc: x")
        message = channel_of().message(make_delivery(lead, key=f"lc-abc123-{lead.id}-7"))
        values = dict(line.split(": ", 1) for line in head_of(message))
        assert str(make_header(decode_header(values["X-Lead-Id"]))) == "заявка 7 Bcc: x"
        assert re.fullmatch(r"<lc-[0-9a-f]{32}@example\.org>", values["Message-ID"])

    def test_non_ascii_local_part_has_a_message_of_its_own(self) -> None:
        channel = channel_of(to=["maria@example.org", "мария@example.org"])
        assert parsed(channel.message(make_delivery()))["To"] == "maria@example.org"
        utf8 = channel.message(make_delivery(), utf8=True)
        assert "To: мария@example.org" in head_of(utf8)
        assert examine(utf8, utf8=True)[1] is None


class TestText:
    @pytest.mark.parametrize(
        "text", ["Анна", "a" * 500, "\U0001f469\u200d\U0001f467" * 40, "=?UTF-8?Q?=0A?=Bcc: x", '"<,']
    )
    def test_encoded_words_fit_and_decode(self, text: str) -> None:
        words = encoded_words(text)
        assert all(len(word) <= 75 for word in words)
        assert str(make_header(decode_header("\r\n ".join(words)))) == text

    @pytest.mark.parametrize(
        ("key", "domain", "expected"),
        [
            ("lc-abc123-42-7", "example.org", "<lc-abc123-42-7@example.org>"),
            ("lc-abc123-42-7-1", "example.org", "<lc-abc123-42-7-1@example.org>"),
            ("lc-a b-7", "example.org", "<lc-[0-9a-f]{32}@example.org>"),
            ("lc-a..b-7", "example.org", "<lc-[0-9a-f]{32}@example.org>"),
            ("lc-a>@b-7", "example.org", "<lc-[0-9a-f]{32}@example.org>"),
            ("lc-" + "a" * 60, "example.org", "<lc-[0-9a-f]{32}@example.org>"),
        ],
    )
    def test_message_id_is_a_function_of_the_key(self, key: str, domain: str, expected: str) -> None:
        assert re.fullmatch(expected, message_id(key, domain))
        assert message_id(key, domain) == message_id(key, domain) != message_id(key + "1", domain)

    @pytest.mark.parametrize(
        ("text", "address", "name"),
        [
            ("leads@example.org", "leads@example.org", ""),
            ("Sales <leads@example.org>", "leads@example.org", "Sales"),
            ('"Sales, Inc." <leads@example.org>', "leads@example.org", "Sales, Inc."),
            ("Сайт <leads@пример.рф>", "leads@xn--e1afmkfd.xn--p1ai", "Сайт"),
        ],
    )
    def test_mailbox(self, text: str, address: str, name: str) -> None:
        mailbox = parse_mailbox(text)
        assert mailbox is not None
        assert (mailbox.address, mailbox.name) == (address, name)

    @pytest.mark.parametrize(
        "text", ["", "@", "a@", "a@b..c", f"a@{'b' * 64}.org", "a@x\uff20y.org", "a b@example.org"]
    )
    def test_what_is_no_address(self, text: str) -> None:
        assert wire_address(text) is None


REFUSALS: list[tuple[Phase, int, str, type[DeliveryError]]] = [
    (Phase.CONNECT, 554, "5.7.1 Service unavailable; client host blocked", Unusable),
    (Phase.CONNECT, 421, "4.3.2 Service not available", Transient),
    (Phase.CONNECT, 421, "too many concurrent connections", Throttled),
    (Phase.HELLO, 502, "5.5.2 not implemented", Unusable),
    (Phase.STARTTLS, 454, "4.7.0 TLS not available due to local problem", Transient),
    (Phase.AUTH, 454, "4.7.0 Temporary authentication failure", Transient),
    (Phase.AUTH, 504, "5.5.4 Unrecognized authentication type", Unusable),
    (Phase.AUTH, 534, "5.7.9 Application-specific password required", Unusable),
    (Phase.AUTH, 535, "5.7.8 Username and Password not accepted", Unusable),
    (Phase.AUTH, 535, "5.7.0 NEOBHODIM parol prilozheniya", Unusable),
    (Phase.AUTH, 538, "5.7.11 Encryption required", Unusable),
    (Phase.AUTH, 550, "5.7.30 Basic authentication is not supported for Client Submission.", Unusable),
    (Phase.MAIL, 421, "4.7.0 Try again later, closing connection", Throttled),
    (Phase.MAIL, 450, "4.2.1 Peak SMTP relay limit exceeded", Throttled),
    (Phase.MAIL, 450, "4.7.1 Error: too much mail from 10.1.1.1", Throttled),
    (Phase.MAIL, 452, "4.3.1 Insufficient system storage", Transient),
    (Phase.MAIL, 530, "5.7.0 Must issue a STARTTLS command first", Unusable),
    (Phase.MAIL, 530, "5.7.57 Client not authenticated to send mail", Unusable),
    (Phase.MAIL, 550, "5.4.5 Daily user sending limit exceeded", LimitReached),
    (Phase.MAIL, 550, "message sending for this account is disabled", Unusable),
    (Phase.MAIL, 552, "5.3.4 Message size exceeds fixed limit", Rejected),
    (Phase.MAIL, 553, "5.7.1 Sender address rejected: not owned by auth user.", Unusable),
    (Phase.MAIL, 555, "5.5.4 Unsupported option", Unusable),
    (Phase.RCPT, 421, "4.3.2 Shutting down", Transient),
    (Phase.RCPT, 450, "4.7.1 Greylisted, try again", Transient),
    (Phase.RCPT, 451, "4.5.1 The recipient has exceeded their message rate limit. Try again later.", Transient),
    (Phase.RCPT, 452, "4.2.2 mailbox full", Transient),
    (Phase.RCPT, 452, "4.5.3 too many recipients", Transient),
    (Phase.RCPT, 550, "5.1.1 No such user", Rejected),
    (Phase.RCPT, 550, "5.2.1 The email account that you tried to reach is over quota", Rejected),
    (Phase.RCPT, 550, "5.4.5 Daily sending limit exceeded", LimitReached),
    (Phase.RCPT, 551, "5.1.6 User not local", Rejected),
    (Phase.RCPT, 553, "5.1.3 Bad recipient address syntax", Rejected),
    (Phase.RCPT, 553, "5.7.1 <x>: Sender address rejected: not owned by user y", Unusable),
    (Phase.RCPT, 554, "5.7.1 Relay access denied", Rejected),
    (Phase.DATA, 451, "4.7.1 Greylisting in action", Transient),
    (Phase.DATA, 503, "5.5.1 Bad sequence of commands", Rejected),
    (Phase.DOT, 421, "4.3.0 closing", Transient),
    (Phase.DOT, 451, "4.3.0 queue file write error", Transient),
    (Phase.DOT, 500, "5.6.0 Line too long", Rejected),
    (Phase.DOT, 521, "5.5.2 bare <LF> received", Rejected),
    (Phase.DOT, 550, "5.7.1 spam message rejected", Rejected),
    (Phase.DOT, 550, "5.7.26 Unauthenticated email is not accepted from this domain", Unusable),
    (Phase.DOT, 550, "You have exceeded your hourly limit, try again later", LimitReached),
    (Phase.DOT, 552, "5.3.4 Message too big: limit is 25 MB", Rejected),
    (Phase.DOT, 554, "5.7.1 Message rejected under suspicion of SPAM", Rejected),
    (Phase.DOT, 554, "5.7.0 Your message quota is used up", LimitReached),
]


class TestRefusals:
    @pytest.mark.parametrize(("phase", "code", "text", "kind"), REFUSALS)
    def test_table(self, phase: Phase, code: int, text: str, kind: type[DeliveryError]) -> None:
        reply = Reply.of(code, text)
        error = read_refusal(Refused(phase, reply), "smtp.example.org", reply.shown)
        assert type(error) is kind
        assert error.vendor_code == f"{code} {reply.enhanced}".strip()
        assert text[:20] in error.message

    def test_only_one_too_many_is_another_transaction(self) -> None:
        assert is_one_too_many(Reply(452, "4.5.3 Too many recipients"))
        assert not is_one_too_many(Reply(452, "4.2.2 mailbox full"))
        assert not is_one_too_many(Reply(550, "5.5.3 Too many recipients"))

    def test_reply_is_one_clean_line(self) -> None:
        reply = Reply.of(550, "5.7.1 first\n5.7.1 \x1b[31msecond\udcff")
        assert reply.shown.isprintable()
        assert reply.vendor_code == "550 5.7.1"

    def test_secret_in_a_reply_is_hidden(self) -> None:
        channel = channel_of()
        echoed = base64.b64encode(b"\0leads@example.org\0canary-0123456789").decode()
        error = channel._read(Refused(Phase.AUTH, Reply(501, f"5.5.2 cannot decode {echoed}")))
        assert echoed not in error.message + error.answer


class TestNeeds:
    @pytest.mark.parametrize(
        ("done", "needed"),
        [
            ({}, True),
            ({"rcpt:maria@example.org": "4F"}, True),
            ({"rcpt:maria@example.org": "4F", "rcpt:ivan@example.org": "50"}, False),
        ],
    )
    def test_only_while_a_recipient_is_missing(self, done: dict[str, str], needed: bool) -> None:
        channel = channel_of()
        build: Callable[..., Delivery] = make_delivery
        assert channel.needs(channel.steps[0], build(done=done)) is needed


class TestContract(ChannelContract):
    name = "email"
    data = DATA
    bad_data: ClassVar = {"password": "wrong-0123456789"}
