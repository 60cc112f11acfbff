"""Bearer tokens, and the refresh of those that expire.

A refresh token that rotates is lost for good if two processes refresh at once or the new one is not written. So: one
process at a time (the store's lease), the row read again first, written by compare-and-set, and only then used.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from leadctl.channelkit.channel import ChannelConfig, Text, Toolbox
from leadctl.channelkit.http import Answer, HttpRequest
from leadctl.domain.errors import Ambiguous, DeliveryError, LimitReached, Throttled, Transient, Unusable
from leadctl.domain.events import TokenRefreshed
from leadctl.domain.masking import clean

#: A token is refreshed when it has less than this many seconds to live.
MARGIN = 120.0
#: After "revoked" the row is read again for so many seconds: the application may be writing a new pair.
PATIENCE = 10
#: Seconds that a refresh by another process may take: two requests, and the wait after "revoked". A frozen process
#: holds its lease for longer, and must not keep this one for ever.
LEASE_PATIENCE = 180.0
#: How often a refused token is replaced by one that somebody else wrote, before the refusal is believed.
ROUNDS = 3

Exchange = Callable[[HttpRequest, float | None], Awaitable[Answer]]


def unix_time(value: object) -> float:
    """Unix seconds of a number, a text of digits, or an ISO date (UTC if it names no zone). Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        if value.strip().isdecimal():
            return float(value)
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            pass
        else:
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise ValueError("expected Unix seconds or an ISO date")


def _sendable(token: str) -> bool:
    return bool(token) and token.isascii() and token.isprintable() and " " not in token


def _token(value: SecretStr) -> SecretStr:
    token = value.get_secret_value().strip()
    if not _sendable(token):
        raise ValueError("expected a token: visible ASCII characters, no spaces")
    return SecretStr(token)


#: A moment as the application keeps it.
UnixTime = Annotated[float, BeforeValidator(unix_time, json_schema_input_type=float | str)]
#: A token that can stand in a header.
Token = Annotated[SecretStr, AfterValidator(_token)]


@dataclass(frozen=True, slots=True)
class Tokens:
    """An access token with what replaces it. ``expires_at`` is Unix seconds, if known."""

    access: str = field(repr=False)
    refresh: str = field(default="", repr=False)
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """Who refreshes, and where."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str


class OAuthConfig(ChannelConfig):
    """``access_token`` alone is a long-lived token; with ``refresh_token`` and the client's three keys it is OAuth."""

    access_token: Token
    refresh_token: SecretStr | None = None
    client_id: Text | None = Field(default=None, validate_default=True)
    client_secret: SecretStr | None = Field(default=None, validate_default=True)
    redirect_uri: str | None = Field(default=None, validate_default=True)
    expires_at: UnixTime | None = None

    @field_validator("client_id", "client_secret", "redirect_uri")
    @classmethod
    def _needed_to_refresh(cls, value: Any, info: ValidationInfo) -> Any:
        if not value and info.data.get("refresh_token"):
            raise ValueError("is needed with refresh_token")
        return value

    def tokens(self) -> Tokens:
        refresh = self.refresh_token.get_secret_value() if self.refresh_token else ""
        return Tokens(self.access_token.get_secret_value(), refresh, self.expires_at)

    def oauth_client(self, token_url: str) -> OAuthClient | None:
        """Who refreshes the token; None for a long-lived one."""
        if not (self.refresh_token and self.client_id and self.client_secret and self.redirect_uri):
            return None
        return OAuthClient(token_url, self.client_id, self.client_secret.get_secret_value(), self.redirect_uri)


def _refused(answer: Answer) -> bool:
    return answer.status == 401


class BearerAuth:
    """Sends requests with the credential's access token.

    With an ``OAuthClient`` the token is refreshed when it is about to expire, or once when ``refused`` says that the
    vendor did not execute the request because of the token; the request is then repeated. Failures of the refresh are
    never Ambiguous: the request itself was not executed.
    """

    def __init__(
        self,
        channel: str,
        toolbox: Toolbox,
        exchange: Exchange,
        tokens: Tokens,
        client: OAuthClient | None = None,
        *,
        refused: Callable[[Answer], bool] = _refused,
    ) -> None:
        self._channel = channel
        self._toolbox = toolbox
        self._exchange = exchange
        self._tokens = tokens
        self._client = client
        self._token_refused = refused
        self._lock = asyncio.Lock()

    async def send(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        """The answer to the request. A 401 that is answered at the end stands."""
        client = self._client
        if client is None:
            return await self._attempt(request, self._tokens.access, timeout)
        fresh = self._due() and await self._renew_early(client)
        used = self._tokens.access
        answer = await self._attempt(request, used, timeout)
        for _ in range(ROUNDS):
            if fresh or not self._token_refused(answer):
                break
            fresh = await self._renew(client, used, refused=True)
            used = self._tokens.access
            answer = await self._attempt(request, used, timeout)
        return answer

    async def _attempt(self, request: HttpRequest, access: str, timeout: float | None) -> Answer:  # noqa: ASYNC109
        headers = {**request.headers, "Authorization": f"Bearer {access}"}
        return await self._exchange(dataclasses.replace(request, headers=headers), timeout)

    def _now(self) -> float:
        return self._toolbox.clock.now().timestamp()

    def _due(self, margin: float = MARGIN) -> bool:
        expires_at = self._tokens.expires_at
        return expires_at is not None and expires_at - self._now() < margin

    async def _renew_early(self, client: OAuthClient) -> bool:
        """Before the token expires; a token endpoint that is down stops nothing while it lives."""
        over = self._due(0)
        try:
            return await self._renew(client, self._tokens.access, refused=False)
        except (Transient, Throttled):
            if over:
                raise
            return False

    async def _renew(self, client: OAuthClient, spent: str, *, refused: bool) -> bool:
        """Replace the token ``spent``. True if it was refreshed here, False if another's was taken over."""
        credentials, identity = self._toolbox.credentials, self._toolbox.credential_id
        async with self._lock:
            if await credentials.writable(identity):
                async with self._lease():
                    return not await self._take_over(spent) and await self._refresh(client)
            if await self._take_over(spent) or not (refused or self._due(0)):
                return False
        raise Unusable(
            "the access token has expired, and the credential's row cannot be written: the token is not refreshed, "
            "for the new one would be lost. Give leadctl the right to UPDATE the credentials, or refresh it elsewhere",
            http_status=401 if refused else None,
        )

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[None]:
        """The right to refresh, of one process at a time."""
        lease = self._toolbox.credentials.lease(self._toolbox.credential_id)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(LEASE_PATIENCE / self._toolbox.scale):
                    await self._toolbox.stopping.unless(lambda: stack.enter_async_context(lease))
            except TimeoutError:
                raise LimitReached(
                    "another process of leadctl is refreshing the access token and does not come to an end: "
                    "is it frozen? Let it go on, or end it"
                ) from None
            yield

    async def _take_over(self, spent: str) -> bool:
        """Read the row again. True if it holds another token than ``spent`` that has time to live."""
        try:
            row = await self._toolbox.credentials.read(self._toolbox.credential_id)
        except LookupError:  # deleted, or never a row
            return False
        tokens = _tokens_of(row)
        if tokens is None:
            return False
        self._toolbox.secrets.add([tokens.access, tokens.refresh])
        self._tokens = tokens
        return tokens.access != spent and not self._due()

    async def _refresh(self, client: OAuthClient) -> bool:
        old = self._tokens
        answer = await self._ask(client, old.refresh)
        if answer.status in (400, 401):
            await self._wait_for_another(old, answer)
            return False
        new = _tokens_of(answer.json_or_none(), asked_at=self._now())
        assert new is not None  # noqa: S101 _ask lets no other answer through
        self._toolbox.secrets.add([new.access, new.refresh])
        if not await self._write(old, new):
            if await self._take_over(old.access):
                return False
            raise Transient("the credential's row was changed while its token was refreshed; nothing was sent")
        self._tokens = new
        self._toolbox.notify(TokenRefreshed(self._channel, self._toolbox.credential_id))
        return True

    async def _write(self, old: Tokens, new: Tokens) -> bool:
        """Compare with what the row really holds (an application may keep spaces), and set."""
        credentials, identity = self._toolbox.credentials, self._toolbox.credential_id
        try:
            row = await credentials.read(identity)
        except LookupError:  # deleted meanwhile
            return False
        if _tokens_of(row) != old:
            return False
        expires_at = None if new.expires_at is None else _in_the_style_of(row.get("expires_at"), new.expires_at)
        return await credentials.swap(
            identity,
            {key: row[key] for key in ("access_token", "refresh_token")},
            {"access_token": new.access, "refresh_token": new.refresh, "expires_at": expires_at},
        )

    async def _ask(self, client: OAuthClient, refresh: str) -> Answer:
        """Ask for a new pair; once more with the same token if the first answer is lost.

        Kommo keeps the old refresh token usable until the new one is used, for exactly that case:
        https://developers.kommo.com/docs/oauth-20
        """
        body = {
            "client_id": client.client_id,
            "client_secret": client.client_secret,
            "grant_type": "refresh_token",
            "refresh_token": refresh,
            "redirect_uri": client.redirect_uri,
        }
        request = HttpRequest.json("POST", client.token_url, body)
        try:
            return await self._asked(request)
        except Transient:
            return await self._asked(request)

    async def _asked(self, request: HttpRequest) -> Answer:
        try:
            answer = await self._exchange(request, None)
        except (Ambiguous, Transient) as error:
            raise Transient(f"the token could not be refreshed ({error.message}); no lead was sent") from None
        failure = _failure(answer, self._now())
        if failure is not None:
            raise failure
        return answer

    async def _wait_for_another(self, old: Tokens, answer: Answer) -> None:
        """The refresh token is refused: take what the application may have written meanwhile, else give up."""
        for _ in range(PATIENCE):
            if await self._take_over(old.access):
                return
            await self._toolbox.stopping.unless(lambda: self._toolbox.clock.sleep(1 / self._toolbox.scale))
        if await self._take_over(old.access):
            return
        raise Unusable(
            f"the refresh token is refused{_said(answer)}: authorise the integration again",
            http_status=answer.status,
            vendor_code="refresh_refused",
        )


def _failure(answer: Answer, now: float) -> DeliveryError | None:
    """What an answer of the token endpoint means, if it is neither a pair nor a refusal of the refresh token."""
    status = answer.status
    if status in (400, 401):
        return None
    if status == 403:  # a ban says nothing of the token, which is kept: amocrm/amocrm-api-php#563
        return LimitReached("the token endpoint answers 403: the API is blocked for this account", http_status=403)
    if status == 429:
        wait = named_wait(answer, now)
        return Throttled("too many requests at the token endpoint", retry_after=wait, http_status=429)
    if status >= 500 or status == 408:
        return Transient(f"the token endpoint answers HTTP {status}; no lead was sent", http_status=status)
    if not 200 <= status < 300:
        return Unusable(f"the token endpoint answers HTTP {status}: is the address right?", http_status=status)
    if _tokens_of(answer.json_or_none()) is None:
        return Transient("the token endpoint's answer cannot be read; no lead was sent", http_status=status)
    return None


def named_wait(answer: Answer, now: float) -> float | None:
    """Seconds that a 429 names: ``retry_after`` of a JSON body, else the header ``Retry-After``."""
    body = answer.json_or_none()
    wait = body.get("retry_after") if isinstance(body, dict) else None
    if isinstance(wait, (int, float)) and not isinstance(wait, bool) and wait >= 0:
        return float(wait)
    return answer.retry_after(now)


def _said(answer: Answer) -> str:
    body = answer.json_or_none()
    hint = (body.get("hint") or body.get("error_description")) if isinstance(body, dict) else None
    return f" ({clean(hint, 120)})" if isinstance(hint, str) and hint else ""


def _tokens_of(values: Mapping[str, Any] | None, asked_at: float | None = None) -> Tokens | None:
    """The pair in a row, or (with ``asked_at``) in an answer of the token endpoint; None where there is none."""
    if not isinstance(values, Mapping):
        return None
    access, refresh = values.get("access_token"), values.get("refresh_token")
    if not (isinstance(access, str) and isinstance(refresh, str) and refresh):
        return None
    access = access.strip()
    if not _sendable(access):
        return None
    try:
        expires_at = unix_time(values.get("expires_at") if asked_at is None else values.get("expires_in"))
    except ValueError:
        return Tokens(access, refresh)
    return Tokens(access, refresh, expires_at + (asked_at or 0.0))


def _in_the_style_of(old: object, moment: float) -> int | str:
    """The new expiry in the form that the application wrote the old one in, so that it can read it."""
    if not isinstance(old, str) or not old.strip():
        return int(moment)
    if old.strip().isdecimal():
        return str(int(moment))
    text = datetime.fromtimestamp(int(moment), UTC).isoformat(sep="T" if "T" in old else " ")
    zone = "Z" if old.endswith("Z") else "+00:00" if "+" in old else ""
    return text.removesuffix("+00:00") + zone
