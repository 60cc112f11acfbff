"""Tokens that a vendor gives for a login: fetched once a process, shared by its lanes, kept in memory only."""

import asyncio
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from leadctl.domain.errors import Ambiguous, Transient

if TYPE_CHECKING:
    from leadctl.channelkit.channel import Toolbox
    from leadctl.channelkit.http import Answer, HttpRequest


@dataclass(frozen=True, slots=True)
class Session:
    """A token and its end, Unix seconds; it is fetched anew from then on."""

    token: str = field(repr=False)
    expires_at: float


class Sessions:
    """The sessions of a process, by account. Credentials of one account share theirs."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        # A lock belongs to the event loop that waits for it, and a process may have had several loops.
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, defaultdict[str, asyncio.Lock]] = WeakKeyDictionary()

    async def token(self, account: str, now: Callable[[], float], login: Callable[[], Awaitable[Session]]) -> str:
        """The account's token; with none, or an old one, one caller logs in and the others wait for it."""
        locks = self._locks.setdefault(asyncio.get_running_loop(), defaultdict(asyncio.Lock))
        async with locks[account]:
            session = self._sessions.get(account)
            if session is None or session.expires_at <= now():
                session = self._sessions[account] = await login()
            return session.token

    def forget(self, account: str, token: str) -> None:
        """The vendor refuses this token. One that was fetched meanwhile stays."""
        session = self._sessions.get(account)
        if session is not None and session.token == token:
            del self._sessions[account]


class SessionAuth:
    """Sends requests with the account's token; one that is refused is fetched anew, once.

    ``account`` names the login (hashed here), ``login`` fetches a session and raises DeliveryErrors, ``headers`` are
    those of a token, ``refused`` says of an answer that the token was not accepted and nothing was executed.
    """

    def __init__(
        self,
        toolbox: "Toolbox",
        exchange: "Callable[[HttpRequest, float | None], Awaitable[Answer]]",
        account: tuple[str, ...],
        login: Callable[[], Awaitable[Session]],
        *,
        headers: Callable[[str], Mapping[str, str]],
        refused: "Callable[[Answer], bool]",
    ) -> None:
        self._toolbox = toolbox
        self._exchange = exchange
        self._account = hashlib.sha256("\n".join(account).encode()).hexdigest()
        self._login = login
        self._headers = headers
        self._refused = refused

    async def send(
        self,
        request: "HttpRequest",
        timeout: float | None = None,  # noqa: ASYNC109 handed on
        *,
        may_repeat: Callable[[], Awaitable[bool]] | None = None,
    ) -> "Answer":
        """The answer to the request. A second refusal of the token stands.

        ``may_repeat`` is asked before the request goes again with a new token, where a refusal does not prove that
        nothing was executed; if it says no, the refusal stands.
        """
        token = await self._token()
        answer = await self._attempt(request, token, timeout)
        if self._refused(answer):
            self._toolbox.sessions.forget(self._account, token)
            if may_repeat is None or await may_repeat():
                answer = await self._attempt(request, await self._token(), timeout)
        return answer

    async def _token(self) -> str:
        token = await self._toolbox.sessions.token(self._account, self._now, self._logged_in)
        self._toolbox.secrets.add([token])
        return token

    async def _logged_in(self) -> Session:
        """Whatever becomes of the login: no lead was sent by it."""
        try:
            return await self._login()
        except Ambiguous as error:
            raise Transient(f"no token was given ({error.message}); no lead was sent") from None

    async def _attempt(self, request: "HttpRequest", token: str, timeout: float | None) -> "Answer":  # noqa: ASYNC109
        headers = {**request.headers, **self._headers(token)}
        return await self._exchange(dataclasses.replace(request, headers=headers), timeout)

    def _now(self) -> float:
        return self._toolbox.clock.now().timestamp()
