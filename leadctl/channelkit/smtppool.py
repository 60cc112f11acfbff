"""A few SMTP connections to one server, kept between messages."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import cached_property

from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.smtp import Envelope, Phase, Refused, Server, SmtpSession, Transacted
from leadctl.domain.errors import Transient

#: Messages on one connection; shared hosts cut at 100 (https://help.sweb.ru/entry/22).
MESSAGES_PER_CONNECTION = 50
#: Seconds after which an idle connection is not trusted any more: servers cut after 60 to 300.
IDLE_SECONDS = 45.0


class SmtpPool:
    """At most ``size`` connections at a time; the others wait for one."""

    def __init__(self, server: Server, guard: NetworkGuard, monotonic: Callable[[], float], size: int) -> None:
        self._server = server
        self._guard = guard
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(size)
        self._idle: list[SmtpSession] = []

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # The system's own trust store; SSL_CERT_FILE and SSL_CERT_DIR are honoured.
        return ssl.create_default_context()

    async def transact(self, envelope: Envelope) -> Transacted:
        """Carry one message. A kept connection that turns out to be cut, or used up, is replaced at once."""
        async with self._slots:
            kept = await self._kept()
            if kept is not None:
                try:
                    return await self._use(kept, envelope)
                except Transient:
                    pass  # nothing was sent
                except Refused as refused:
                    if refused.reply.code != 421 or refused.phase is Phase.DOT:
                        raise
            return await self._use(await self._open(), envelope)

    async def probe(self, sender: str) -> Mapping[str, str]:
        """Log in on a new connection and try the sender. What the server offers, by name in lower case."""
        async with self._slots:
            session = await self._open()
            try:
                await session.probe(sender)
                return dict(session.extensions)
            finally:
                await self._put_back(session)

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().quit()
        await asyncio.sleep(0)  # closed transports are torn down by the loop's next turn

    async def _open(self) -> SmtpSession:
        return await SmtpSession.open(self._server, self._tls, self._guard)

    async def _kept(self) -> SmtpSession | None:
        while self._idle:
            session = self._idle.pop()
            if session.alive and self._monotonic() - session.idle_since < IDLE_SECONDS:
                return session
            session.abort()
        return None

    async def _use(self, session: SmtpSession, envelope: Envelope) -> Transacted:
        try:
            return await session.transact(envelope)
        finally:
            await self._put_back(session)

    async def _put_back(self, session: SmtpSession) -> None:
        if not session.clean or not session.alive:
            session.abort()
        elif session.messages >= MESSAGES_PER_CONNECTION:
            await session.quit()
        else:
            session.idle_since = self._monotonic()
            self._idle.append(session)
