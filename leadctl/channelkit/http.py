"""HTTP channels: build → exchange → parse. The base owns the exchange; a vendor is two pure functions."""

import asyncio
import hashlib
import json
import math
import ssl
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from leadctl.channelkit.channel import Channel, ChannelConfig, ChannelSettings, Toolbox
from leadctl.channelkit.network import AddressNotAllowed
from leadctl.channelkit.spec import Step
from leadctl.channelkit.transport import (
    FAILURES,
    Bounds,
    GuardedTransport,
    HttpxTransport,
    InvalidAddress,
    Phase,
    Transport,
)
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Transient, Unusable
from leadctl.domain.masking import clean
from leadctl.domain.model import Delivery, Receipt, Verdict
from leadctl.version import __version__

if TYPE_CHECKING:
    import httpx

USER_AGENT = f"leadctl/{__version__}"
#: The most bytes of an answer that are read: a list of 250 amoCRM leads is about 1 MB.
MAX_ANSWER = 4 * 1024 * 1024
#: Seconds that a vendor is always given, however much ``[limits] scale`` shortens our own waits.
MIN_TIMEOUT = 2.0

ConfigT = TypeVar("ConfigT", bound=ChannelConfig)
SettingsT = TypeVar("SettingsT", bound=ChannelSettings)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request; the URL may hold a secret, so it is never shown."""

    method: str
    url: str = field(repr=False)
    content: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def json(cls, method: str, url: str, body: object, headers: Mapping[str, str] | None = None) -> "HttpRequest":
        """A JSON body, compact, UTF-8."""
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        return cls(method, url, content, {"Content-Type": "application/json", **(headers or {})})

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete status line and headers; the body may have broken off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    #: False if the body broke off, was too long or too slow.
    complete: bool = True

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises Ambiguous if it cannot be read, whatever the status."""
        if not self.complete:
            raise Ambiguous("the vendor's answer broke off", http_status=self.status, answer=self.excerpt)
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise Ambiguous(
                f"the vendor's answer (HTTP {self.status}) is not JSON", http_status=self.status, answer=self.excerpt
            ) from None

    def json_or_none(self) -> Any:
        """The body as JSON, or None where it cannot be read: for errors, whose status says enough."""
        try:
            return self.json()
        except Ambiguous:
            return None

    @property
    def excerpt(self) -> str:
        return clean(self.text, 300)

    def retry_after(self, now: float) -> float | None:
        """Seconds named by ``Retry-After`` (a number or a date); ``now`` is Unix seconds."""
        value = self.headers.get("retry-after", "").strip()
        if not value:
            return None
        try:
            seconds = float(value)
            return max(0.0, seconds) if math.isfinite(seconds) else None
        except ValueError:
            pass
        try:
            date = parsedate_to_datetime(value)
            return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
        except (TypeError, ValueError, OverflowError):
            return None


class HttpChannel(Channel[ConfigT, SettingsT]):
    """A channel whose vendor speaks HTTP."""

    #: The most bytes of an answer that are read.
    max_answer = MAX_ANSWER

    def __init__(self, config: ConfigT, settings: SettingsT, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        self._transport: Transport | None = None

    @abstractmethod
    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        """The request for this batch. Pure."""

    @abstractmethod
    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        """What the answer says of each delivery key. Pure. Raises a DeliveryError for the whole batch."""

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        request = self.build(step, batch)
        try:
            answer = await self.exchange(request)
            receipts = self.parse(step, batch, answer)
        except DeliveryError as error:
            error.request_digest = request.digest
            raise
        return Verdict(receipts, answer.status, request.digest)

    def use_transport(self, transport: "httpx.AsyncBaseTransport") -> None:
        """Speak through this transport (tests: ``httpx.MockTransport``)."""
        self._transport = HttpxTransport(transport)

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 a total deadline, kept here
        """Send one request and read the answer.

        Raises Transient (surely not sent), Ambiguous (maybe), or Unusable (address or certificate refused).
        """
        if self._transport is None:
            self._transport = GuardedTransport(self.toolbox.guard, connections=self.spec.concurrency + 1)
        total = max(MIN_TIMEOUT, (timeout or self.spec.request_timeout) / self.toolbox.scale)
        phase = Phase()
        self.exchanges += 1
        try:
            return await self._exchange(self._transport, request, total, phase)
        except TimeoutError as error:
            raise _failure(f"no answer within {total:g} s", phase, error, request.url) from None
        except AddressNotAllowed as error:
            raise Unusable(str(error), address_not_allowed=True) from None
        except InvalidAddress:
            raise Unusable("the address of this credential is not a valid URL") from None
        except FAILURES as error:
            raise _failure(_describe(error), phase, error, request.url) from None

    async def _exchange(self, transport: Transport, request: HttpRequest, total: float, phase: Phase) -> Answer:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **request.headers}
        _check_headers(headers)
        deadline = asyncio.get_running_loop().time() + total
        bounds = Bounds(deadline, min(self.spec.connect_timeout, total), self.max_answer)
        reply = await transport.request(request.method, request.url, headers, request.content, bounds, phase)
        return Answer(reply.status, reply.headers, reply.body, reply.complete)

    async def close(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None


def _check_headers(headers: Mapping[str, str]) -> None:
    """h11 and httpx would name the value, which may be a secret, in their errors."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and name.isascii() and name.isprintable()):
            raise Unusable(
                f"the header {clean(name, 60)} would hold a character that HTTP does not allow there: "
                "correct the value in the credential"
            )


def _failure(text: str, phase: Phase, error: BaseException, url: str) -> DeliveryError:
    host = urlsplit(url).hostname or "the vendor"
    if phase.bytes_sent:
        return Ambiguous(f"{host}: {text}, after the request had left")
    if _certificate_refused(error):
        return Unusable(f"{host}: the server's certificate is not accepted ({text})")
    return Transient(f"{host}: {text}; nothing was sent")


def _certificate_refused(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _describe(error: BaseException) -> str:
    """Type and text of a failure; no URL is put into these texts, but a path could hide there."""
    text = clean(str(error), 160)
    name = type(error).__name__
    return f"{name}: {text}" if text and "/" not in text else name


def with_status(error: DeliveryError, answer: Answer) -> DeliveryError:
    """The error with the answer's status and excerpt, where it has none."""
    error.http_status = error.http_status or answer.status
    error.answer = error.answer or answer.excerpt
    return error


def nothing_made(error: Ambiguous) -> Transient:
    """The failure of a request that only asks: it leaves nothing in doubt."""
    return Transient(error.message, **_details(error))


def of_settings(error: Rejected) -> Unusable:
    """The refusal of a request that holds no lead: the credential is to blame."""
    return Unusable(error.message, **_details(error))


def _details(error: DeliveryError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in ("vendor_code", "http_status", "path", "answer")}
