"""SendPulse's API without leads: tokens, what an answer means, and questions that change nothing.

An error is judged by its ``error_code`` first: which HTTP status carries a code is not documented
(https://sendpulse.com/integrations/api).
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.http import Answer, HttpRequest, nothing_made, of_settings, with_status
from leadctl.channelkit.sessions import Session, SessionAuth
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Unusable
from leadctl.domain.masking import clean

TOKEN_PATH = "/oauth/access_token"  # noqa: S105 a path
#: Seconds before its end at which a token is replaced: the vendor advises to keep one for 55 of its 60 minutes.
EARLY = 300.0
#: Seconds of a token whose answer does not say how long it lives.
LIFE = 3600.0
#: Seconds after each question, of which the limiter does not know: 8 requests a second.
PAUSE = 0.125

#: What a code means, whatever the HTTP status.
CODES: Mapping[str, tuple[type[DeliveryError], str]] = {
    "2020202020": (Throttled, "too many requests"),
    "3030303030": (Unusable, "the account's plan does not include this"),
    "401": (Unusable, "the key or token is refused"),
    "213": (Unusable, "there is no such address book"),
    "299": (Unusable, "the address book has no such variable"),
    "1003": (Unusable, "there is no such sender"),
    "707": (Unusable, "the balance is spent"),
    "708": (Unusable, "the plan takes no more addresses"),
    "422": (Rejected, "a value is refused"),
    **dict.fromkeys(("14", "17", "906"), (Rejected, "the e-mail address is refused")),
    **dict.fromkeys(("20", "97"), (Rejected, "addresses of free mail services are refused")),
    "502": (Rejected, "the e-mail address is not in the book"),
    "904": (Rejected, "the e-mail address is on the account's black list"),
}
#: What a status means where the code does not say: any other 4xx is Rejected, 3xx Unusable, and what is left Ambiguous.
STATUSES: Mapping[int, tuple[type[DeliveryError], str]] = {
    401: (Unusable, "the key or token is refused"),
    402: (Unusable, "the account is not paid for"),
    403: (Unusable, "access is denied, by the plan or the user's role"),
    404: (Rejected, "what the request names is not there"),
    405: (Unusable, "the method is refused: is base_url right?"),
    408: (Ambiguous, "the request took too long"),
    410: (Unusable, "the method is gone: is base_url right?"),
    429: (Throttled, "too many requests"),
}
#: Address books that take nobody in, by their status.
CLOSED: Mapping[int, str] = {1: "deleted", 4: "blocked", 5: "blocked for the time being"}
_ARGUMENT = re.compile(r"Argument ([A-Za-z_.*]{1,60})\b")


@dataclass(frozen=True, slots=True)
class Login:
    """A static key, or the pair that is exchanged for tokens."""

    api_key: str = field(default="", repr=False)
    client_id: str = ""
    client_secret: str = field(default="", repr=False)

    @property
    def name(self) -> str:
        """Which account it is, as far as the credential tells; a static key is all there is."""
        return self.api_key or self.client_id


class Api:
    """One account. ``exchange`` sends a request without a token."""

    def __init__(
        self,
        toolbox: Toolbox,
        exchange: Callable[[HttpRequest, float | None], Awaitable[Answer]],
        base_url: str,
        login: Login,
    ) -> None:
        self.base = base_url.rstrip("/")
        host = urlsplit(self.base).netloc.rpartition("@")[2].lower()
        #: The bucket.
        self.scope = f"sendpulse:{host}:{hashlib.sha256(login.name.encode()).hexdigest()[:16]}"
        self._toolbox = toolbox
        self._exchange = exchange
        self._login = login
        self._session = SessionAuth(
            toolbox,
            exchange,
            (self.base, login.client_id, login.client_secret),
            self._log_in,
            headers=_bearer,
            refused=lambda answer: answer.status == 401 or said(answer)[0] == "401",
        )

    def request(self, method: str, path: str, body: object = None) -> HttpRequest:
        if body is None:
            return HttpRequest(method, self.base + path)
        return HttpRequest.json(method, self.base + path, body)

    async def send(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        """The answer to the request; a token that is refused is replaced once."""
        if not self._login.api_key:
            return await self._session.send(request, timeout)
        headers = {**request.headers, **_bearer(self._login.api_key)}
        return await self._exchange(replace(request, headers=headers), timeout)

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of a good answer; None for 404. It makes nothing, so a failure leaves nothing in doubt: Rejected is
        the question's own, and says nothing about a lead."""
        try:
            answer = await self.send(self.request(method, path, body))
            failure = self.failure(answer)
            if failure is not None and not (isinstance(failure, Rejected) and answer.status == 404):
                raise failure
            found = None if failure is not None else answer.json()
        except Ambiguous as error:
            raise nothing_made(error) from None
        await self._toolbox.clock.sleep(PAUSE / self._toolbox.scale)
        return found

    async def account(self) -> str:
        """Names it."""
        try:
            user = await self.ask("GET", "/user/info")
        except Rejected as error:
            raise of_settings(error) from None
        known = user if isinstance(user, dict) else {}
        name = next((str(known[key]) for key in ("email", "name", "id") if known.get(key)), "the account")
        return clean(name, 100)

    async def book(self, book: str) -> str:
        """Names the address book. Raises Unusable where it is not there, or takes nobody in."""
        try:
            answer = await self.ask("GET", f"/addressbooks/{book}")
        except Rejected as error:
            raise of_settings(error) from None
        found = answer[0] if isinstance(answer, list) and answer else answer  # a list of one
        if not isinstance(found, dict):
            raise missing("address_book_id", book)
        status = found.get("status")
        if isinstance(status, int) and status in CLOSED:
            raise Unusable(f"address book {book} is {CLOSED[status]}", vendor_code="address_book_id")
        return f"address book {clean(str(found.get('name') or ''), 80)} ({book})"

    def failure(self, answer: Answer) -> DeliveryError | None:
        """What the answer says is wrong; None where it is good, or only cannot be read."""
        code, text = said(answer)
        if not code and 200 <= answer.status < 300:
            return None
        kind, meaning = CODES.get(code) or self._by_status(answer.status)
        words = clean(self._toolbox.secrets.hide(text), 200) or "no explanation"
        message, vendor_code = f"SendPulse: {meaning} ({words})", clean(code, 40) or str(answer.status)
        if kind is Throttled:
            wait = answer.retry_after(self._toolbox.clock.now().timestamp())
            return with_status(Throttled(message, retry_after=wait, vendor_code=vendor_code), answer)
        argument = _ARGUMENT.search(text)
        path = argument[1] if argument else None
        return with_status(kind(message, vendor_code=vendor_code, path=path), answer)

    def _by_status(self, status: int) -> tuple[type[DeliveryError], str]:
        if status in STATUSES:
            return STATUSES[status]
        if 300 <= status < 400:
            return Unusable, f"HTTP {status}: is base_url right?"
        return (Rejected if 400 <= status < 500 else Ambiguous), f"HTTP {status}"

    async def _log_in(self) -> Session:
        login = self._login
        body = {"grant_type": "client_credentials", "client_id": login.client_id, "client_secret": login.client_secret}
        answer = await self._exchange(self.request("POST", TOKEN_PATH, body), None)
        failure = self.failure(answer)
        if failure is not None:
            raise of_settings(failure) if isinstance(failure, Rejected) else failure
        found = answer.json()
        token, life = (found.get(key) if isinstance(found, dict) else None for key in ("access_token", "expires_in"))
        if not isinstance(token, str) or not token:
            raise Ambiguous("SendPulse answers the login without a token", http_status=answer.status)
        seconds = float(life) if isinstance(life, int) and life > 0 else LIFE
        return Session(token, self._toolbox.clock.now().timestamp() + max(0.0, seconds - EARLY))


def missing(key: str, value: object) -> Unusable:
    """Something that the credential names is not there."""
    return Unusable(f"SendPulse has no {value}, which {key} names: correct it", vendor_code=key)


def _bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"}


def said(answer: Answer) -> tuple[str, str]:
    """Code and text of an error; both empty where the answer is none.

    ``{"message", "error_code"}``; the CRM says ``{"data": {"code", "message"}}``, and the login an OAuth error.
    """
    body = answer.json_or_none()
    good = 200 <= answer.status < 300
    if not isinstance(body, dict):
        return "", "" if good else answer.text
    inner = body.get("data")
    holders = [body] if good or not isinstance(inner, dict) else [body, inner]
    code = next((h[key] for h in holders for key in ("error_code", "code") if h.get(key) not in (None, "")), "")
    if good and not code and body.get("success") is False:
        code = "success: false"
    words = [
        h[key] for h in holders for key in ("message", "error_description", "error") if isinstance(h.get(key), str)
    ]
    return str(code), words[0] if words else ""
