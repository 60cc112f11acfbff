"""Outgoing webhooks, as Standard Webhooks describes them: one signed event a lead.

``webhook-id`` is a pure function of the delivery, and the body is byte-equal over all attempts, so that a
receiver can recognise a repeat; only the time of the attempt and the signature change.
"""

import asyncio
import base64
import binascii
import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit

import httpx
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationInfo, field_validator
from standardwebhooks.webhooks import Webhook

from leadctl.channelkit.channel import ChannelConfig, ChannelSettings
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, with_status
from leadctl.channelkit.network import AddressNotAllowed
from leadctl.channelkit.shorten import cut, longest, utf16_units
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.masking import clean
from leadctl.domain.model import Delivery, Destination, Done, Lead, Receipt

#: Bytes of a body that every receiver takes: the comment is cut to keep it.
USUAL_BYTES = 20_000
#: Bytes of a body that is never sent.
MAX_BYTES = 256 * 1024
#: A comment keeps so many bytes even where the answers alone are longer than usual.
COMMENT_BYTES = 4_000

_UTM = ("source", "medium", "campaign", "term", "content")
_UNSAFE = re.compile(r"[\x00\ud800-\udfff]")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
#: What says how the body travels, and is ours to say.
_OUR_HEADERS = frozenset({
    "content-type", "content-length", "content-encoding", "host", "transfer-encoding", "connection", "accept-encoding",
    "expect", "upgrade", "te", "trailer",
})  # fmt: skip

#: What a status means; a 4xx that is not here is Rejected, any other status Ambiguous.
STATUSES: Mapping[int, tuple[type[DeliveryError], str]] = {
    401: (Unusable, "it does not accept our signature or headers"),
    402: (Unusable, "the receiver's plan is spent"),
    403: (Unusable, "it does not accept our signature, headers or address"),
    404: (Unusable, "there is no receiver at this URL"),
    405: (Unusable, "the receiver does not take this method"),
    407: (Unusable, "a proxy asks for a password"),
    408: (Ambiguous, "it gave up waiting for the request"),
    410: (Unusable, "the receiver wants no more events"),
    415: (Unusable, "the receiver does not take this kind of body"),
    421: (Unusable, "this server does not answer for that host"),
    425: (Ambiguous, "it does not want the request yet"),
    426: (Unusable, "it wants another protocol"),
    451: (Unusable, "it is not allowed to take events"),
}


def _url(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not re.match(r"https?://[^/?#]", text, re.IGNORECASE):
        raise ValueError("expected https://HOST/… (http:// only for hosts inside [network] allow_private)")
    if "\\" in text or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in text):
        raise ValueError("holds a space, a control character or a backslash")
    try:
        url = httpx.URL(text).copy_with(fragment=None)
        url = url.copy_with(raw_path=url.raw_path)  # an empty path and "/" are one address
    except httpx.InvalidURL:
        raise ValueError("is not a valid URL") from None
    if not url.host:
        raise ValueError("has no host")
    return SecretStr(str(url))


def _key(value: SecretStr) -> SecretStr:
    decoded(value.get_secret_value())
    return value


def decoded(secret: str) -> bytes:
    """The signing key of a ``whsec_`` secret. Raises ValueError."""
    text = secret.strip()
    if text.startswith(("whsk_", "whpk_")):
        raise ValueError("is an ed25519 key; leadctl signs with whsec_ secrets")
    bare = text.removeprefix("whsec_")
    try:
        key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 (after an optional whsec_): paste it without quotes, once") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"holds {len(key)} bytes; a secret has 24 to 64")
    return key


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _listed(value: object) -> object:
    if isinstance(value, str):
        return re.split(r"[\s,;]+", value.strip()) if value.strip() else []
    return [] if value is None else value


def _headers(value: object) -> object:
    if value is None or value == []:  # PHP writes an empty map as []
        return {}
    if not isinstance(value, Mapping):
        raise ValueError("expected a map of names and texts")  # noqa: TRY004 pydantic reads ValueError
    found: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ValueError("holds a name that is no HTTP header")
        if name.lower() in _OUR_HEADERS or name.lower().startswith("webhook-"):
            raise ValueError(f"must not set {name.lower()}: leadctl sets it")
        if not isinstance(text, (str, int)) or isinstance(text, bool) or not _HEADER_VALUE.fullmatch(str(text)):
            raise ValueError("holds a value that is not one line of ASCII")
        found[name.title()] = str(text).strip()  # names know no case: User-Agent must replace ours
    return found


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


Secret = Annotated[SecretStr, AfterValidator(_key)]


class WebhooksConfig(ChannelConfig):
    """``credentials.data``: where events go, and how they are signed. The whole URL is a secret."""

    url: Annotated[SecretStr, AfterValidator(_url)]
    method: Annotated[Literal["POST", "PUT", "PATCH"], BeforeValidator(_upper)] = "POST"
    body: Annotated[Literal["json", "form"], BeforeValidator(_lower)] = "json"
    secret: Annotated[Secret | None, BeforeValidator(_none_if_empty)] = None
    #: Newest first; every one of them signs.
    secrets: Annotated[list[Secret], BeforeValidator(_listed, json_schema_input_type=list[str] | str)] = Field(
        default_factory=list
    )
    headers: Annotated[dict[str, SecretStr], BeforeValidator(_headers)] = Field(default_factory=dict)

    @field_validator("headers")
    @classmethod
    def _one_authorization(cls, value: dict[str, SecretStr], info: ValidationInfo) -> dict[str, SecretStr]:
        url = info.data.get("url")
        if url and "Authorization" in value and httpx.URL(url.get_secret_value()).userinfo:
            raise ValueError("sets Authorization, and the URL holds a user and password: keep one of them")
        return value

    def signing_keys(self) -> list[bytes]:
        """The signing keys, newest first."""
        given = [self.secret, *self.secrets] if self.secret else self.secrets
        return list(dict.fromkeys(decoded(secret.get_secret_value()) for secret in given))


class WebhooksSettings(ChannelSettings):
    """``credentials.settings``."""

    event_type: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)*$", max_length=100)] = "lead.created"


class WebhooksChannel(HttpChannel[WebhooksConfig, WebhooksSettings]):
    """Posts an event for each lead."""

    Config = WebhooksConfig
    Settings = WebhooksSettings
    max_answer = 64 * 1024
    spec = ChannelSpec(
        name="webhooks",
        title="Webhooks",
        docs="https://www.standardwebhooks.com/",
        steps=(Step("event", Retransmit.IDEMPOTENT),),
        limits="the receiver's own; we keep 10/s a host and wait as its 429 says",
        repeat="carries the same webhook-id and body: a receiver that remembers ids makes no second one",
        concurrency=4,
        request_timeout=25.0,
        connect_timeout=5.0,
        errors={
            "400, 413, 422 and other 4xx; webhook-delivery: abort-message": "Rejected",
            "409, unless an earlier attempt is in doubt: then it is there": "Rejected",
            "3xx, 401 to 405, 407, 410, 415, 421, 426, 451; webhook-delivery: disable": "Unusable",
            "429; 503 with Retry-After": "Throttled",
            "408, 425, other 5xx": "Ambiguous",
        },
        example_data={
            "url": "https://crm.example/hooks/leads",
            "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "headers": {"X-Source": "site"},
        },
        example_settings={"event_type": "lead.created"},
    )

    def destination(self) -> Destination:
        # The user in a URL may name a tenant, so it is a part of the address.
        parts = (self.config.method, self.config.url.get_secret_value())
        return Destination("webhooks", (self._host,), parts, self._host)

    def endpoints(self) -> Sequence[str]:
        return (str(self._bare_url),)

    def buckets(self) -> Sequence[Bucket]:
        # No receiver documents a limit: 10/s is what small sites stand, and the operator may raise it a hundredfold.
        return (Bucket(f"webhooks:{self._host}", Limit(10.0, burst=10.0, documented=1000.0)),)

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        del step
        form = self.config.body == "form"
        content = event_body(batch[0], self.settings.event_type, form=form)
        identity = message_id(batch[0].key, self.settings.event_type)
        now = self.toolbox.clock.now()
        headers = {name: value.get_secret_value() for name, value in self.config.headers.items()}
        if self._url.userinfo:
            headers["Authorization"] = f"Basic {self._basic}"
        headers["Content-Type"] = "application/x-www-form-urlencoded" if form else "application/json"
        headers["webhook-id"] = identity
        headers["webhook-timestamp"] = str(int(now.timestamp()))
        if self._signers:
            headers["webhook-signature"] = sign(self._signers, identity, now, content)
        return HttpRequest(self.config.method, str(self._bare_url), content, headers)

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        del step
        delivery = batch[0]
        # A 2xx is a success whatever the body says, and whatever the receiver wants of later events.
        accepted = 200 <= answer.status < 300
        in_doubt = delivery.possible_repeat or delivery.context.get("in_doubt") == "1"
        if accepted or (answer.status == 409 and in_doubt):  # 409: this id is there already
            return {delivery.key: Done(message_id(delivery.key, self.settings.event_type))}
        raise with_status(self._refusal(answer), answer)

    async def check(self) -> str:
        """Resolve, check the address, connect and shake hands; nothing is posted."""
        host, tls = self._url.raw_host.decode(), self._url.scheme == "https"
        port = self._url.port or (443 if tls else 80)
        try:
            async with asyncio.timeout(self.spec.connect_timeout):
                addresses = await self.toolbox.guard.addresses(host, port, clear=not tls)
                certificate = await _connect(addresses, port, host if tls else None)
        except AddressNotAllowed as error:
            raise Unusable(str(error), address_not_allowed=True) from None
        except ssl.SSLCertVerificationError as error:
            raise Unusable(f"{host}: its certificate is not accepted ({clean(error.verify_message, 100)})") from None
        except OSError as error:  # TimeoutError is one
            raise Transient(f"{host}: cannot be reached ({type(error).__name__})") from None
        return f"{self._host} is reachable{certificate}; nothing was posted, so path, secret and headers are unproven"

    def secret_values(self) -> Iterator[str]:
        """Also the pieces in which a receiver may give an address or a header back."""
        yield from super().secret_values()
        url = httpx.URL(self.config.url.get_secret_value())
        yield from (url.username, url.password, self._basic, url.path.strip("/"), url.raw_path.decode().strip("/"))
        yield from url.params.values()
        yield from (part for part in url.path.split("/") if re.search(r"[0-9]", part))
        yield from (value.get_secret_value().rpartition(" ")[2] for value in self.config.headers.values())

    @cached_property
    def _url(self) -> httpx.URL:
        return httpx.URL(self.config.url.get_secret_value())

    @cached_property
    def _basic(self) -> str:
        """The URL's user and password as they travel."""
        return base64.b64encode(f"{self._url.username}:{self._url.password}".encode()).decode()

    @cached_property
    def _bare_url(self) -> httpx.URL:
        return self._url.copy_with(userinfo=b"")

    @cached_property
    def _host(self) -> str:
        return self._url.netloc.decode()

    @cached_property
    def _signers(self) -> list[Webhook]:
        return [Webhook(key) for key in self.config.signing_keys()]

    def _refusal(self, answer: Answer) -> DeliveryError:
        status, vendor_code = answer.status, str(answer.status)
        said = f"{self._host} answers {status}"
        wish = answer.headers.get("webhook-delivery", "").strip().lower()  # Svix's convention
        if wish == "abort-message":
            return Rejected(f"{said} and wants no repeat of this event", vendor_code=wish)
        if wish == "disable":
            return Unusable(f"{said} and wants no more events", vendor_code=wish)
        if 300 <= status < 400:
            return Unusable(f"{said}: {self._moved(answer)}; redirects are not followed", vendor_code=vendor_code)
        wait = answer.retry_after(self.toolbox.clock.now().timestamp())
        # A 503 that names a time was turned away by a server that is out (RFC 9110, 15.6.4): it waits like a 429.
        if status == 429 or (status == 503 and wait is not None):
            return Throttled(f"{said}: too fast", retry_after=wait, vendor_code=vendor_code)
        words = clean(self.toolbox.secrets.hide(answer.text), 150) or "no reason given"
        kind, meaning = STATUSES.get(status, (Rejected if 400 <= status < 500 else Ambiguous, words))
        return kind(f"{said}: {meaning}", vendor_code=vendor_code)

    def _moved(self, answer: Answer) -> str:
        """Where a redirect leads, without the path, which may be a secret."""
        try:
            host = urlsplit(answer.headers.get("location", "")).hostname
        except ValueError:
            host = None
        return f"it redirects to {clean(host, 100)}" if host else "it redirects to another path of the same host"


@lru_cache(maxsize=256)  # asked for at the request, and again at its answer
def message_id(key: str, event_type: str) -> str:
    """``webhook-id``: the same for every attempt; no full stop, which delimits the signed text."""
    digest = hashlib.sha256(f"{key}\n{event_type}".encode()).digest()
    return f"msg_{base64.b32encode(digest).decode()[:26]}"


def sign(signers: Sequence[Webhook], identity: str, now: datetime, content: bytes) -> str:
    """``webhook-signature``: one item a secret, newest first."""
    return " ".join(signer.sign(identity, now, content.decode()) for signer in signers)


def event_body(delivery: Delivery, event_type: str, *, form: bool) -> bytes:
    """The bytes that are signed and sent. A long comment is cut. Raises Rejected over 256 KB."""
    lead, comment = delivery.lead, _text(delivery.lead.comment)
    time = _iso(lead.created_at or delivery.first_at)

    def encoded(room: int) -> bytes:
        data = _data(lead, cut(comment, room))
        return _form(event_type, time, data) if form else _json({"type": event_type, "timestamp": time, "data": data})

    whole = min(utf16_units(comment), MAX_BYTES)
    content = encoded(whole)
    if len(content) > USUAL_BYTES:
        limit = max(USUAL_BYTES, len(encoded(0)) + COMMENT_BYTES)
        content = encoded(longest(whole, lambda room: len(encoded(room)) <= limit) or 0)
    if len(content) > MAX_BYTES:
        raise Rejected(f"the lead makes an event of {len(content)} bytes; at most {MAX_BYTES} are sent")
    return content


def _data(lead: Lead, comment: str) -> dict[str, Any]:
    utm = dict.fromkeys(_UTM, "")
    utm.update((_text(name).removeprefix("utm_"), _text(value)) for name, value in lead.utm.items())
    return {
        "id": lead.id if isinstance(lead.id, int) else _text(lead.id),
        "created_at": _iso(lead.created_at) if lead.created_at else None,
        "name": _text(lead.name),
        "phone": _text(lead.phone),
        "email": _text(lead.email),
        "comment": comment,
        "page_url": _text(lead.page_url),
        "utm": utm,
        "answers": [{"question": _text(a.question), "answer": _text(a.answer)} for a in lead.answers],
    }


def _json(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()


def _form(event_type: str, time: str, data: Mapping[str, Any]) -> bytes:
    """Flat, with the keys that PHP makes arrays of."""
    pairs: list[tuple[str, object]] = [("type", event_type), ("timestamp", time)]
    pairs += [(name, "" if value is None else value) for name, value in data.items() if name not in ("utm", "answers")]
    pairs += [(f"utm_{name}", value) for name, value in data["utm"].items()]
    for number, answer in enumerate(data["answers"]):
        pairs += [(f"answer[{number}][{name}]", text) for name, text in answer.items()]
    return urlencode(pairs).encode()


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _text(text: str) -> str:
    """NUL and lone surrogates are valid JSON, and break the receiver's database."""
    return _UNSAFE.sub("\ufffd", text)


async def _connect(addresses: Sequence[str], port: int, tls_name: str | None) -> str:
    """Connect to the first address that answers; says until when its certificate is valid. Raises OSError."""
    context = ssl.create_default_context() if tls_name else None
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            _, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=tls_name)
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:
            failure = error
            continue
        certificate = writer.get_extra_info("peercert")
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()
        if not certificate:
            return ""
        until = datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate["notAfter"]), UTC)
        return f", its certificate valid until {until:%Y-%m-%d}"
    raise failure
