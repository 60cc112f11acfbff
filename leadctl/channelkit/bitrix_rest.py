"""Bitrix24's REST without leads: what its answers mean, and how fast its batches may go.

An error is judged by its code: the HTTP status of a code differs between documentation, SDKs and versions of
the server (https://apidocs.bitrix24.com/limits.html).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leadctl.channelkit.http import Answer
from leadctl.channelkit.phpquery import php_map
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Unusable,
)
from leadctl.domain.masking import clean

#: Commands in one batch, and rows on one page of a list.
BATCH = PAGE = 50
FIRST_BATCH = 10
#: Seconds of server time that one batch should take: well below the 60 s at which it is killed.
BATCH_SECONDS = 25.0
#: Execution time is counted per method in 10 minutes; 420 s is the lowest allowance known.
OPERATING_PAUSE = 0.8 * 420
OPERATING_WINDOW = 600.0

CODES: Mapping[type[DeliveryError], tuple[str, ...]] = {
    Throttled: ("QUERY_LIMIT_EXCEEDED", "OPERATION_TIME_LIMIT", "ERROR_BATCH_LENGTH_EXCEEDED"),
    LimitReached: ("OVERLOAD_LIMIT",),
    Unusable: (
        "NO_AUTH_FOUND", "INVALID_CREDENTIALS", "insufficient_scope", "ACCESS_DENIED", "user_access_error",
        "allowed_only_intranet_user", "PAYMENT_REQUIRED", "authorization_error", "invalid_token", "expired_token",
        "APPLICATION_NOT_FOUND", "ERROR_OAUTH", "WRONG_AUTH_TYPE", "METHOD_CONFIRM_WAITING",
        "METHOD_CONFIRM_DENIED", "PORTAL_DELETED", "ERROR_METHOD_NOT_FOUND", "NOT_FOUND", "INVALID_REQUEST",
        "ERROR_BATCH_METHOD_NOT_ALLOWED", "CREATE_DYNAMIC_ITEM_RESTRICTED",
    ),
    Rejected: (
        "CRM_FIELD_ERROR_REQUIRED", "CRM_FIELD_ERROR_VALUE_NOT_VALID", "100", "ERROR_ARGUMENT", "INVALID_ARG_VALUE",
    ),
    Ambiguous: ("INTERNAL_SERVER_ERROR", "ERROR_UNEXPECTED_ANSWER"),
}  # fmt: skip
_KIND_OF = {code.upper(): kind for kind, codes in CODES.items() for code in codes}
#: Where the code is empty, or the one for everything, the words decide. ERROR_CORE may also be a fault of the
#: database after the item was made: only a complaint about a field is a refusal.
TEXTS: tuple[tuple[str, str, type[DeliveryError]], ...] = (
    ("", "disk resource exhausted", Unusable),
    ("", r"\S", Rejected),
    ("ERROR_CORE", r"\bfields?\b|address|required|invalid|пол[еяю]\b|адрес|обязател|некоррект|неверн", Rejected),
)
#: Without a code that is known the status is all there is; whatever is not here may have been executed.
STATUSES: Mapping[int, type[DeliveryError]] = {
    401: Unusable, 402: Unusable, 403: Unusable, 404: Unusable, 405: Unusable, 410: Unusable,
    413: Split, 429: Throttled,
}  # fmt: skip
ADVICE: Mapping[str, str] = {
    "NO_AUTH_FOUND": "the webhook is deleted, expired or mistyped",
    "INVALID_CREDENTIALS": "the webhook is deleted, expired or mistyped",
    "INSUFFICIENT_SCOPE": "tick the scope crm in the webhook",
    "ACCESS_DENIED": "the webhook's owner may not add this, or the portal's plan has lapsed",
    "ERROR_METHOD_NOT_FOUND": "is webhook_url complete, and the CRM switched on?",
    "PORTAL_DELETED": "the portal is deleted, or closed for maintenance",
    "OVERLOAD_LIMIT": "the vendor has blocked REST on this portal, and only its support lifts that",
}
#: What ``leadctl channels`` and the README show.
ERROR_TABLE: Mapping[str, str] = {
    **{", ".join(codes): kind.__name__ for kind, codes in CODES.items()},
    "no code, but a text": "Rejected",
    "ERROR_CORE that complains about a field": "Rejected",
    "time-out, reset, 5xx without a known code, a command that the answer leaves out": "Ambiguous",
}
_NAMED_FIELD = re.compile(
    r"""\bfield\s+['"]([^'"]{1,60})['"]|['"]([^'"]{1,60})['"]\s+field\b|\bполе\s+[«"']([^»"']{1,60})[»"']""",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class BatchReply:
    """The answer of a batch, by the name of the command. What is in neither map was perhaps not run."""

    results: Mapping[str, Any]
    errors: Mapping[str, Any]
    times: Sequence[Mapping[str, Any]]
    #: The server's clock (ours where it does not say), in Unix seconds.
    finished: float


def read_batch(answer: Answer, commands: int, now: float) -> BatchReply:
    """The answer of a batch of so many commands. Raises what the whole request ended in; ``now`` is Unix time."""
    body = answer.json_or_none()
    if not isinstance(body, dict) or not ("error" in body or "result" in body):
        message = f"the portal answers HTTP {answer.status} without a readable body"
        kind = STATUSES.get(answer.status, Ambiguous)
        raise _whole(kind(message, http_status=answer.status), answer, commands, now)
    if "error" in body:
        raise _whole(error_of(body, answer.status), answer, commands, now)
    result = php_map(body["result"])
    if "result" not in result:
        raise Ambiguous("the answer holds no results", http_status=answer.status, answer=answer.excerpt)
    timings = php_map(result.get("result_time")).values()
    return BatchReply(
        results=php_map(result["result"]),
        errors=php_map(result.get("result_error")),
        times=[timing for timing in timings if isinstance(timing, dict)],
        finished=number(php_map(body.get("time")).get("finish")) or now,
    )


def _whole(error: DeliveryError, answer: Answer, commands: int, now: float) -> DeliveryError:
    """An error of the request as a whole."""
    details: dict[str, Any] = {
        "vendor_code": error.vendor_code, "http_status": answer.status, "answer": answer.excerpt,
    }  # fmt: skip
    if error.vendor_code == "ERROR_BATCH_LENGTH_EXCEEDED":
        return Split(error.message, **details)
    if isinstance(error, Rejected) and commands > 1:
        # it complains about one lead and does not say which: nothing proves that none was made
        return Split(error.message, executed_maybe=True, **details)
    if isinstance(error, Throttled):
        error.retry_after = answer.retry_after(now)
    error.answer = answer.excerpt
    return error


def error_of(body: Mapping[str, Any], status: int | None = None) -> DeliveryError:
    """What ``{"error": …, "error_description": …}`` means. Inside a batch there is no status."""
    code = clean(str(body.get("error") or ""), 80)
    text = clean(re.sub(r"<[^>]*>", " ", str(body.get("error_description") or "")), 300)
    kind = _KIND_OF.get(code.upper()) or _by_text(code, text, status) or STATUSES.get(status or 0, Ambiguous)
    named = _NAMED_FIELD.search(text)
    advice = ADVICE.get(code.upper())
    return kind(
        f"Bitrix24 answers: {text or code or 'an error without words'}{f' ({advice})' if advice else ''}",
        vendor_code=code or None,
        http_status=status,
        path=next(filter(None, named.groups()), None) if named else None,
    )


def _by_text(code: str, text: str, status: int | None) -> type[DeliveryError] | None:
    if code.upper().startswith("CRM_FIELD_ERROR_"):
        return Rejected
    if (status or 0) >= 500:
        return None
    for known, pattern, kind in TEXTS:
        if code.upper() == known and re.search(pattern, text, re.IGNORECASE):
            return kind
    return None


@dataclass(slots=True)
class Pace:
    """How large the next batch may be, and when it may go. ``now`` is of a monotonic clock."""

    size: int = FIRST_BATCH
    ceiling: int = BATCH
    #: Server time of one command, smoothed.
    seconds: float | None = None
    #: When the oldest part of the execution time is forgotten.
    reset_at: float = 0.0
    pause_until: float = 0.0

    def learn(self, reply: BatchReply, now: float) -> None:
        """From a good answer: how long a command takes, and how much execution time is used up."""
        for timing in reply.times:
            duration = number(timing.get("duration"))
            if duration is not None:
                self.seconds = duration if self.seconds is None else 0.7 * self.seconds + 0.3 * duration
            used, reset = number(timing.get("operating")), number(timing.get("operating_reset_at"))
            if used is not None and reset is not None:
                # from one time of the server to another: its clock may differ from ours
                self.reset_at = now + min(max(reset - reply.finished, 0.0), OPERATING_WINDOW)
                self.pause_until = self.reset_at if used > OPERATING_PAUSE else 0.0
        self.ceiling = min(BATCH, self.ceiling * 2)
        if self.seconds is not None:
            self.size = max(1, min(self.ceiling, int(BATCH_SECONDS / max(self.seconds, 0.01))))

    def slow_down(self) -> None:
        """After a time-out or a 504: half as many commands."""
        self.size = self.ceiling = max(1, self.size // 2)

    def until_reset(self, now: float) -> float | None:
        return self.reset_at - now if self.reset_at > now else None


def number(value: object) -> float | None:
    """PHP sends a number as one or as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def item_id(item: object) -> int | None:
    """The id of an item, or None where there is none."""
    found = number(item.get("id")) if isinstance(item, Mapping) else None
    return int(found) if found is not None and 1 <= found < 1e15 else None
