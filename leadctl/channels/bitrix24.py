"""Bitrix24: leads, or deals with their contact, by an inbound webhook.

Everything is made by ``crm.item.add`` inside ``batch``. The vendor knows no idempotency: what is in doubt is
looked up by ``originId``, which is the delivery's key. Each answer is judged by its code, since the HTTP status
of a code differs between versions of the server.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from leadctl.channelkit import fields as f
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest
from leadctl.channelkit.phpquery import Value, batch_command, php_map
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, render
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    InvalidCredential,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Unusable,
)
from leadctl.domain.events import Notice
from leadctl.domain.masking import clean
from leadctl.domain.model import (
    Absent,
    CannotTell,
    Delivery,
    Destination,
    Done,
    Finding,
    Found,
    Lead,
    Receipt,
    Verdict,
)

ORIGINATOR = "leadctl"
ENTITY_TYPES: Mapping[str, int] = {"lead": 1, "deal": 2, "contact": 3}
#: The server ends a request after 60 s, so nothing appears later; asked twice, also after a time-out at 80 s.
LOOKS = (68.0, 92.0)
LEAD = Step("lead", Retransmit.LOOKUP, batch=50, looks=LOOKS)
CONTACT = Step("contact", Retransmit.LOOKUP, batch=50, looks=LOOKS, preparatory=True)
DEAL = Step("deal", Retransmit.LOOKUP, batch=50, looks=LOOKS)

#: Seconds of server time that one batch should take: well below the 60 s at which it is killed.
BATCH_SECONDS = 25.0
FIRST_BATCH = 10
#: The server counts execution time per method in 10 minutes; 420 s is the lowest allowance known.
OPERATING_PAUSE = 0.8 * 420
OPERATING_WINDOW = 600.0
PAGE = 50
MAX_PAGES = 20
#: A text column holds 65,535 bytes, and a character has at most four.
MAX_TEXT = 15_000
#: Longer ones travel alone, so that no batch becomes too large a request.
LONG_TEXT = 10_000
MAX_NAME = 50

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
_KIND_OF: Mapping[str, type[DeliveryError]] = {code.upper(): kind for kind, codes in CODES.items() for code in codes}
#: Where the code is empty, or is the one for everything, the words decide.
TEXTS: tuple[tuple[str, str, type[DeliveryError]], ...] = (
    ("", "disk resource exhausted", Unusable),
    ("", r"\S", Rejected),
    ("ERROR_CORE", r"\bfields?\b|address|required|invalid|пол[еяю]\b|адрес|обязател|некоррект|неверн", Rejected),
)
#: Without a readable body the status is all there is; whatever is not here may have been executed.
STATUSES: Mapping[int, type[DeliveryError]] = {
    401: Unusable, 402: Unusable, 403: Unusable, 404: Unusable, 405: Unusable, 410: Unusable,
    413: Split, 429: Throttled,
}  # fmt: skip
ADVICE: Mapping[str, str] = {
    "NO_AUTH_FOUND": "the webhook is deleted, expired or mistyped",
    "INVALID_CREDENTIALS": "the webhook is deleted, expired or mistyped",
    "INSUFFICIENT_SCOPE": "tick the scope crm in the webhook",
    "ACCESS_DENIED": "its owner may not add this, or the portal's plan has lapsed",
    "ERROR_METHOD_NOT_FOUND": "is webhook_url complete, and the CRM switched on?",
    "PORTAL_DELETED": "the portal is deleted or closed for maintenance",
    "OVERLOAD_LIMIT": "Bitrix24 has blocked REST on this portal; only its support lifts that",
}
_MOVED = frozenset({301, 302, 307, 308})
_NAMED_FIELD = re.compile(
    r"""field\s+['"]([^'"]{1,60})['"]|['"]([^'"]{1,60})['"]\s+field|поле\s+[«"]([^»"]{1,60})""", re.I
)
#: Comments are BB code: an opening bracket before a tag's name gets a space, so that a text stays a text.
_BB_TAG = re.compile(r"\[(?=/?[a-z*])", re.IGNORECASE)
_WEBHOOK = re.compile(r"/rest/(\d+)/([A-Za-z0-9]+)(?:/[A-Za-z.]*)?/?")
_NO_USER = re.compile(r"/rest/[A-Za-z0-9]+(?:/[A-Za-z.]*)?/?")
_FIELD_NAME = re.compile(r"UF_[A-Z0-9_]+|[a-z][A-Za-z0-9_]*")
_OURS = frozenset({"id", "originatorId", "originId", "categoryId", "contactId", "contactIds", "fm"})


class Bitrix24Config(ChannelConfig):
    """The webhook's address is the password, and all there is."""

    webhook_url: SecretStr = Field(description="https://PORTAL/rest/USER_ID/CODE/ of an inbound webhook, scope crm")

    @field_validator("webhook_url")
    @classmethod
    def _complete(cls, value: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(value.get_secret_value().strip())
            host, _ = parts.hostname, parts.port
        except ValueError:
            raise ValueError("not a valid URL") from None
        match = _WEBHOOK.fullmatch(parts.path)
        if match is None and _NO_USER.fullmatch(parts.path):
            raise ValueError("the user id is missing: expected https://PORTAL/rest/USER_ID/CODE/")
        if match is None or not host or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("expected https://PORTAL/rest/USER_ID/CODE/")
        return SecretStr(f"{parts.scheme}://{parts.netloc.lower()}/rest/{match[1]}/{match[2]}")

    @property
    def origin(self) -> str:
        """Scheme, host and port: no secret."""
        parts = urlsplit(self.webhook_url.get_secret_value())
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        return urlsplit(self.webhook_url.get_secret_value()).path

    @property
    def user_id(self) -> int:
        return int(self.path.split("/")[2])


class Bitrix24Settings(ChannelSettings):
    """What a lead becomes, and which fields it gets."""

    entity: Literal["lead", "deal"] = Field("lead", description="deal: a contact and a deal; lead works in both modes")
    category_id: int | None = Field(None, ge=0, description="pipeline of the deal; the default one if left out")
    stage_id: Text | None = Field(None, description="NEW, or C9:NEW in pipeline 9")
    assigned_by_id: int | None = Field(None, ge=1, description="responsible user; the webhook's owner if left out")
    source_id: Text | None = Field(None, description="WEB, CALL, … as in crm.status.list")
    fields: dict[str, str] = Field(default_factory=dict, description="field (UF_CRM_…, opportunity) → template")

    @field_validator("fields")
    @classmethod
    def _known_form(cls, value: dict[str, str]) -> dict[str, str]:
        for name, template in value.items():
            if not _FIELD_NAME.fullmatch(name) or name in _OURS:
                raise ValueError("each field is named as crm.item.fields does, and is none that leadctl sets itself")
            check_template(template)
        custom = {name.startswith("UF_") for name in value if name.lower().startswith("uf")}
        if len(custom) > 1:
            raise ValueError("name custom fields either UF_CRM_1 or ufCrm_1, not both ways")
        return value


@dataclass(slots=True)
class _Pace:
    """How large the next batch may be, and when it may go. Times are of the injected monotonic clock."""

    size: int = FIRST_BATCH
    ceiling: int = PAGE
    seconds: float | None = None
    reset_at: float | None = None
    pause_until: float = 0.0

    def learn(self, reply: "_Reply", now: float) -> None:
        """From a good answer: server time per command, and how much execution time is used up."""
        for timing in reply.times:
            duration = _number(timing.get("duration"))
            if duration is not None:
                self.seconds = duration if self.seconds is None else 0.7 * self.seconds + 0.3 * duration
            operating, reset = _number(timing.get("operating")), _number(timing.get("operating_reset_at"))
            if operating is not None and reset is not None and reply.finished is not None:
                # relative to the server's own clock: ours may differ
                self.reset_at = now + min(max(reset - reply.finished, 1.0), OPERATING_WINDOW)
                self.pause_until = self.reset_at if operating > OPERATING_PAUSE else 0.0
        self.ceiling = min(PAGE, self.ceiling * 2)
        if self.seconds is not None:
            self.size = max(1, min(self.ceiling, int(BATCH_SECONDS / max(self.seconds, 0.001))))

    def slow_down(self) -> None:
        """After a 504 or a time-out."""
        self.size = self.ceiling = max(1, self.size // 2)

    def until_reset(self, now: float) -> float | None:
        return None if self.reset_at is None else max(self.reset_at - now, 1.0)


@dataclass(frozen=True, slots=True)
class _Reply:
    """The parts of a batch's answer, by the key of the command."""

    results: Mapping[str, Any]
    errors: Mapping[str, Any]
    times: Sequence[Mapping[str, Any]]
    finished: float | None


class Bitrix24Channel(HttpChannel[Bitrix24Config, Bitrix24Settings]):
    """One inbound webhook."""

    Config = Bitrix24Config
    Settings = Bitrix24Settings
    spec = ChannelSpec(
        name="bitrix24",
        title="Bitrix24",
        docs="https://apidocs.bitrix24.com/",
        steps=(LEAD,),
        limits=(
            "2 requests/s, 50 at once, a portal and source address; we keep 1.5/s and 40. Up to 50 leads a batch, "
            "fewer where the portal is slow. Above 80 % of 420 s of execution time in 10 minutes we pause."
        ),
        repeat="makes a second lead: what is in doubt is looked up by originId 68 and 92 s after it was sent",
        request_timeout=80.0,
        errors={
            **{", ".join(codes): kind.__name__ for kind, codes in CODES.items()},
            "no code, with a text": "Rejected",
            "ERROR_CORE that names a field": "Rejected",
            "time-out, reset, 5xx without a code, a command that the answer leaves out": "Ambiguous",
        },
        example_data={"webhook_url": "https://acme.bitrix24.com/rest/1/k3y0fth3w3bh00k/"},
        example_settings={"entity": "lead", "source_id": "WEB", "fields": {"UF_CRM_BUDGET": "{{ lead.answers.budget }}"}},
    )  # fmt: skip

    def __init__(self, config: Bitrix24Config, settings: Bitrix24Settings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        self._origin = config.origin
        self._pace = _Pace()
        self._readable: set[str] = set()
        self._dropped: set[str] = set()

    # What it is

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return (LEAD,) if self.settings.entity == "lead" else (CONTACT, DEAL)

    def destination(self) -> Destination:
        host = urlsplit(self.config.origin).netloc
        category = str(self.settings.category_id or 0) if self.settings.entity == "deal" else ""
        return Destination("bitrix24", (host,), (host, self.settings.entity, category), host)

    def endpoints(self) -> Sequence[str]:
        return (self.config.origin,)

    def buckets(self) -> Sequence[Bucket]:
        host = urlsplit(self.config.origin).netloc
        return (Bucket(f"bitrix24:{host}", Limit(rate=1.5, per=1.0, burst=40.0, documented=2.0)),)

    def secret_values(self) -> Iterator[str]:
        yield self.config.webhook_url.get_secret_value()
        yield self.config.path.rpartition("/")[2]

    def problems(self, lead: Lead) -> Sequence[str]:
        try:
            self._custom(lead)
        except Rejected as error:
            return (error.message,)
        return ()

    def batch_size(self, step: Step) -> int:
        return min(step.batch, self._pace.size)

    def batch_alone(self, step: Step, delivery: Delivery) -> bool:
        lead = delivery.lead
        return len(lead.comment) + sum(len(a.question) + len(a.answer) for a in lead.answers) > LONG_TEXT

    # Sending

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        clock = self.toolbox.clock
        if (wait := self._pace.pause_until - clock.monotonic()) > 0:
            raise Throttled("the portal's execution time for this webhook is nearly used up", retry_after=wait)
        request = self.build(step, batch)
        try:
            answer = await self.exchange(request)
            reply = self._read(answer, len(batch))
        except DeliveryError as error:
            error.request_digest = request.digest
            if isinstance(error, (Ambiguous, Split)):
                self._pace.slow_down()
            raise
        self._pace.learn(reply, clock.monotonic())
        self._report_dropped(step, batch, reply)
        return Verdict(self._receipts(step, batch, reply), answer.status, answer.excerpt, request.digest)

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        params: dict[str, Value] = {"entityTypeId": ENTITY_TYPES[step.name]}
        if any(name.startswith("UF_") for name in self.settings.fields):
            params["useOriginalUfNames"] = True
        commands: dict[str, str] = {}
        for command, delivery in _commands(batch).items():
            try:
                fields = self._fields(step, delivery)
            except Rejected as error:
                raise Split("a template fails", refused={delivery.key: error}) from None
            commands[command] = batch_command("crm.item.add", {**params, "fields": fields})
        return self._request("batch", {"halt": 0, "cmd": commands})

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        return self._receipts(step, batch, self._read(answer, len(batch)))

    def _request(self, method: str, body: Mapping[str, object]) -> HttpRequest:
        url = f"{self._origin}{self.config.path}/{method}"
        return HttpRequest.json("POST", url, body, {"Accept": "application/json"})

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 as the base has it
        """One request. A renamed portal answers 302 without executing: the same body goes to its new host.

        https://apidocs.bitrix24.com/settings/how-to-call-rest-api/change-domen.html
        """
        answer = await super().exchange(request, timeout)
        if answer.status not in _MOVED:
            return answer
        old, self._origin = self._origin, self._moved_to(answer)
        self._notice("portal_renamed", f"{old} has moved to {self._origin}: change webhook_url")
        answer = await super().exchange(replace(request, url=request.url.replace(old, self._origin, 1)), timeout)
        if answer.status in _MOVED:
            raise Unusable("the portal redirects again and again: check webhook_url", http_status=answer.status)
        return answer

    def _moved_to(self, answer: Answer) -> str:
        location = answer.headers.get("location", "")
        if not location:
            raise Ambiguous("the portal redirects without saying where", http_status=answer.status)
        try:
            parts = urlsplit(location)
            origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
            self.toolbox.guard.check_url(origin)
        except (ValueError, InvalidCredential) as error:
            reason = str(error) if isinstance(error, InvalidCredential) else "its address is not valid"
            raise Unusable(
                f"the portal has moved: {reason}", address_not_allowed=True, http_status=answer.status
            ) from None
        if origin == self._origin or not parts.path.startswith("/rest/"):
            raise Unusable("the portal redirects away from REST: check webhook_url", http_status=answer.status)
        return origin

    # What travels

    def _fields(self, step: Step, delivery: Delivery) -> dict[str, Value]:
        lead, settings = delivery.lead, self.settings
        title = f"{LABELS['ru']['title']} {lead.id}"
        if delivery.possible_repeat:
            title += f" ({LABELS['ru']['repeat'].lower()})"
        common: dict[str, Value] = {
            "sourceId": settings.source_id, "assignedById": settings.assigned_by_id,
            "originatorId": ORIGINATOR, "originId": delivery.key,
        }  # fmt: skip
        if step.name == "contact":
            return {**_person(lead, title), **common}
        own: dict[str, Value] = {"title": title, "stageId": settings.stage_id, "comments": _comments(lead) or None}
        own["sourceDescription"] = clean(lead.page_url, 2000) or None
        for key, text in f.utm(lead).items():
            own[f"utm{key.removeprefix('utm_').capitalize()}"] = text
        if step.name == "deal":
            own |= {"categoryId": settings.category_id, "contactIds": [delivery.done["contact"]]}
        else:
            own |= _person(lead, title)
        return {**own, **self._custom(lead), **common}

    def _custom(self, lead: Lead) -> dict[str, Value]:
        rendered = {name: f.multiline(render(text, lead), MAX_TEXT) for name, text in self.settings.fields.items()}
        return {name: text for name, text in rendered.items() if text}

    # What comes back

    def _read(self, answer: Answer, commands: int) -> _Reply:
        """The answer of a batch. Raises what the whole request ended in."""
        body = answer.json_or_none()
        if not isinstance(body, dict) or not ("error" in body or "result" in body):
            raise self._by_status(answer)
        if "error" in body:
            raise self._whole(body, answer, commands)
        result = php_map(body["result"])
        if "result" not in result:
            raise Ambiguous(
                "the answer of the batch holds no results", http_status=answer.status, answer=answer.excerpt
            )
        timings = php_map(result.get("result_time")).values()
        return _Reply(
            results=php_map(result["result"]),
            errors=php_map(result.get("result_error")),
            times=[timing for timing in timings if isinstance(timing, dict)],
            finished=_number(php_map(body.get("time")).get("finish")),
        )

    def _by_status(self, answer: Answer) -> DeliveryError:
        kind = STATUSES.get(answer.status, Ambiguous)
        message = f"the portal answers HTTP {answer.status} without a readable body"
        error = kind(message, http_status=answer.status, answer=answer.excerpt)
        if isinstance(error, Throttled):
            error.retry_after = answer.retry_after(self.toolbox.clock.now().timestamp())
        return error

    def _whole(self, body: Mapping[str, Any], answer: Answer, commands: int) -> DeliveryError:
        """An error of the whole request."""
        error = self._error(body, answer.status)
        error.answer = answer.excerpt
        if error.vendor_code == "ERROR_BATCH_LENGTH_EXCEEDED":
            return Split(error.message, vendor_code=error.vendor_code, http_status=answer.status)
        if isinstance(error, Throttled) and error.retry_after is None:
            error.retry_after = answer.retry_after(self.toolbox.clock.now().timestamp())
        if isinstance(error, Rejected) and commands > 1:
            # a complaint about one lead, and no word about which: nothing proves that none was made
            return Split(error.message, executed_maybe=True, vendor_code=error.vendor_code, http_status=answer.status)
        return error

    def _error(self, body: Mapping[str, Any], status: int | None = None) -> DeliveryError:
        """The type by the table; ``status`` only where the code is unknown, and never inside a batch."""
        code = clean(str(body.get("error") or ""), 80)
        text = clean(re.sub(r"<[^>]*>", " ", str(body.get("error_description") or "")), 300)
        kind = _KIND_OF.get(code.upper()) or _by_text(code, text, status)
        if kind is None:
            kind = STATUSES.get(status or 0, Ambiguous)
        named = _NAMED_FIELD.search(text)
        said = ": ".join(part for part in (text or code or "an error without words", ADVICE.get(code.upper())) if part)
        error = kind(
            f"Bitrix24 answers {said}",
            vendor_code=code or None,
            http_status=status,
            path=next((group for group in named.groups() if group), None) if named else None,
        )
        if isinstance(error, Throttled) and code.upper() == "OPERATION_TIME_LIMIT":
            error.retry_after = self._pace.until_reset(self.toolbox.clock.monotonic())
        return error

    def _receipts(self, step: Step, batch: Sequence[Delivery], reply: _Reply) -> dict[str, Receipt]:
        receipts: dict[str, Receipt] = {}
        for command, delivery in _commands(batch).items():
            if command in reply.errors:
                receipts[delivery.key] = self._error(php_map(reply.errors[command]))
            elif (remote_id := _id_of(_item(reply, command))) is not None:
                receipts[delivery.key] = Done(str(remote_id), self._link(step, remote_id))
            else:
                receipts[delivery.key] = Ambiguous("the answer of the batch says nothing about this one")
        return receipts

    def _link(self, step: Step, remote_id: int) -> str | None:
        return None if step.preparatory else f"{self._origin}/crm/{step.name}/details/{remote_id}/"

    def _report_dropped(self, step: Step, batch: Sequence[Delivery], reply: _Reply) -> None:
        """An unknown field is ignored without a word; only the item that comes back shows it."""
        for command, delivery in _commands(batch).items():
            item = {_plain(name): value for name, value in _item(reply, command).items()}
            if step.preparatory or not item:
                continue
            for name in self._custom(delivery.lead):
                if item.get(_plain(name)) in (None, "", []) and name not in self._dropped:
                    self._dropped.add(name)
                    self._notice(
                        "field_dropped", f"Bitrix24 did not keep settings.fields.{name}: is there such a field?"
                    )

    def _notice(self, code: str, message: str) -> None:
        self.toolbox.notify(Notice("bitrix24", self.toolbox.credential_id, code, message))

    # Looking up

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        try:
            rows = await self._rows(step, {"@originId": [delivery.key for delivery in batch]})
            if len(rows) < len(batch) and step.name not in self._readable:
                self._prove(step, rows or await self._list(step, {}, newest=True))
        except DeliveryError as error:
            return {delivery.key: CannotTell(error.message) for delivery in batch}
        return {delivery.key: self._finding(step, delivery, rows) for delivery in batch}

    def _finding(self, step: Step, delivery: Delivery, rows: Iterable[Mapping[str, Any]]) -> Finding:
        # compared here too: the database ignores case, and an unknown filter may be ignored as a whole
        ids = sorted({i for row in rows if row.get("originId") == delivery.key and (i := _id_of(row)) is not None})
        if ids:
            first, *more = ids
            return Found(str(first), {}, self._link(step, first), tuple(map(str, more)))
        if step.name in self._readable:
            return Absent()
        return CannotTell(f"items without read right are not listed, and no {step.name} of ours could be read back")

    async def _rows(self, step: Step, condition: Mapping[str, object]) -> list[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = []
        for _ in range(MAX_PAGES):
            after = {">id": _id_of(rows[-1])} if rows else {}
            page = await self._list(step, {**condition, **after})
            rows += page
            if len(page) < PAGE:
                return rows
        raise Ambiguous("the list of items has no end")

    async def _list(
        self, step: Step, condition: Mapping[str, object], *, newest: bool = False
    ) -> list[Mapping[str, Any]]:
        """One page of what leadctl has made."""
        body = {
            "entityTypeId": ENTITY_TYPES[step.name],
            "filter": {"=originatorId": ORIGINATOR, **condition},
            "select": ["id", "originId", "originatorId", "assignedById", "createdTime"],
            "order": {"id": "DESC" if newest else "ASC"},
            "start": -1,
        }
        answer = await self.exchange(self._request("crm.item.list", body))
        reply = answer.json()
        if not isinstance(reply, dict) or "error" in reply:
            raise self._error(php_map(reply), answer.status)
        items = php_map(reply.get("result")).get("items")
        if not isinstance(items, list) or not all(_id_of(item) is not None for item in items):
            raise Ambiguous("the list of items cannot be read")
        return items

    def _prove(self, step: Step, rows: Iterable[Mapping[str, Any]]) -> None:
        """An item of ours that can be read shows that "none" means none; but one that is assigned to the
        webhook's owner shows nothing of those assigned to others."""
        owner = self.config.user_id
        own_only = (self.settings.assigned_by_id or owner) == owner
        for row in rows:
            if row.get("originatorId") == ORIGINATOR and (own_only or _number(row.get("assignedById")) != owner):
                self._readable.add(step.name)

    async def check(self) -> str:
        commands = {name: f"{name}?" for name in ("profile", "scope")}
        reply = self._read(await self.exchange(self._request("batch", {"halt": 0, "cmd": commands})), 1)
        for error in reply.errors.values():
            raise self._error(php_map(error))
        profile = php_map(reply.results.get("profile"))
        if not profile:
            raise Unusable("the webhook's owner is no active user of the portal")
        if "crm" not in php_map(reply.results.get("scope")).values():
            raise Unusable("the webhook lacks the scope crm: tick it in the portal", vendor_code="insufficient_scope")
        name = clean(f"{profile.get('NAME') or ''} {profile.get('LAST_NAME') or ''}", 80)
        return f"{urlsplit(self._origin).netloc} as {name or 'user ' + clean(str(profile.get('ID')), 20)}"


def _commands(batch: Sequence[Delivery]) -> dict[str, Delivery]:
    """Names of the commands: letters first, since keys 0..n-1 would come back as a list."""
    return {f"d{number}": delivery for number, delivery in enumerate(batch)}


def _person(lead: Lead, fallback: str) -> dict[str, Value]:
    """Name, phone and e-mail. The name is never empty: in simple mode a lead without one is not converted."""
    first, last = f.split_name(lead)
    phone, email = f.phone_text(lead), f.email_address(lead)
    fm: list[Value] = [
        {"typeId": kind, "valueType": "WORK", "value": value} for kind, value in (("PHONE", phone), ("EMAIL", email)) if value
    ]  # fmt: skip
    return {"name": (first or phone or email or fallback)[:MAX_NAME], "lastName": last[:MAX_NAME] or None, "fm": fm}


def _comments(lead: Lead) -> str:
    labels = LABELS["ru"]
    parts = [lead.comment, f.answers_text(lead)]
    if lead.email.strip() and f.email_address(lead) is None:
        parts.append(f"{labels['email']}: {clean(lead.email, 250)}")  # as a field it would be refused with the lead
    if any(len(part) > MAX_NAME for part in f.split_name(lead)):
        parts.append(f"{labels['name']}: {clean(lead.name, 500)}")
    return f.multiline(_BB_TAG.sub("[ ", "\n".join(part for part in parts if part.strip())), MAX_TEXT)


def _by_text(code: str, text: str, status: int | None) -> type[DeliveryError] | None:
    if code.upper().startswith("CRM_FIELD_ERROR_"):
        return Rejected
    if (status or 0) >= 500:
        return None
    for known, pattern, kind in TEXTS:
        if code.upper() == known and re.search(pattern, text, re.IGNORECASE):
            return kind
    return None


def _item(reply: _Reply, command: str) -> dict[str, Any]:
    return php_map(php_map(reply.results.get(command)).get("item"))


def _id_of(item: object) -> int | None:
    number = _number(item.get("id")) if isinstance(item, Mapping) else None
    return int(number) if number is not None and number >= 1 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
