"""LPTracker's API without leads: the login, what an answer means, and lists.

Every answer is HTTP 200, errors too, so the body decides (https://docs.direct.lptracker.ru/common/errors/).
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from leadctl.channelkit import hal
from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.http import Answer, HttpRequest, nothing_made, of_settings, with_status
from leadctl.channelkit.sessions import Session, SessionAuth
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.masking import clean

#: Seconds of a session: a token dies after 24 h without use, and integrators renew it at half of that.
SESSION = 12 * 3600.0
#: Seconds after each request that the limiter does not know of: a login, a page of a list.
PAUSE = 0.5

#: What a code means, whether it is the HTTP status or stands in the body. Any other one may have come too late.
CODES: Mapping[str, tuple[type[DeliveryError], str]] = {
    "400": (Rejected, "a value is refused"),
    "401": (Unusable, "login, password or token is refused"),
    "402": (Unusable, "the account is not paid for"),
    "403": (Unusable, "access is denied"),
    "404": (Rejected, "what the request names is not there"),
    "405": (Unusable, "the method is refused: is base_url right?"),
}


@dataclass(frozen=True, slots=True)
class Custom:
    """A field of a project's leads. ``several``: its value is a list of options."""

    id: int
    several: bool = False


class Api:
    """One account. ``account`` holds login, password and service; ``exchange`` sends a request without a token."""

    def __init__(
        self,
        toolbox: Toolbox,
        exchange: Callable[[HttpRequest, float | None], Awaitable[Answer]],
        base_url: str,
        account: Mapping[str, str],
    ) -> None:
        self.base = base_url.rstrip("/")
        self.host = urlsplit(self.base).netloc.rpartition("@")[2].lower()
        login = hashlib.sha256(account["login"].lower().encode()).hexdigest()[:16]
        #: The bucket: whether the limit holds for an account, a token or an address is not documented.
        self.scope = f"lptracker:{self.host}:{login}"
        self._toolbox = toolbox
        self._exchange = exchange
        self._account = account
        self.auth = SessionAuth(
            toolbox,
            exchange,
            (self.base, *account.values()),
            self._log_in,
            headers=lambda token: {"token": token},
            refused=lambda answer: (error_in(answer) or ("", ""))[0] == "401",
        )

    def get(self, path: str) -> HttpRequest:
        return HttpRequest("GET", self.base + path, headers={"Content-Type": "application/json"})

    def post(self, path: str, body: object) -> HttpRequest:
        return HttpRequest.json("POST", self.base + path, body)

    def result(self, answer: Answer) -> Any:
        """``result`` of a good answer. Raises what the vendor, or what stands before it, says."""
        said = error_in(answer)
        if said is not None:
            raise with_status(self._error(*said, answer), answer)
        body = answer.json()
        if isinstance(body, list):  # as the documentation shows some lists
            return body
        if not isinstance(body, dict) or body.get("status") != "success":
            raise with_status(Ambiguous("LPTracker's answer does not say that it was done"), answer)
        return body.get("result")

    async def list(self, path: str, *, of_lead: bool = False) -> Sequence[hal.Entity]:
        """The objects of a list. What refuses the question, refuses the credential, unless it is of a lead."""
        try:
            found = hal.entities(self.result(await self.auth.send(self.get(path))))
        except Ambiguous as error:
            raise self._nothing_made(error) from None
        except Rejected as error:
            if of_lead:
                raise
            raise of_settings(error) from None
        except ValueError:
            raise Transient("LPTracker's list is not of the documented form", http_status=200) from None
        await self._pause()
        return found

    async def named(self, path: str) -> Mapping[int, str]:
        """The list at this path: id → name."""
        return {hal.identity(item): clean(str(item.get("name") or ""), 80) for item in await self.list(path)}

    def _nothing_made(self, error: Ambiguous) -> DeliveryError:
        """The failure of a question leaves nothing in doubt."""
        if error.vendor_code == "429":
            return self._throttled(None, "429")
        return nothing_made(error)

    async def _log_in(self) -> Session:
        """Once a process and account. Never logged out: others may use the token."""
        answer = await self._exchange(self.post("/login", {**self._account, "version": "1.0"}), None)
        try:
            result = self.result(answer)
        except Rejected as error:
            raise of_settings(error) from None
        token = result.get("token") if isinstance(result, dict) else None
        if not isinstance(token, str) or not token:
            raise Ambiguous("LPTracker answers the login without a token")
        await self._pause()
        return Session(token, self._toolbox.clock.now().timestamp() + SESSION)

    async def _pause(self) -> None:
        await self._toolbox.clock.sleep(PAUSE / self._toolbox.scale)

    def _error(self, code: str, text: str, answer: Answer) -> DeliveryError:
        if code == "503":
            return self._throttled(answer.retry_after(self._toolbox.clock.now().timestamp()), code)
        kind, meaning = CODES.get(code, (Ambiguous, f"an error {code}".strip()))
        if 300 <= answer.status < 400:
            kind, meaning = Unusable, f"it redirects (HTTP {answer.status}): is base_url right?"
        words = clean(self._toolbox.secrets.hide(text), 200) or "no explanation"
        return kind(f"LPTracker: {meaning} ({words})", vendor_code=clean(code, 40) or None)

    def _throttled(self, wait: float | None, code: str) -> Throttled:
        return Throttled("LPTracker: too many requests", retry_after=wait, scope=self.scope, vendor_code=code)


def error_in(answer: Answer) -> tuple[str, str] | None:
    """Code and text of an error; None where the answer is none, or cannot be read.

    The body says ``{"errors": [{"code", "message"}]}``, or a text in that list, or code and message at its top.
    """
    body = answer.json_or_none()
    status = "" if answer.status == 200 else str(answer.status)
    if not isinstance(body, dict):
        return (status, answer.text) if status else None
    errors = body.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else body
    failed = first is not body or body.get("status") == "error" or ("message" in body and "status" not in body)
    if not failed and not status:
        return None
    said = first if isinstance(first, dict) else {"message": first}
    code = str(said.get("code") or "")
    # What stands before the vendor answers 5xx too: then a code of the body counts less.
    return (status if status.startswith("5") or not code else code), str(said.get("message") or "")


def resolved(name: str, customs: Sequence[hal.Entity]) -> Custom:
    """The field of this id or name. Raises Unusable where there is none, or more than one."""
    plain = name.casefold()
    found = [c for c in customs if str(c["id"]) == name or str(c.get("name")).strip().casefold() == plain]
    if not found:
        raise missing("settings.fields", name)
    if len(found) > 1:
        raise Unusable(f"the project has several fields {name}: give its id in settings.fields", vendor_code="fields")
    several = found[0].get("type") == "cats" and str(found[0].get("is_multi_select")).lower() in ("1", "true")
    return Custom(hal.identity(found[0]), several)


def missing(key: str, value: object) -> Unusable:
    """Something that the credential names is not there."""
    return Unusable(f"LPTracker has no {value}, which {key} names: correct it", vendor_code=key)
