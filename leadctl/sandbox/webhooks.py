"""A receiver of webhooks, as Standard Webhooks asks it to be: it verifies signatures and remembers ids."""

import base64
import email.utils
import hashlib
import hmac
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qs

from aiohttp import web

from leadctl.sandbox.judge import Creation, Faults, Judge
from leadctl.sandbox.vendor import HttpVendor

PATH = "/hooks/leads"
#: A timestamp may be off by so many seconds, in either direction.
TOLERANCE = 300

#: Answers that can be scripted beside the faults that every vendor knows: status and headers.
ANSWERS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "rate_limit": (429, {"Retry-After": "1"}),
    "rate_limit_without_time": (429, {}),
    "server_error": (500, {}),
    "overloaded": (503, {"Retry-After": "1"}),
    "unauthorized": (401, {}),
    "reject": (422, {}),
    # A receiver that answers 2xx has accepted, whatever it writes: its errors are statuses.
    "error_body": (400, {}),
    "abort-message": (500, {"webhook-delivery": "abort-message"}),
    "disable": (500, {"webhook-delivery": "disable"}),
    "redirect": (301, {"Location": "http://169.254.169.254/latest/meta-data/"}),
    **{str(status): (status, {}) for status in (400, 403, 404, 405, 408, 409, 410, 413, 425, 502, 503, 504)},
}


@dataclass(frozen=True, slots=True)
class Received:
    """One request that was accepted."""

    headers: Mapping[str, str]
    body: bytes


class Refused(Exception):
    """The receiver does not accept the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class WebhooksVendor(HttpVendor):
    """One endpoint. ``secrets`` are those that it accepts; without any it takes unsigned events."""

    name = "webhooks"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {
        "error_body": ("rejected", "rejected"),
        "broken_answer": ("delivered", "delivered"),
        "half_batch": ("delivered", "delivered"),
    }

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.secrets = ["whsec_" + base64.b64encode(b"sandbox secret, 24 bytes").decode()]
        #: What a sender must never do, in words.
        self.alarms: list[str] = []
        #: The latest that were accepted.
        self.received: deque[Received] = deque(maxlen=1000)
        self.now: Callable[[], float] = time.time
        self._bodies: dict[str, str] = {}

    def credential(self) -> Mapping[str, Any]:
        return {"url": self.url + PATH, "secrets": list(self.secrets)}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [web.route("*", PATH, self._receive)]

    def refusal(self, kind: str) -> web.Response:
        if kind == "rate_limit_date":
            return _answer(
                429, "Too many requests", {"Retry-After": email.utils.formatdate(self.now() + 2, usegmt=True)}
            )
        status, headers = ANSWERS[kind]
        return _answer(status, f"scripted: {kind}", headers)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        lead = lead_of(request.content_type, body)

        async def execute(kind: str | None) -> web.Response:
            del kind  # an event is never half of a batch
            try:
                return self._accept(request, body, lead)
            except Refused as refused:
                return _answer(refused.status, refused.message)

        return await self.with_faults(request, [lead], execute)

    def _accept(self, request: web.Request, body: bytes, lead: str) -> web.Response:
        if request.method not in ("POST", "PUT", "PATCH"):
            raise Refused(405, "Method not allowed")
        if request.content_type not in ("application/json", "application/x-www-form-urlencoded"):
            raise Refused(415, "Unsupported content type")
        if not lead:
            raise Refused(400, "No lead in the body")
        self._watch(request, body)
        identity = self._verify(request, body)
        digest = hashlib.sha256(body).hexdigest()
        twin = identity in self._bodies
        if self._bodies.setdefault(identity, digest) != digest:
            self.alarms.append(f"{identity}: another body under the same id")
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, body))
        self.judge.created(Creation(self.name, lead, identity, identity, body.decode(), twin=twin))
        return web.json_response({"id": identity, "twin": twin})

    def _watch(self, request: web.Request, body: bytes) -> None:
        """Note what is wrong although it can be verified."""
        if request.headers.get("Content-Length") != str(len(body)):
            self.alarms.append("Content-Length is missing or wrong")
        for name in ("webhook-id", "webhook-timestamp", "webhook-signature", "content-type"):
            if len(request.headers.getall(name, [])) > 1:
                self.alarms.append(f"{name} is there more than once")
        if "." in request.headers.get("webhook-id", ""):
            self.alarms.append("webhook-id holds a full stop")

    def _verify(self, request: web.Request, body: bytes) -> str:
        """The event's id. Raises Refused unless the time is near and a secret signed these bytes."""
        identity = request.headers.get("webhook-id", "")
        timestamp = request.headers.get("webhook-timestamp", "")
        signatures = request.headers.get("webhook-signature", "")
        if not identity or not timestamp or (self.secrets and not signatures):
            raise Refused(401, "Missing required headers")
        if not timestamp.isascii() or not timestamp.isdigit():
            raise Refused(401, "Invalid Signature Headers")
        if int(timestamp) < self.now() - TOLERANCE:
            raise Refused(401, "Message timestamp too old")
        if int(timestamp) > self.now() + TOLERANCE:
            raise Refused(401, "Message timestamp too new")
        if self.secrets and not self._signed(f"{identity}.{timestamp}.".encode() + body, signatures):
            raise Refused(401, "No matching signature found")
        return identity

    def _signed(self, text: bytes, signatures: str) -> bool:
        expected = [signature(secret, text) for secret in self.secrets]
        given = [item.partition(",")[2] for item in signatures.split(" ") if item.startswith("v1,")]
        return any(hmac.compare_digest(mine.encode(), theirs.encode()) for mine in expected for theirs in given)


def signature(secret: str, text: bytes) -> str:
    """Base64 of HMAC-SHA256 under the decoded secret."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def lead_of(content_type: str, body: bytes) -> str:
    """The id of the lead in an event, or an empty text."""
    try:
        if content_type == "application/json":
            return str(json.loads(body)["data"]["id"])
        return parse_qs(body.decode(), strict_parsing=True)["id"][0]
    except (ValueError, KeyError, TypeError):
        return ""


def _answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": message}, status=status, headers=dict(headers or {}))
