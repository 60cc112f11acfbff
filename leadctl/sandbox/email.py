"""An emulated submission server (aiosmtpd): one mailbox that logs in and may send.

Faults, where SMTP can have them. The lead is known only when the message is there, so a fault that is scripted for
a lead is met at the final dot; one that is switched on for the vendor is met where it belongs:

================== ==============================================================================
timeout            the message is accepted, the final dot is never answered
reset              accepted, and cut before the 250
broken_answer      accepted, then half a reply line and a cut
bad_gateway_after  accepted, then a line that is not SMTP
bad_gateway        not accepted, a line that is not SMTP
reset_before       cut at MAIL (scripted: at the dot, not accepted)
rate_limit         421 4.7.0 at MAIL (scripted: at the dot)
unauthorized       535 at AUTH, 530 at MAIL (scripted: 535 at the dot)
server_error       451 at the dot
error_body         452 4.3.1 at the dot
reject             550 5.7.1 at the dot
half_batch         every second recipient is refused with 450 (scripted: 451 at the dot)
================== ==============================================================================
"""

import asyncio
import hmac
import itertools
import logging
import re
import ssl
from collections import Counter
from collections.abc import Mapping
from email.header import decode_header, make_header
from typing import Any, ClassVar

from aiosmtpd.smtp import MISSING, SMTP, AuthResult, Envelope, LoginPassword, Session

from leadctl.sandbox.judge import AFTER, Creation, Faults, Judge
from leadctl.sandbox.vendor import HANG_SECONDS, Vendor

# aiosmtpd warns at every log-in that it sets a deprecated attribute of its own.
logging.getLogger("mail.log").setLevel(logging.ERROR)

LOGIN = "leads@example.org"
PASSWORD = "sandbox-app-password"  # noqa: S105 a password of the emulated server
#: What a free mailbox may carry: Yandex's recipients a message, sweb.ru's messages a connection.
MAX_RECIPIENTS = 35
MESSAGES_PER_CONNECTION = 100
#: Recipients a day (Google Workspace, Microsoft 365), times ``scale``.
DAILY_RECIPIENTS = 10_000
MAX_SIZE = 25 * 1024 * 1024
_LONGEST_LINE = 998
_ONCE = ("from", "date", "message-id", "subject")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_KEY = re.compile(r"<lc-[^-]+-(?P<lead>.+?)-[^-]+(?:-\d+)?@")

#: The reply to the final dot, by fault of BEFORE; the message is not accepted.
REFUSALS: Mapping[str, str] = {
    "rate_limit": "421 4.7.0 Try again later, closing connection",
    "server_error": "451 4.3.0 Error: queue file write error",
    "unauthorized": "535 5.7.8 Authentication credentials invalid",
    "reject": "550 5.7.1 Message rejected under suspicion of SPAM",
    "error_body": "452 4.3.1 Insufficient system storage",
    "half_batch": "451 4.3.0 Error: only half of it could be kept",
}
_NOT_SMTP = b"<html><head><title>502 Bad Gateway</title></head></html>\r\n"


class EmailVendor(Vendor):
    """The server. The attributes may be changed before, and the limits also after, ``start``."""

    name = "email"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {"server_error": ("delivered", "failed")}
    #: Speaks TLS with this; ``implicit_tls`` from the first byte, else after STARTTLS.
    tls: ssl.SSLContext | None = None
    implicit_tls = False
    smtputf8 = True
    greylist = False
    max_recipients = MAX_RECIPIENTS
    messages_per_connection = MESSAGES_PER_CONNECTION
    host = ""
    port = 0

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.daily_recipients = int(DAILY_RECIPIENTS * scale)
        self.connections: set[_Connection] = set()
        #: Every message as it was accepted, and every command line, for tests.
        self.messages: list[bytes] = []
        self.commands: list[str] = []
        self._server: asyncio.Server | None = None
        self._queue_ids = itertools.count(0x4F00A1)
        #: Message-ID → recipients that have it.
        self._known: dict[str, set[str]] = {}
        self._seen: Counter[str] = Counter()
        self._today = 0

    async def start(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        implicit = self.tls if self.implicit_tls else None
        self._server = await loop.create_server(lambda: _Connection(self, loop), host, 0, ssl=implicit)
        self.host, self.port = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.cut()
        await asyncio.sleep(0)

    def credential(self) -> Mapping[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "security": "none" if self.tls is None else "tls" if self.implicit_tls else "starttls",
            "username": LOGIN,
            "password": PASSWORD,
            "from": f"Leads <{LOGIN}>",
            "to": ["maria@example.org", "ivan@example.org"],
        }

    def settings(self) -> Mapping[str, Any]:
        return {"locale": "en"}

    def recipient_refusal(self, address: str, before: int) -> str | None:
        """The refusal of one recipient; ``before`` are already in this transaction."""
        local = address.partition("@")[0].lower()
        self._seen[address] += 1
        if local.startswith("refused"):
            return f"550 5.1.1 <{address}>: Recipient address rejected: User unknown in virtual mailbox table"
        if before >= self.max_recipients:
            return "452 4.5.3 Error: too many recipients"
        if self._today + before >= self.daily_recipients:
            return "550 5.4.5 Daily sending limit exceeded"
        if local.startswith("busy") and self._seen[address] == 1:
            return "452 4.2.2 The mailbox is busy, try again later"
        if self.greylist and self._seen[address] == 1:
            return f"451 4.7.1 <{address}>: Recipient address rejected: Greylisted, try again"
        if self.faults.standing(self.name) == "half_batch" and before % 2:
            return "450 4.2.1 The mailbox is temporarily unavailable"
        return None

    def keep(self, envelope: Envelope, headers: Mapping[str, str]) -> str:
        """Accept the message: the judge is told, and whether every recipient has it already."""
        content = bytes(envelope.original_content or b"")
        key = headers["message-id"]
        recipients = {address.lower() for address in envelope.rcpt_tos}
        known = self._known.setdefault(key, set())
        twin = recipients <= known
        known |= recipients
        queue_id = f"{next(self._queue_ids):X}"
        detail = f"{', '.join(sorted(recipients))}: {readable(headers['subject'])}"
        self.judge.created(Creation(self.name, lead_of(headers), key, queue_id, detail, twin))
        self.messages.append(content)
        self._today += len(recipients)
        return f"250 2.0.0 Ok: queued as {queue_id}"


class _Connection(SMTP):
    """One client. Stricter than aiosmtpd: CR LF only, log-in before MAIL, a sender that the login owns."""

    def __init__(self, vendor: EmailVendor, loop: asyncio.AbstractEventLoop) -> None:
        self.vendor = vendor
        self._carried = 0
        self._last = b""
        super().__init__(
            self,
            loop=loop,
            hostname="sandbox.example.org",
            ident="ESMTP",
            data_size_limit=MAX_SIZE,
            enable_SMTPUTF8=vendor.smtputf8,
            tls_context=None if vendor.implicit_tls else vendor.tls,
            require_starttls=vendor.tls is not None and not vendor.implicit_tls,
            auth_require_tls=vendor.tls is not None and not vendor.implicit_tls,
            authenticator=self._check_login,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.vendor.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.vendor.connections.discard(self)
        if self.transport is not None:
            super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """A bare LF is how one message is smuggled inside another: Postfix refuses it as well."""
        whole = self._last + data
        self._last = data[-1:] if data.endswith(b"\r") else b""
        if _BARE.search(whole.removesuffix(b"\r")):
            self._say(b"521 5.5.2 sandbox.example.org Error: bare <LF> received\r\n")
            self.cut()
            return
        super().data_received(data)

    async def handle_exception(self, error: Exception) -> str:
        """A bug of the sandbox, said to the client."""
        return f"451 4.3.0 Error: {type(error).__name__}"

    def cut(self) -> None:
        """Break the connection off, without a word."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.abort()

    def _say(self, line: bytes) -> None:
        if isinstance(self.transport, asyncio.WriteTransport):
            self.transport.write(line)

    def _check_login(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: LoginPassword
    ) -> AuthResult:
        del server, session, envelope, mechanism
        refused = self.vendor.faults.standing(self.vendor.name) == "unauthorized"
        known = hmac.compare_digest(login.password, PASSWORD.encode()) and login.login == LOGIN.encode()
        return AuthResult(success=known and not refused, handled=False, auth_data=login)

    async def handle_EHLO(  # noqa: N802 aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        del server, envelope
        session.host_name = hostname
        return [*responses[:-1], "250-PIPELINING", "250-ENHANCEDSTATUSCODES", responses[-1]]

    async def handle_MAIL(  # noqa: N802 aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        del server
        vendor = self.vendor
        vendor.judge.request(vendor.name)
        vendor.commands.append(f"MAIL FROM:<{address}> {' '.join(options)}".strip())
        standing = vendor.faults.standing(vendor.name)
        if standing == "reset_before":
            await self._cut_for_good()
        if standing == "rate_limit" or self._carried >= vendor.messages_per_connection:
            self._close_soon()
            return REFUSALS["rate_limit"]
        if not session.authenticated or standing == "unauthorized":
            return "530 5.7.0 Authentication required"
        if address.lower() != LOGIN:
            return "553 5.7.1 Sender address rejected: not owned by auth user."
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(  # noqa: N802 aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> Any:
        del server, session
        self.vendor.commands.append(f"RCPT TO:<{address}>")
        if not address.isascii() and not envelope.smtp_utf8:
            return "553 5.6.7 Address requires SMTPUTF8"
        if refusal := self.vendor.recipient_refusal(address, len(envelope.rcpt_tos)):
            return refusal
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> Any:  # noqa: N802 aiosmtpd's name
        del server, session
        vendor = self.vendor
        self._carried += 1
        headers, complaint = examine(bytes(envelope.original_content or b""), utf8=envelope.smtp_utf8)
        if complaint:
            return complaint
        kind = vendor.faults.take(vendor.name, [lead_of(headers)])
        if kind == "half_batch" and vendor.faults.standing(vendor.name) == kind:
            kind = None  # its recipients were halved
        if kind == "reset_before":
            await self._cut_for_good()
        if kind == "rate_limit":
            self._close_soon()
        if kind is not None and kind in REFUSALS:
            return REFUSALS[kind]
        accepted = vendor.keep(envelope, headers) if kind is None or kind in AFTER else ""
        return accepted if kind is None else await self._spoil(kind)

    async def _spoil(self, kind: str) -> Any:
        """Whatever became of the message: the client hears nothing that it can read."""
        if kind == "timeout":
            await asyncio.sleep(HANG_SECONDS)
        elif kind == "broken_answer":
            self._say(b"25")
        elif kind in ("bad_gateway", "bad_gateway_after"):
            self._say(_NOT_SMTP)
        if isinstance(self.transport, asyncio.WriteTransport) and kind != "reset":
            self.transport.close()
        return await self._cut_for_good(flush=kind != "reset")

    async def _cut_for_good(self, *, flush: bool = False) -> Any:
        """Cut, and wait for the end of this handler, which aiosmtpd cancels when the connection is lost."""
        if not flush:
            self.cut()
        await asyncio.sleep(HANG_SECONDS)
        return MISSING

    def _close_soon(self) -> None:
        """After the reply that is about to be given."""
        if isinstance(self.transport, asyncio.WriteTransport):
            self.loop.call_later(0.01, self.transport.close)


def examine(content: bytes, *, utf8: bool) -> tuple[dict[str, str], str | None]:
    """The headers in lower case, and why a strict server refuses the message, or None."""
    head, found, _ = content.partition(b"\r\n\r\n")
    lines = content.split(b"\r\n")
    if any(len(line) > _LONGEST_LINE for line in lines):
        return {}, "500 5.6.0 Line too long (see RFC5321 4.5.3.1.6)"
    if not found or (not utf8 and not content.isascii()):
        return {}, "554 5.6.0 Message is not 7-bit, or has no body"
    names: Counter[str] = Counter()
    headers: dict[str, str] = {}
    last = ""
    for line in head.decode("utf-8", "replace").split("\r\n"):
        if line[:1] in (" ", "\t") and last and line.strip():
            headers[last] += line
            continue
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[!-9;-~]+", name):
            return {}, "554 5.6.0 Message header is malformed"
        last = name.lower()
        names[last] += 1
        headers[last] = value.strip()
    if wrong := [name for name in _ONCE if names[name] != 1]:
        return {}, f"554 5.6.0 Message must have exactly one {wrong[0]} header"
    if LOGIN not in headers["from"]:
        return {}, "553 5.7.1 Sender address rejected: not owned by auth user."
    if not re.fullmatch(r"<[^\s<>@]+@[^\s<>@]+>", headers["message-id"]):
        return {}, "554 5.6.0 Message-ID is malformed"
    return headers, None


def readable(value: str) -> str:
    """A header as text, encoded words decoded."""
    return str(make_header(decode_header(value)))


def lead_of(headers: Mapping[str, str]) -> str:
    """The shown id of the lead, else the one in the travelling key."""
    shown = headers.get("x-lead-id")
    if shown:
        return readable(shown)
    match = _KEY.match(headers.get("message-id", ""))
    return match["lead"] if match else ""
