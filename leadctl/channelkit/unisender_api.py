"""What UniSender answers: ``{"result": …}``, or ``{"error": …, "code": …}``, both with HTTP 200."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leadctl.channelkit.http import Answer, with_status
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.masking import clean

#: The vendor's codes: https://selzy.com/en/support/api/common/api-errors/. One that is not here may mean anything:
#: Ambiguous, and the upsert is repeated.
CODES: Mapping[str, tuple[type[DeliveryError], str]] = {
    "invalid_api_key": (Unusable, "the API key is wrong"),
    "access_denied": (Unusable, "API access is switched off in the account, or this method is not allowed"),
    "unknown_method": (Unusable, "there is no such method: is base_url right?"),
    "not_enough_money": (Unusable, "the balance or the plan is spent"),
    "invalid_arg": (Rejected, "a value is refused"),
    "unspecified": (Rejected, "refused"),
    "too_many_double_optins": (Rejected, "too many confirmation letters"),
    "retry_later": (Transient, "a temporary failure"),
    "api_call_limit_exceeded_for_api_key": (Throttled, "too many calls with this key"),
    "api_call_limit_exceeded_for_ip": (Throttled, "too many calls from this address"),
}
#: What has no code of its own, by how its text begins and ends. Only the English words are published.
TEXTS: Mapping[str, tuple[type[DeliveryError], str]] = {
    r"These list ids=.* no confirmation letters.*": (
        Unusable,
        "a list has no confirmation letter: write one there, or set double_optin 3",
    ),
    r"Call to a member function getMessage\(\) on boolean.*": (
        Unusable,
        "it found parameters in the URL too: has base_url a query?",
    ),
    r"Contacts .* owned by different subscribers.*": (Rejected, "e-mail and phone belong to two contacts"),
}
_OWNERS = r"Contacts .* owned by different subscribers.*"
_WITHOUT_CODE = frozenset({"", "invalid_arg", "unspecified"})
#: ``OB13012016 [Can't find user by provided login]``
_MARKED = re.compile(r"[A-Z]{1,4}\d+\s*\[(.*)\]", re.DOTALL)
#: Statuses without one of the codes come from what stands before the vendor.
_REFUSED = frozenset({401, 402, 403, 404, 405, 407, 410})


@dataclass(frozen=True, slots=True)
class Envelope:
    """Reads answers. ``wait``: seconds to pause after a limit, for no answer names them; the scopes are those of the
    buckets that pause; ``hide`` replaces secrets."""

    hide: Callable[[str], str]
    now: Callable[[], float]
    wait: float
    key_scope: str
    ip_scope: str

    def result(self, answer: Answer) -> Any:
        """``result`` of a good answer. Raises what the vendor, or what stands before it, says."""
        status, body = answer.status, answer.json_or_none()
        failed = isinstance(body, dict) and "error" in body
        code = str(body.get("code") or "") if failed else ""
        if status >= 500 or status == 408 or status < 200:
            raise with_status(Ambiguous(f"UniSender answers HTTP {status}", vendor_code=code or str(status)), answer)
        if failed and (status < 300 or code in CODES):
            raise with_status(self._error(code, str(body["error"])), answer)
        if status >= 300:
            raise with_status(self._unexplained(answer), answer)
        body = answer.json()
        if not isinstance(body, dict) or "result" not in body:
            raise unreadable(answer)
        return body["result"]

    def refused_row(self, entry: Mapping[str, Any]) -> Rejected:
        """A row in the log of an import; its codes are not published. ``path`` is ``phone`` if only that is wrong."""
        code, text = clean(str(entry.get("code") or ""), 80), self._words(str(entry.get("message") or ""))
        path = "phone" if re.fullmatch(_OWNERS, text) else None
        return Rejected(f"UniSender does not import it: {text or code}", vendor_code=code or None, path=path)

    def _error(self, code: str, text: str) -> DeliveryError:
        """By its code; where it has none of its own, by its words."""
        said = self._words(text)
        kind, meaning = CODES.get(code, (Ambiguous, "an error of an unknown code"))
        path = None
        if code in _WITHOUT_CODE and (found := next((form for form in TEXTS if re.fullmatch(form, said)), None)):
            kind, meaning = TEXTS[found]
            path = "phone" if found == _OWNERS else None
        message, vendor_code = f"UniSender: {meaning} ({said})", clean(code, 80) or None
        if kind is Throttled:
            scope = self.ip_scope if code.endswith("_ip") else self.key_scope
            return Throttled(message, retry_after=self.wait, scope=scope, vendor_code=vendor_code)
        return kind(message, vendor_code=vendor_code, path=path)

    def _unexplained(self, answer: Answer) -> DeliveryError:
        """A 3xx or 4xx without one of the codes: not documented."""
        status, code = answer.status, str(answer.status)
        said = f"UniSender: HTTP {status} ({self._words(answer.text) or 'no reason given'})"
        if status == 429:
            wait = answer.retry_after(self.now())
            wait = self.wait if wait is None else wait
            return Throttled(said, retry_after=wait, scope=self.key_scope, vendor_code=code)
        kind = Unusable if status < 400 or status in _REFUSED else Rejected
        return kind(said, vendor_code=code)

    def _words(self, text: str) -> str:
        """A text without its internal mark, as it may be shown."""
        marked = _MARKED.fullmatch(text.strip())
        return clean(self.hide(marked[1] if marked else text), 200)


def unreadable(answer: Answer) -> DeliveryError:
    """An answer of a form that is not documented."""
    return with_status(Ambiguous("UniSender's answer is not of the documented form"), answer)


def log_of(result: object) -> Sequence[Mapping[str, Any]]:
    """The log of an import; PHP writes a list with gaps as a map. Raises ValueError."""
    entries = result.get("log", []) if isinstance(result, dict) else None
    entries = list(entries.values()) if isinstance(entries, dict) else entries
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("no log")
    return entries


def number_of(holder: object, name: str) -> int:
    """A number, which PHP may write as text. Raises ValueError."""
    value = holder.get(name) if isinstance(holder, Mapping) else None
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,18}", str(value)):
        raise ValueError(f"no {name}")
    return int(str(value))


def beside_or_inside(result: Mapping[str, Any], name: str) -> object:
    """``lists`` and ``fields`` of a contact stand beside ``email``; one public client expects them inside it."""
    inner = result.get("email")
    return result.get(name, inner.get(name) if isinstance(inner, dict) else None)
