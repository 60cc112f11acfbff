"""GetResponse's API v3 without leads: what an answer means, and questions that change nothing.

An error is judged by its ``code`` first: one HTTP status carries a dozen of them, and a wrong key is answered with 401
or with 403 (https://apidocs.getresponse.com/v3/errors).
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.http import Answer, HttpRequest, nothing_made, of_settings, with_status
from leadctl.channelkit.shorten import cut, utf16_units
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

#: An e-mail address is in a list once; this one is.
TAKEN = "1008"
NOT_THERE = "1013"
#: Seconds of a temporary block, and of the pause after a 429 that names none.
BLOCK = 900.0
PAUSE = 1.0
#: The most custom fields of a page.
PAGE = 1000
#: Above this a time of reset is a moment, not a number of seconds: both are documented.
_MOMENT = 1e9

#: What a code means, whatever the HTTP status.
CODES: Mapping[str, tuple[type[DeliveryError], str]] = {
    "1": (Ambiguous, "an internal error"),
    "1000": (Rejected, "a value is refused"),
    "1001": (Unusable, "the list or a field is not there: correct campaign_id, or fields of the settings"),
    "1002": (Rejected, "the contact is blocked, has bounced or was deleted before, or its mailbox does not exist"),
    "1003": (Rejected, "a value has the wrong form"),
    "1004": (Rejected, "there are too many values"),
    "1005": (Rejected, "a value is missing"),
    "1006": (Rejected, "a value has the wrong type"),
    "1007": (Rejected, "a value is too long"),
    TAKEN: (Rejected, "the address is in the list already"),
    "1009": (Rejected, "it is in use"),
    "1010": (Rejected, "a check outside GetResponse has failed"),
    "1011": (Rejected, "it is being sent"),
    "1012": (Rejected, "a text cannot be read"),
    NOT_THERE: (Unusable, "what the path names is not there: is base_url right?"),
    "1014": (Unusable, "the API key is wrong, or has expired (it does after 90 days without use)"),
    "1015": (Throttled, "too many requests"),
    "1016": (LimitReached, "the API is blocked for this account for a while: try again in 15 minutes"),
    "1017": (Unusable, "the API is blocked for this account: ask the vendor's support"),
    "1018": (Unusable, "this IP address is blocked: ask the vendor's support"),
    "1019": (Transient, "maintenance"),
    "1021": (Unusable, "the headers are refused: are api_key, domain and base_url right?"),
    "1023": (Unusable, "the key may not use this account or list"),
    "1024": (Unusable, "there is no such domain: correct domain, or base_url"),
    "1027": (Unusable, "the plan takes no more contacts"),
    "1028": (Rejected, "what it names is restricted"),
    "1029": (Rejected, "a value is restricted"),
}
#: What a status means without one of the codes (gateways answer HTML): any other 4xx is Rejected, 3xx Unusable, and
#: what is left Ambiguous.
STATUSES: Mapping[int, tuple[type[DeliveryError], str]] = {
    401: (Unusable, "the API key is refused"),
    402: (Unusable, "the account is not paid for"),
    403: (Unusable, "access is denied"),
    404: (Unusable, "there is no such address: is base_url right?"),
    405: (Unusable, "the method is refused: is base_url right?"),
    407: (Unusable, "a proxy asks for a password"),
    408: (Ambiguous, "the request took too long"),
    409: CODES[TAKEN],
    410: (Unusable, "there is no such address any more: is base_url right?"),
    415: (Unusable, "the kind of body is refused"),
    429: (Throttled, "too many requests"),
}
#: Codes that a server may give with 5xx; any other 5xx comes from what stands before it.
_OF_SERVER = frozenset({"1", "1019"})
_PLACE = re.compile(r"customFieldValues\D{1,3}(\d{1,3})")


@dataclass(frozen=True, slots=True)
class Card:
    """What is told of a person, beside the address. ``values``: id of a custom field → text."""

    name: str
    values: Mapping[str, str]

    def custom_values(self) -> list[dict[str, Any]]:
        """As they travel: every value is a list, whatever the kind of the field."""
        return [{"customFieldId": field, "value": [text]} for field, text in self.values.items()]

    def without(self, answer: Answer, names: Mapping[str, str]) -> "Card":
        """Without what the answer blames: cut where it is too long, else left out. ``names``: id → name."""
        blamed, limit = self._blamed(answer, names), longest_allowed(answer)

        def kept(text: str) -> str:
            return cut(text, limit) if limit is not None and utf16_units(text) > limit else ""

        values = {field: kept(text) if field in blamed else text for field, text in self.values.items()}
        name = kept(self.name) if "name" in blamed else self.name
        return Card(name, {field: text for field, text in values.items() if text})

    def lost(self, again: "Card", names: Mapping[str, str]) -> str:
        """The names of what ``again`` has otherwise, or not at all."""
        lost = [names.get(field, field) for field, text in self.values.items() if again.values.get(field) != text]
        return ", ".join([*lost, *(["name"] if again.name != self.name else [])])

    def _blamed(self, answer: Answer, names: Mapping[str, str]) -> set[str]:
        """Ids of custom fields, and ``name``: the vendor blames them by name, id or place."""
        found: set[str] = set()
        for path in blamed(answer):
            words = {path, *re.findall(r"[A-Za-z0-9_-]+", path)}
            found |= {field for field in self.values if {field, names.get(field)} & words}
            if path == "name":
                found.add(path)
            if place := _PLACE.search(path):
                found |= set(list(self.values)[int(place[1]) :][:1])
        return found


class Api:
    """One account. ``exchange`` sends a request; the pause after a 429 is that of the bucket ``scope``."""

    def __init__(
        self,
        toolbox: Toolbox,
        exchange: Callable[[HttpRequest], Awaitable[Answer]],
        base: str,
        headers: Mapping[str, str],
        scope: str,
    ) -> None:
        self.base = base.rstrip("/")
        self._toolbox = toolbox
        self._exchange = exchange
        self._headers = headers
        self._scope = scope

    def get(self, path: str) -> HttpRequest:
        return HttpRequest("GET", self.base + path, headers=self._headers)

    def post(self, path: str, body: object) -> HttpRequest:
        return HttpRequest.json("POST", self.base + path, body, self._headers)

    def failure(self, answer: Answer, good: int = 200) -> DeliveryError | None:
        """What the answer says is wrong; None where its status is the good one, and it is no error."""
        code = _code(answer)
        if answer.status == good and not code:
            return None
        kind, meaning = self._meaning(answer.status, code)
        now = self._toolbox.clock.now().timestamp()
        message = f"GetResponse: {meaning} ({self._words(answer)})"
        details: dict[str, Any] = {"vendor_code": code or str(answer.status), "path": _path(answer)}
        if kind is Throttled:
            wait = named_wait(answer, now)
            wait = PAUSE / self._toolbox.scale if wait is None else wait
            return with_status(Throttled(message, retry_after=wait, scope=self._scope, **details), answer)
        if kind is LimitReached:
            return with_status(LimitReached(message, until=now + BLOCK, **details), answer)
        return with_status(kind(message, **details), answer)

    def _meaning(self, status: int, code: str) -> tuple[type[DeliveryError], str]:
        if status >= 500 and code not in _OF_SERVER:
            return Ambiguous, f"HTTP {status}"
        known = CODES.get(code) or STATUSES.get(status)
        if known is not None:
            return known
        if 300 <= status < 400:
            return Unusable, f"HTTP {status}: is base_url right?"
        return (Rejected if 400 <= status < 500 else Ambiguous), f"HTTP {status}"

    def _words(self, answer: Answer) -> str:
        body = _error(answer)
        reasons = [entry.get("errorDescription") for entry in contexts(answer)]
        said = ": ".join(str(part) for part in (body.get("message"), *reasons) if part) if body else answer.text
        return clean(self._toolbox.secrets.hide(said), 200 if body else 80) or "no explanation"

    async def read(self, path: str, *, of_lead: bool = False) -> Any:
        """The JSON of a good answer; None where nothing is there. It makes nothing, so a failure leaves nothing in
        doubt, and a refusal is of the credential, unless the question is about a lead."""
        try:
            answer = await self._exchange(self.get(path))
            if answer.status == 404 and _code(answer) in ("", NOT_THERE):
                return None
            if (failure := self.failure(answer)) is not None:
                raise failure
            return answer.json()
        except Ambiguous as error:
            raise nothing_made(error) from None
        except Rejected as error:
            if of_lead:
                raise
            raise of_settings(error) from None

    async def list(self, path: str, identity: str, *, of_lead: bool = False) -> Sequence[Mapping[str, Any]]:
        """A list of objects with that id. Raises Transient where it is none: no absence is read out of that."""
        items = await self.read(path, of_lead=of_lead)
        if items is None:
            return []
        if not isinstance(items, list) or not all(isinstance(i, dict) and _is_id(i.get(identity)) for i in items):
            raise Transient("GetResponse's list is not of the documented form", http_status=200)
        return items

    async def custom_fields(self) -> Mapping[str, str]:
        """The account's custom fields: id → name."""
        found: dict[str, str] = {}
        for number in range(1, 11):
            items = await self.list(f"/custom-fields?perPage={PAGE}&page={number}", "customFieldId")
            found |= {item["customFieldId"]: str(item.get("name") or "") for item in items}
            if len(items) < PAGE:
                break
        return found


def named_wait(answer: Answer, now: float) -> float | None:
    """Seconds that a 429 names: in ``Retry-After``, else ``X-RateLimit-Reset``, else its body. The last two say
    ``"432 seconds"``, or are a moment in Unix time."""
    if (seconds := answer.retry_after(now)) is not None:
        return seconds
    told = [answer.headers.get("x-ratelimit-reset"), *(entry.get("timeToReset") for entry in contexts(answer))]
    for text in told:
        if match := re.match(r"\s*(\d{1,12})\b", str(text)):
            number = float(match[1])
            return max(0.0, number - now) if number > _MOMENT else number
    return None


def contexts(answer: Answer) -> list[Mapping[str, Any]]:
    """The details of an error: an object, or several of them."""
    context = _error(answer).get("context")
    entries = context if isinstance(context, list) else [context]
    return [entry for entry in entries if isinstance(entry, dict)]


def blamed(answer: Answer) -> list[str]:
    """What an error names as the field at fault, in the vendor's words."""
    keys = ("fieldName", "originalName", "customFieldId")
    return [entry[key] for entry in contexts(answer) for key in keys if isinstance(entry.get(key), str)]


def longest_allowed(answer: Answer) -> int | None:
    """The most characters that an error allows; how it says so is not documented, but that it does."""
    numbers = re.findall(r"(?<![\w.-])\d{2,5}(?![\w.-])", json.dumps(contexts(answer)))
    return max(map(int, numbers), default=None)


def contact_of(items: Sequence[Mapping[str, Any]], address: str, list_id: str) -> str | None:
    """The id of the contact with exactly this address, in this list."""
    for item in items:
        place = item.get("campaign")
        there = place.get("campaignId", list_id) if isinstance(place, dict) else list_id
        if str(item.get("email")).lower() == address.lower() and there == list_id:
            return str(item["contactId"])
    return None


def shown(details: object, field: str) -> list[str]:
    """The values of a custom field in a contact's details. Raises Transient where they are no such details."""
    customs = details.get("customFieldValues", []) if isinstance(details, dict) else details
    if customs is None:
        return []
    if not isinstance(customs, list) or not all(isinstance(custom, dict) for custom in customs):
        raise Transient("GetResponse's contact is not of the documented form", http_status=200)
    values = [custom.get("value") for custom in customs if custom.get("customFieldId") == field]
    return [str(text) for value in values for text in (value if isinstance(value, list) else [value]) if text]


def _error(answer: Answer) -> Mapping[str, Any]:
    body = answer.json_or_none()
    return body if isinstance(body, dict) else {}


def _code(answer: Answer) -> str:
    """The code of an error; empty where the answer is none, or has none."""
    body = _error(answer)
    is_error = answer.status >= 400 or "httpStatus" in body or "codeDescription" in body
    code = body.get("code") if is_error else None
    return clean(str(code), 20) if isinstance(code, (int, str)) and not isinstance(code, bool) else ""


def _path(answer: Answer) -> str | None:
    return next((clean(name, 80) for name in blamed(answer)), None)


def _is_id(value: object) -> bool:
    """It is put into a path as it is."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value))
