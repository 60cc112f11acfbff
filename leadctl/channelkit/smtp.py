"""SMTP sessions that know how far a message came.

The commands are driven one by one over aiosmtplib, since what may be done after a failure depends on one fact:
was the final dot handed to the connection? Before it the receiver must drop the message; after it, without a
reply, nobody knows (RFC 1047). The dot is therefore written apart from the body, once the body has left.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import cast

import aiosmtplib

from leadctl.channelkit.network import AddressNotAllowed, NetworkGuard
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Transient, Unusable
from leadctl.domain.masking import clean

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")
_LEADING_DOT = re.compile(rb"(?m)^\.")


class Phase(StrEnum):
    """How far a session came. Only ``DOT`` leaves a doubt."""

    CONNECT = "connecting"
    HELLO = "EHLO"
    STARTTLS = "STARTTLS"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    DOT = "the final dot"
    RESET = "RSET"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said: the code, and the text of all its lines."""

    code: int
    text: str

    @classmethod
    def of(cls, code: int, text: str) -> "Reply":
        return cls(code, text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))

    @property
    def enhanced(self) -> str:
        """The enhanced code of RFC 3463 ("5.1.1"), or nothing."""
        match = _ENHANCED.match(self.text)
        return match.group() if match else ""

    @property
    def vendor_code(self) -> str:
        return f"{self.code} {self.enhanced}".rstrip()

    @property
    def shown(self) -> str:
        """As one line for people."""
        return clean(f"{self.code} {self.text}", 300)


class Refused(Exception):
    """The server answered a command, or the message, with a 4xx or 5xx."""

    def __init__(self, phase: Phase, reply: Reply) -> None:
        super().__init__(f"{phase}: {reply.code}")
        self.phase = phase
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Server:
    """Where to connect to and how. ``security``: ``starttls``, ``tls`` or ``none``."""

    host: str
    port: int
    security: str
    username: str | None = None
    password: str = field(default="", repr=False)
    #: Seconds: one connect; all until logged in, and again all until the final dot; the final dot's reply.
    connect_seconds: float = 10.0
    command_seconds: float = 30.0
    final_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Envelope:
    """One transaction. ``utf8``: an address in it needs SMTPUTF8."""

    sender: str
    recipients: Sequence[str]
    message: bytes = field(repr=False)
    utf8: bool = False


@dataclass(frozen=True, slots=True)
class Transacted:
    """The reply to each RCPT, and to the message; ``final`` is None where every recipient was refused."""

    replies: Mapping[str, Reply]
    final: Reply | None

    @property
    def accepted(self) -> list[str]:
        return [address for address, reply in self.replies.items() if reply.code < 400]


class SmtpSession:
    """One connection. Raises Refused for what the server said, else Transient or Ambiguous by the phase."""

    def __init__(self, server: Server, tls: ssl.SSLContext) -> None:
        self.phase = Phase.CONNECT
        self.messages = 0
        self.idle_since = 0.0
        #: False from a transaction's first command until its end: such a connection is not used again.
        self.clean = False
        self._server = server
        self._tls = tls
        self._smtp = aiosmtplib.SMTP()
        self._loopback = False

    @classmethod
    async def open(cls, server: Server, tls: ssl.SSLContext, guard: NetworkGuard) -> "SmtpSession":
        """Connect to an address that the guard allows, secure the connection, log in."""
        session = cls(server, tls)
        try:
            async with session._deadline():
                await session._connect(guard)
                await session._hello()
                await session._login()
        except BaseException:
            session.abort()
            raise
        session.clean = True
        return session

    @property
    def alive(self) -> bool:
        return self._smtp.is_connected

    @property
    def extensions(self) -> Mapping[str, str]:
        """What the server offered last, names in lower case."""
        return self._smtp.esmtp_extensions

    async def transact(self, envelope: Envelope) -> Transacted:
        """Carry one message to those recipients that the server accepts."""
        self.clean = False
        try:
            outcome = await self._transact(envelope)
        except Refused as refused:
            if refused.reply.code != 421 and self.alive:
                await self._recover()
            raise
        if outcome.final is None:
            await self._recover()
        self.clean = self.alive
        return outcome

    async def probe(self, sender: str) -> None:
        """Ask whether the sender is accepted; nothing is sent."""
        self.clean = False
        async with self._deadline():
            await self._mail(sender, ())
            with self._at(Phase.RESET):
                await self._command(b"RSET")
        self.clean = self.alive

    async def quit(self) -> None:
        """Say goodbye and close."""
        with suppress(aiosmtplib.SMTPException, OSError):
            await self._smtp.execute_command(b"QUIT", timeout=min(2.0, self._server.command_seconds))
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        transport = self._smtp.transport
        self._smtp.close()
        if transport is not None:
            cast("asyncio.WriteTransport", transport).abort()

    async def _connect(self, guard: NetworkGuard) -> None:
        server = self._server
        with self._at(Phase.CONNECT):
            try:
                addresses = await guard.addresses(server.host, server.port, clear=server.security == "none")
            except AddressNotAllowed as error:
                raise Unusable(str(error), address_not_allowed=True) from None
            connection = await _connected(addresses, server.port, server.connect_seconds)
            try:
                self._loopback = ipaddress.ip_address(connection.getpeername()[0]).is_loopback
                self._smtp = aiosmtplib.SMTP(
                    hostname=server.host,
                    sock=connection,
                    use_tls=server.security == "tls",
                    start_tls=False,
                    tls_context=self._tls,
                    local_hostname=_address_literal(connection),
                    timeout=server.command_seconds,
                )
                await self._smtp.connect()
            except BaseException:
                connection.close()
                raise

    async def _hello(self) -> None:
        with self._at(Phase.HELLO):
            await self._smtp.ehlo()
        if self._server.security != "starttls":
            return
        if "starttls" not in self.extensions:
            raise Unusable(f"{self._server.host} does not offer STARTTLS, and leadctl does not go on in clear text")
        with self._at(Phase.STARTTLS):
            await self._smtp.starttls(server_hostname=self._server.host)
        with self._at(Phase.HELLO):
            await self._smtp.ehlo()

    async def _login(self) -> None:
        """One mechanism, once: each more would be a failed log-in more, on the way to a lock-out."""
        server = self._server
        if server.username is None:
            return
        if server.security == "none" and not self._loopback:
            raise Unusable(f"{server.host}: the password is not sent in clear text; set security to starttls or tls")
        offered = self._smtp.server_auth_methods
        with self._at(Phase.AUTH):
            if "plain" in offered:
                await self._smtp.auth_plain(server.username, server.password)
            elif "login" in offered:
                await self._smtp.auth_login(server.username, server.password)
            else:
                raise Unusable(f"{server.host} offers neither AUTH PLAIN nor AUTH LOGIN: it cannot be logged in to")

    async def _transact(self, envelope: Envelope) -> Transacted:
        async with self._deadline():
            await self._mail(envelope.sender, self._parameters(envelope))
            replies = {address: await self._rcpt(address) for address in envelope.recipients}
            if all(reply.code >= 400 for reply in replies.values()):
                return Transacted(replies, None)
            with self._at(Phase.DATA):
                ready = await self._command(b"DATA")
                if ready.code != 354:
                    raise self._lost(f"it answered DATA with {ready.code}")
        return Transacted(replies, await self._body(envelope.message))

    def _parameters(self, envelope: Envelope) -> Sequence[bytes]:
        parameters = [f"SIZE={len(envelope.message)}".encode()] if "size" in self.extensions else []
        if envelope.utf8:
            if "smtputf8" not in self.extensions:
                self.clean = True
                raise Rejected(
                    f"{self._server.host} takes no address with non-ASCII letters before the @ (no SMTPUTF8)",
                    vendor_code="smtputf8",
                )
            parameters += [b"BODY=8BITMIME", b"SMTPUTF8"]
        return parameters

    async def _mail(self, sender: str, parameters: Sequence[bytes]) -> None:
        with self._at(Phase.MAIL):
            command = (b"MAIL", b"FROM:<" + sender.encode() + b">")
            try:
                await self._command(*command, *parameters)
            except Refused as refused:
                if refused.reply.code != 555 or not parameters or not self.alive:
                    raise
                await self._command(*command)  # 555: a parameter is not known

    async def _rcpt(self, address: str) -> Reply:
        with self._at(Phase.RCPT):
            try:
                return await self._command(b"RCPT", b"TO:<" + address.encode() + b">")
            except Refused as refused:
                if refused.reply.code == 421:
                    raise  # it closes: those that were accepted are void
                return refused.reply

    async def _body(self, message: bytes) -> Reply:
        """Write the message; its reply is listened for from the start, so that an early refusal is heard."""
        with self._at(Phase.DATA):
            protocol = self._smtp.protocol
            if protocol is None:
                raise self._lost("the connection was lost")
            reply = asyncio.ensure_future(protocol.read_response(timeout=self._server.final_seconds))
            reply.add_done_callback(lambda task: task.cancelled() or task.exception())  # heard, whoever waits
            try:
                await asyncio.sleep(0)
                protocol.write(_LEADING_DOT.sub(b"..", message))
                await self._drained(reply)
                if not reply.done() and protocol.is_connected:
                    self.phase = Phase.DOT
                    self.messages += 1
                    protocol.write(b".\r\n")
                answer = _read(await reply)
            finally:
                reply.cancel()
            if self.phase is not Phase.DOT:
                self.abort()  # an answer before the end: what it reads next would be the rest of the message
            if answer.code >= 400:
                raise Refused(self.phase, answer)
            if self.phase is not Phase.DOT or not 200 <= answer.code < 300:
                raise self._lost(f"it answered {answer.code} out of turn")
            return answer

    async def _drained(self, reply: "asyncio.Future[aiosmtplib.SMTPResponse]") -> None:
        """Wait until the body was taken by the system; ends with the reply's own time-out."""
        transport = cast("asyncio.WriteTransport", self._smtp.transport)
        while not reply.done() and transport.get_write_buffer_size() > 0:  # noqa: ASYNC110 no event tells it
            await asyncio.sleep(0.01)

    async def _recover(self) -> None:
        """After a refusal: make the connection usable again, or close it. Its failure changes no verdict."""
        try:
            async with self._deadline():
                with self._at(Phase.RESET):
                    await self._command(b"RSET")
        except (Refused, DeliveryError):
            self.abort()
        self.clean = self.alive

    async def _command(self, *words: bytes) -> Reply:
        """One command that must be answered with 2xx or 3xx."""
        reply = _read(await self._smtp.execute_command(*words))
        if reply.code >= 400:
            raise Refused(self.phase, reply)
        return reply

    @contextmanager
    def _at(self, phase: Phase) -> Iterator[None]:
        """Note the phase; a failure of the connection becomes the error that the phase allows."""
        self.phase = phase
        try:
            yield
        except aiosmtplib.SMTPResponseException as error:
            if not 400 <= error.code <= 599:
                raise self._lost("its reply is not SMTP") from None
            raise Refused(self.phase, Reply.of(error.code, error.message)) from None
        except (aiosmtplib.SMTPException, OSError) as error:
            if _certificate_refused(error):
                self.abort()
                raise Unusable(f"{self._server.host}: the server's certificate is not accepted") from None
            raise self._lost(_describe(error)) from None

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Everything but the reply to the message has this much time together."""
        seconds = self._server.command_seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            raise self._lost(f"no answer within {seconds:g} s") from None

    def _lost(self, text: str) -> DeliveryError:
        """The connection is of no use any more; what that means for the message."""
        self.abort()
        if self.phase is Phase.DOT:
            return Ambiguous(f"{self._server.host}: {text}, after the whole message had left")
        return Transient(f"{self._server.host}: {text} ({self.phase}); nothing was sent")


async def _connected(addresses: Sequence[str], port: int, seconds: float) -> socket.socket:
    """A connection to the first of the addresses that answers. Raises OSError."""
    failure: OSError = OSError("no address")
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # Only of a socket that says TCP asyncio switches Nagle's delay off: 40 ms a message, between its text and dot.
        connection = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
        except OSError as error:  # TimeoutError too
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


def _address_literal(connection: socket.socket) -> str:
    """What EHLO says: our address. The machine's name may be none, and looking it up may be slow."""
    address, *_ = connection.getsockname()
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _read(response: aiosmtplib.SMTPResponse) -> Reply:
    if not 200 <= response.code <= 599:
        raise aiosmtplib.SMTPResponseException(response.code, response.message)
    return Reply.of(response.code, response.message)


def _certificate_refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__
    return False


def _describe(error: BaseException) -> str:
    """aiosmtplib's and the system's texts hold no secret; a certificate's text would hold paths."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    text = clean(str(cause), 160)
    return f"{type(cause).__name__}: {text}" if text and "/" not in text else type(cause).__name__
