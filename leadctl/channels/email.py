"""E-mail over SMTP: one message to all managers, with a verdict for each.

SMTP knows no key, so the Message-ID is ours and the same in every attempt, as are the date and the text: a
repeat collapses in many mailboxes (Exchange, Cyrus, Sieve), and shows as one thread in the others. A repeat goes
only to recipients that have not accepted it. "Delivered" is the word of the first server: a later bounce goes to
the sender's mailbox, out of our sight.
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from leadctl.channelkit.channel import Channel, ChannelConfig, ChannelSettings, Text, TextList, Toolbox
from leadctl.channelkit.fields import answers_text, email_address, multiline, phone_text, utm
from leadctl.channelkit.mailtext import Letter, Mailbox, parse_mailbox, plain_text, wire_address, write_letter
from leadctl.channelkit.smtp import Envelope, Phase, Refused, Reply, Server
from leadctl.channelkit.smtppool import SmtpPool
from leadctl.channelkit.smtpreplies import is_one_too_many, read_refusal
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, render
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.masking import clean
from leadctl.domain.model import Delivery, Destination, Done, Lead, Verdict

#: A lead is a few KB; servers take 25 MB. What is longer is cut, visibly, so that the HTML part stays whole.
MAX_TEXT = 30_000
#: RFC 5321: a server must take at least so many in one transaction.
MAX_RECIPIENTS = 100
#: However much ``[limits] scale`` shortens our own waits.
MIN_FINAL_SECONDS = 1.0
MIN_COMMAND_SECONDS = 5.0

_SUBJECT = "{{ labels.title }} {{ lead.id }}{% if lead.name %}: {{ lead.name }}{% endif %}"
_TEXT = """\
{% for label, value in rows %}
{{ label }}: {{ value }}
{% endfor %}
"""
_HTML = """\
<!doctype html><html lang="{{ locale }}"><head><meta charset="utf-8"></head><body>
{% if repeat %}<p><b>{{ repeat }}</b></p>{% endif %}

<table cellpadding="6" style="border-collapse:collapse;font-family:sans-serif">
{% for label, value in rows %}
<tr><th align="left" valign="top">{{ label }}</th><td style="white-space:pre-wrap">{{ value }}</td></tr>
{% endfor %}
</table></body></html>
"""
_HTML_OF_TEXT = """\
<!doctype html><html lang="{{ locale }}"><head><meta charset="utf-8"></head><body>
<div style="white-space:pre-wrap;font-family:sans-serif">{{ text }}</div></body></html>
"""


def _host(value: str) -> str:
    host = value.strip().lower()
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        host = ""
    if not re.fullmatch(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?", host):
        raise ValueError("expected the name of a mail server, like smtp.example.org")
    return host


def _sender(value: str) -> str:
    if parse_mailbox(value) is None:
        raise ValueError("expected leads@example.org, or a name and the address in angle brackets")
    return value


def _address(value: str) -> str:
    wire = wire_address(value.strip())
    if wire is None:
        raise ValueError("expected one e-mail address")
    return wire


def _addresses(values: list[str]) -> list[str]:
    unique: dict[str, str] = {}
    for number, value in enumerate(values, 1):
        wire = wire_address(value.strip())
        if wire is None:
            raise ValueError(f"entry {number} is not an e-mail address (names and brackets are not taken here)")
        unique.setdefault(wire.lower(), wire)
    if not 1 <= len(unique) <= MAX_RECIPIENTS:
        raise ValueError(f"expected 1 to {MAX_RECIPIENTS} addresses")
    return list(unique.values())


def _app_password(value: SecretStr) -> SecretStr:
    """Google shows app passwords as four groups of four; the spaces are not part of them."""
    text = value.get_secret_value().strip()
    return SecretStr("".join(text.split()) if re.fullmatch(r"\w{4}(?:\s\w{4}){3}", text) else text)


class EmailConfig(ChannelConfig):
    """``credentials.data``: the server, the log-in, and who gets the leads."""

    host: Annotated[str, AfterValidator(_host)]
    port: int = Field(ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = Field(
        description="starttls (587), tls (465), none (a local relay inside [network] allow_private)"
    )
    username: Text | None = None
    password: Annotated[SecretStr, AfterValidator(_app_password)] | None = Field(None, validate_default=True)
    sender: Annotated[str, AfterValidator(_sender)] = Field(alias="from")
    to: Annotated[TextList, AfterValidator(_addresses)]
    reply_to: Annotated[str, AfterValidator(_address)] | None = None

    @field_validator("username")
    @classmethod
    def _login(cls, value: str | None) -> str | None:
        if value and ("\x00" in value or clean(value, 1000) != value):
            raise ValueError("holds a control character or stray spaces")
        return value or None

    @field_validator("password")
    @classmethod
    def _both(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        password = value.get_secret_value() if value else ""
        if "\x00" in password:
            raise ValueError("holds a control character")
        if info.data.get("username") and not password:
            raise ValueError("is missing, although username is set")
        return value


TemplateText = Annotated[str, AfterValidator(check_template)]


class EmailSettings(ChannelSettings):
    """``credentials.settings``: what the message says. ``template`` is plain text."""

    subject: TemplateText | None = None
    template: TemplateText | None = None
    locale: Literal["ru", "en"] = "ru"


@dataclass(slots=True)
class _Tally:
    """What became of each recipient."""

    accepted: dict[str, str] = field(default_factory=dict)
    errors: dict[str, DeliveryError] = field(default_factory=dict)

    def fail(self, addresses: Sequence[str], error: DeliveryError) -> None:
        self.errors.update(dict.fromkeys(map(_part, addresses), error))

    def done(self) -> Done:
        """Raises the weightiest error where nobody has accepted the message."""
        if not self.accepted and self.errors:
            raise min(self.errors.values(), key=lambda error: _WEIGHT.index(type(error)))
        return Done(
            remote_id=next(iter(self.accepted.values()), None),
            parts=self.accepted,
            open={part: _as_open(error) for part, error in self.errors.items()},
        )


#: Which of several errors is raised: a doubt first, then what concerns more than this lead.
_WEIGHT = (Ambiguous, Unusable, LimitReached, Throttled, Transient, Rejected)


class EmailChannel(Channel[EmailConfig, EmailSettings]):
    """Delivers a lead as a message to the managers."""

    Config = EmailConfig
    Settings = EmailSettings
    spec = ChannelSpec(
        name="email",
        title="E-mail (SMTP)",
        docs="https://www.rfc-editor.org/rfc/rfc5321",
        steps=(Step("mail", Retransmit.IDEMPOTENT),),
        limits="set by the mail provider (Gmail 500 a day, Yandex 500 recipients a day); we send 5 messages/s at "
        "most, over 2 connections of 50 messages each",
        repeat="goes only to recipients that have not accepted it, with the same Message-ID, date and text",
        concurrency=2,
        # The log-in and the commands have 30 s each; the reply to the final dot 120 s, since a shorter wait
        # makes copies (https://docs.kumomta.com/reference/kumo/make_egress_path/data_processing_timeout/).
        request_timeout=180.0,
        errors={
            "connect, TLS, EHLO, AUTH, MAIL, RCPT or DATA breaks off": "Transient",
            "the connection breaks off after the final dot": "Ambiguous",
            "certificate not accepted, no STARTTLS offered": "Unusable",
            "421 4.7.0, and 421 or 450 to 452 that name a rate": "Throttled",
            "421 otherwise, 450, 451 (greylisting), 452, 454": "Transient",
            "452 4.5.3 too many recipients": "Transient",
            "554 at the greeting, any 5xx at EHLO, AUTH or MAIL": "Unusable",
            "530, 534, 535, 538, 5.7.30, 553 sender not owned": "Unusable",
            "550 5.4.5, 550 or 554 that name a quota": "LimitReached",
            "550 5.1.1, 551, 553 5.1.3 at RCPT": "Rejected",
            "550 5.7.1, 552, 554 at the message": "Rejected",
        },
        example_data={
            "host": "smtp.example.org",
            "port": 587,
            "security": "starttls",
            "username": "leads@example.org",
            "password": "abcd efgh ijkl mnop",
            "from": "Leads <leads@example.org>",
            "to": ["maria@example.org", "ivan@example.org"],
        },
        example_settings={"subject": "Lead {{ lead.id }}: {{ lead.name }}", "locale": "en"},
    )

    def __init__(self, config: EmailConfig, settings: EmailSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        sender = parse_mailbox(config.sender)
        if sender is None:
            raise ValueError("EmailConfig lets no such sender pass")
        self._from: Mailbox = sender
        # Bounces go to the mailbox that logs in; another envelope sender is refused by many (Yandex: 553).
        self._envelope_sender = wire_address(config.username or "") or sender.address
        self._pool = SmtpPool(self._server(), toolbox.guard, toolbox.clock.monotonic, self.spec.concurrency)

    def _server(self) -> Server:
        config, scale = self.config, self.toolbox.scale
        command = max(MIN_COMMAND_SECONDS, 30.0 / scale)
        return Server(
            host=config.host,
            port=config.port,
            security=config.security,
            username=config.username,
            password=config.password.get_secret_value() if config.password else "",
            connect_seconds=min(self.spec.connect_timeout, command),
            command_seconds=command,
            final_seconds=max(MIN_FINAL_SECONDS, 120.0 / scale),
        )

    def destination(self) -> Destination:
        config = self.config
        account = (config.host, config.username or "")
        to = ",".join(sorted(address.lower() for address in config.to))
        return Destination("email", account=account, parts=(*account, to), target=", ".join(config.to))

    def endpoints(self) -> Sequence[str]:
        scheme = {"starttls": "smtp+starttls", "tls": "smtps", "none": "smtp"}[self.config.security]
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return (f"{scheme}://{host}:{self.config.port}",)

    def buckets(self) -> Sequence[Bucket]:
        # No provider publishes a rate per second: their quotas are per day or hour and differ by plan. 5/s is
        # what two connections do without being taken for a flood; 20 keeps a typing error from becoming one.
        account = f"{self.config.host}\n{self.config.username or ''}"
        scope = hashlib.sha256(account.encode("utf-8", "replace")).hexdigest()[:16]
        return (Bucket(f"email:{scope}", Limit(rate=5, burst=5, documented=20)),)

    def secret_values(self) -> Iterator[str]:
        """The password, and as it travels in AUTH: some servers repeat a command that they do not like."""
        yield from super().secret_values()
        if self.config.password:
            password = self.config.password.get_secret_value().encode("utf-8", "replace")
            login = (self.config.username or "").encode("utf-8", "replace")
            yield base64.b64encode(password).decode()
            yield base64.b64encode(b"\x00".join((b"", login, password))).decode()

    def needs(self, step: Step, delivery: Delivery) -> bool:
        return bool(self._missing(delivery))

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        (delivery,) = batch
        tally = _Tally()
        digest: str | None = None
        try:
            missing = self._missing(delivery)
            for utf8 in (False, True):
                if group := [address for address in missing if self._is_utf8(address) is utf8]:
                    message = self.message(delivery, utf8=utf8)
                    digest = digest or hashlib.sha256(message).hexdigest()
                    await self._carry(tally, message, group, utf8=utf8)
            done = tally.done()
        except DeliveryError as error:
            error.request_digest = digest
            raise
        return Verdict({delivery.key: done}, request_digest=digest)

    async def check(self) -> str:
        try:
            offered = await self._pool.probe(self._envelope_sender)
        except Refused as refused:
            raise self._read(refused) from None
        config = self.config
        who = f"logged in as {config.username}" if config.username else "without log-in"
        size = f"SIZE {offered['size']}" if offered.get("size") else "no SIZE"
        utf8 = "SMTPUTF8" if "smtputf8" in offered else "no SMTPUTF8"
        return clean(f"{config.host}: {who}, sender {self._envelope_sender} accepted; {size}, {utf8}", 300)

    async def close(self) -> None:
        await self._pool.close()

    def message(self, delivery: Delivery, *, utf8: bool = False) -> bytes:
        """The message as it is sent: the same bytes in every attempt. Pure.

        ``utf8``: the one for recipients whose local part is not ASCII; each shows only its own kind in To.
        """
        lead, labels = delivery.lead, LABELS[self.settings.locale]
        reply_to = self.config.reply_to or wire_address(email_address(lead) or "")
        subject = render(self.settings.subject or _SUBJECT, lead, labels=labels)
        text, html = self._bodies(delivery, labels)
        return write_letter(
            Letter(
                key=delivery.key,
                sender=self._from,
                to=[address for address in self.config.to if self._is_utf8(address) is utf8],
                reply_to=reply_to if reply_to and (utf8 or reply_to.isascii()) else None,
                subject=clean(subject) or f"{labels['title']} {lead.id}",
                date=delivery.first_at,
                lead_id=clean(str(lead.id), 100),
                text=plain_text(text),
                html=plain_text(html),
            )
        )

    def _bodies(self, delivery: Delivery, labels: Mapping[str, str]) -> tuple[str, str]:
        lead = delivery.lead
        shared: dict[str, Any] = {"labels": labels, "locale": self.settings.locale}
        repeat = f"{labels['repeat']} ({delivery.key})" if delivery.possible_repeat else ""
        if self.settings.template:
            text = render(self.settings.template, lead, **shared)
            text = f"{repeat}\n\n{text}" if repeat else text
            return text, render(_HTML_OF_TEXT, lead, html=True, text=text, **shared)
        rows = list(_rows(lead, labels))
        text = render(_TEXT, lead, rows=rows, **shared)
        html = render(_HTML, lead, html=True, rows=rows, repeat=repeat, **shared)
        return (f"{repeat}\n\n{text}" if repeat else text), html

    async def _carry(self, tally: _Tally, message: bytes, group: Sequence[str], *, utf8: bool) -> None:
        """One message to one group; again for those that the server takes only in another transaction."""
        waiting = list(group)
        while waiting:
            try:
                outcome = await self._pool.transact(Envelope(self._envelope_sender, waiting, message, utf8))
            except Refused as refused:
                return tally.fail(waiting, self._read(refused))
            except DeliveryError as error:
                return tally.fail(waiting, error)
            accepted, waiting = outcome.accepted, []
            for address, reply in outcome.replies.items():
                if address in accepted and outcome.final is not None:
                    tally.accepted[_part(address)] = _queue_id(outcome.final)
                elif accepted and is_one_too_many(reply):
                    waiting.append(address)
                else:
                    tally.fail([address], self._read(Refused(Phase.RCPT, reply), address))
        return None

    def _read(self, refused: Refused, recipient: str = "") -> DeliveryError:
        said = self.toolbox.secrets.hide(refused.reply.shown)
        return read_refusal(refused, self.config.host, said, recipient)

    def _missing(self, delivery: Delivery) -> list[str]:
        return [address for address in self.config.to if _part(address) not in delivery.done]

    def _is_utf8(self, address: str) -> bool:
        return not (address.isascii() and self._from.address.isascii() and self._envelope_sender.isascii())


def _as_open(error: DeliveryError) -> DeliveryError:
    """What is said of one recipient while another has the message: tried again, unless the refusal is final."""
    if isinstance(error, (Rejected, Transient, Ambiguous)):
        return error
    return Transient(error.message, vendor_code=error.vendor_code, answer=error.answer)


def _part(address: str) -> str:
    return f"rcpt:{address.lower()}"


def _queue_id(reply: Reply) -> str:
    """The only thing that a mail administrator can search: the queue id, else the whole reply."""
    match = re.search(r"queued as <?([^\s<>]+)|\bid=([^\s<>]+)", reply.text)
    if match:
        return clean(match[1] or match[2], 100)
    return clean(reply.text.removeprefix(reply.enhanced), 100)


def _rows(lead: Lead, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Label and value of everything that the lead has."""
    values = {
        "id": clean(str(lead.id), 100),
        "name": clean(lead.name, 1000),
        "phone": phone_text(lead),
        "email": clean(lead.email, 254),
        "comment": multiline(lead.comment, MAX_TEXT),
        "answers": multiline(answers_text(lead), MAX_TEXT),
        "page_url": clean(lead.page_url, 2000),
        "utm": "\n".join(f"{key}: {value}" for key, value in utm(lead).items()),
        "created_at": lead.created_at.strftime("%Y-%m-%d %H:%M UTC") if lead.created_at else "",
    }
    for name, value in values.items():
        if value:
            yield labels[name], f"\n{value}" if "\n" in value and name != "comment" else value
