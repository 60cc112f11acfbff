"""Bitrix24: leads, or deals with their contact, by an inbound webhook.

Everything is made by ``crm.item.add`` inside ``batch``. The vendor has no idempotency there: what is in doubt
is looked up by ``originId``, which is the delivery's key.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from leadctl.channelkit import fields as f
from leadctl.channelkit.bitrix_rest import (
    BATCH,
    ERROR_TABLE,
    PAGE,
    BatchReply,
    Pace,
    error_of,
    item_id,
    number,
    read_batch,
)
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest
from leadctl.channelkit.phpquery import Value, batch_command, php_map
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, never_fails, render
from leadctl.domain.errors import Ambiguous, DeliveryError, InvalidCredential, Rejected, Split, Throttled, Unusable
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
#: The server ends a request after 60 s, so nothing appears later.
BUSY = 60.0
LOOKS = (8.0, 18.0)
LEAD = Step("lead", Retransmit.LOOKUP, batch=BATCH, looks=LOOKS, busy=BUSY)
CONTACT = Step("contact", Retransmit.LOOKUP, batch=BATCH, looks=LOOKS, busy=BUSY, preparatory=True)
DEAL = Step("deal", Retransmit.LOOKUP, batch=BATCH, looks=LOOKS, busy=BUSY)

MAX_PAGES = 20
#: A text column holds 65,535 bytes, and a character has at most four.
MAX_TEXT = 15_000
#: Longer ones travel alone, so that a batch never becomes too large a request.
LONG_TEXT = 10_000
MAX_NAME = 50

_MOVED = frozenset({301, 302, 307, 308})
#: Comments are BB code: the bracket of a tag gets a space, so that a lead's text stays text.
_BB_TAG = re.compile(r"\[(?=/?[a-z*])", re.IGNORECASE)
_WEBHOOK = re.compile(r"/rest/(\d+)/([A-Za-z0-9_-]+)(?:/[A-Za-z.]*)?/?")
_NO_USER = re.compile(r"/rest/[A-Za-z0-9_-]+(?:/[A-Za-z.]*)?/?")
_FIELD_NAME = re.compile(r"UF_[A-Z0-9_]+|[a-z][A-Za-z0-9_]*")
_OURS = frozenset({"id", "originatorId", "originId", "categoryId", "contactId", "contactIds", "assignedById", "fm"})


class Bitrix24Config(ChannelConfig):
    """The webhook's address: it is the password, and all there is."""

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
    def host(self) -> str:
        """With the port, where the address names one."""
        return urlsplit(self.webhook_url.get_secret_value()).netloc

    @property
    def origin(self) -> str:
        """Scheme, host and port: no secret."""
        return f"{urlsplit(self.webhook_url.get_secret_value()).scheme}://{self.host}"

    @property
    def path(self) -> str:
        """``/rest/USER_ID/CODE``."""
        return urlsplit(self.webhook_url.get_secret_value()).path

    @property
    def user_id(self) -> int:
        """The webhook's owner."""
        return int(self.path.split("/")[2])


class Bitrix24Settings(ChannelSettings):
    """What a lead becomes, and what it gets."""

    entity: Literal["lead", "deal"] = Field("lead", description="lead (works without leads too), or contact and deal")
    category_id: int | None = Field(None, ge=0, description="pipeline of the deal; left out: the default one")
    stage_id: Text | None = Field(None, description="stage: NEW, or C9:NEW in pipeline 9; left out: the first one")
    assigned_by_id: int | None = Field(None, ge=1, description="responsible user; left out: the webhook's owner")
    source_id: Text | None = Field(None, description="source: WEB, CALL, … as in crm.status.list")
    fields: dict[str, str] = Field(default_factory=dict, description="field (UF_CRM_…, opportunity) → template")

    @field_validator("fields")
    @classmethod
    def _usable(cls, value: dict[str, str]) -> dict[str, str]:
        for name, template in value.items():
            if not _FIELD_NAME.fullmatch(name) or name in _OURS:
                raise ValueError("a field is named as crm.item.fields does, and is none that leadctl sets itself")
            check_template(template)
        if len({name.startswith("UF_") for name in value if name.lower().startswith("uf")}) > 1:
            raise ValueError("name all custom fields one way, UF_CRM_1 or ufCrm_1")
        return value


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
            "2 requests/s and 50 at once, for a portal and a source address; we keep 1.5/s and 40. Up to 50 leads a "
            "batch, fewer where the portal is slow; a pause at 80 % of 420 s of execution time in 10 minutes"
        ),
        repeat="makes a second lead: what is in doubt is looked up by originId, twice, once the portal is done",
        request_timeout=80.0,
        errors=ERROR_TABLE,
        example_data={"webhook_url": "https://acme.bitrix24.com/rest/1/k3y0fth3w3bh00k/"},
        example_settings={"source_id": "WEB", "fields": {"UF_CRM_BUDGET": "{{ lead.answers.budget }}"}},
    )

    def __init__(self, config: Bitrix24Config, settings: Bitrix24Settings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        self._origin = config.origin
        self._pace = Pace()
        self._readable: set[str] = set()
        self._dropped: set[str] = set()

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return (LEAD,) if self.settings.entity == "lead" else (CONTACT, DEAL)

    def destination(self) -> Destination:
        host, entity = self.config.host, self.settings.entity
        category = str(self.settings.category_id or 0) if entity == "deal" else ""
        return Destination("bitrix24", (host,), (host, entity, category), host)

    def endpoints(self) -> Sequence[str]:
        return (self.config.origin,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket(f"bitrix24:{self.config.host}", Limit(rate=1.5, burst=40.0, documented=2.0)),)

    def secret_values(self) -> Iterator[str]:
        yield self.config.webhook_url.get_secret_value()
        yield self.config.path.rpartition("/")[2]

    def problems(self, lead: Lead) -> Sequence[str]:
        try:
            self._custom(lead)
        except Rejected as error:
            return (error.message,)
        return ()

    @cached_property
    def judged(self) -> frozenset[str]:
        return frozenset() if all(map(never_fails, self.settings.fields.values())) else super().judged

    def batch_size(self, step: Step) -> int:
        return min(step.batch, self._pace.size)

    def batch_alone(self, step: Step, delivery: Delivery) -> bool:
        lead = delivery.lead
        return len(lead.comment) + sum(len(a.question) + len(a.answer) for a in lead.answers) > LONG_TEXT

    # Sending

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        clock = self.toolbox.clock
        if (wait := self._pace.pause_until - clock.monotonic()) > 0:
            raise Throttled("the execution time that the portal allows is nearly used up", retry_after=wait)
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
        return Verdict(self._receipts(step, batch, reply), answer.status, request.digest)

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        params: dict[str, Value] = {"entityTypeId": ENTITY_TYPES[step.name]}
        if any(name.startswith("UF_") for name in self.settings.fields):
            params["useOriginalUfNames"] = True
        commands: dict[str, str] = {}
        for command, delivery in _commands(batch).items():
            try:
                fields = self._fields(step, delivery)
            except Rejected as error:
                raise Split(error.message, refused={delivery.key: error}) from None
            commands[command] = batch_command("crm.item.add", {**params, "fields": fields})
        return self._request("batch", {"halt": 0, "cmd": commands})

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        return self._receipts(step, batch, self._read(answer, len(batch)))

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 as the base
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
            raise Unusable("the portal redirects again: check webhook_url", http_status=answer.status)
        return answer

    def _moved_to(self, answer: Answer) -> str:
        location = answer.headers.get("location", "")
        if not location:
            raise Ambiguous("the portal redirects without saying where to", http_status=answer.status)
        try:
            parts = urlsplit(location)
            origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2].lower()}"
            self.toolbox.guard.check_url(origin)
        except (ValueError, InvalidCredential) as error:
            why = str(error) if isinstance(error, InvalidCredential) else "the address is not valid"
            raise Unusable(
                f"the portal has moved: {why}", address_not_allowed=True, http_status=answer.status
            ) from None
        if origin == self._origin or not parts.path.startswith("/rest/"):
            raise Unusable("the portal redirects away from REST: check webhook_url", http_status=answer.status)
        return origin

    def _request(self, method: str, body: Mapping[str, object]) -> HttpRequest:
        url = f"{self._origin}{self.config.path}/{method}"
        return HttpRequest.json("POST", url, body, {"Accept": "application/json"})

    # What travels

    def _fields(self, step: Step, delivery: Delivery) -> dict[str, Value]:
        lead, settings = delivery.lead, self.settings
        title = f"{LABELS['ru']['title']} {clean(str(lead.id), 100)}"
        if delivery.possible_repeat:
            title += f" ({LABELS['ru']['repeat'].lower()})"
        fields: dict[str, Value] = {"sourceId": settings.source_id, "assignedById": settings.assigned_by_id}
        if step.name != "deal":
            fields |= _person(lead, title)
        if step.name != "contact":
            fields |= {"title": title, "stageId": settings.stage_id, "comments": _comments(lead) or None}
            fields["sourceDescription"] = clean(lead.page_url, 2000) or None
            fields |= {f"utm{key.removeprefix('utm_').capitalize()}": text for key, text in f.utm(lead).items()}
            fields |= self._custom(lead)
        if step.name == "deal":
            fields |= {"categoryId": settings.category_id, "contactIds": [delivery.done["contact"]]}
        return {**fields, "originatorId": ORIGINATOR, "originId": delivery.key}

    def _custom(self, lead: Lead) -> dict[str, Value]:
        rendered = {name: f.multiline(render(text, lead), MAX_TEXT) for name, text in self.settings.fields.items()}
        return {name: text for name, text in rendered.items() if text}

    # What comes back

    def _read(self, answer: Answer, commands: int) -> BatchReply:
        try:
            return read_batch(answer, commands, self.toolbox.clock.now().timestamp())
        except Throttled as error:
            raise self._timed(error) from None

    def _timed(self, error: DeliveryError) -> DeliveryError:
        """The refusal for execution time does not say how long it lasts; the last good answer did."""
        if isinstance(error, Throttled) and error.vendor_code == "OPERATION_TIME_LIMIT":
            error.retry_after = error.retry_after or self._pace.until_reset(self.toolbox.clock.monotonic())
        return error

    def _receipts(self, step: Step, batch: Sequence[Delivery], reply: BatchReply) -> dict[str, Receipt]:
        receipts: dict[str, Receipt] = {}
        for command, delivery in _commands(batch).items():
            if command in reply.errors:
                receipts[delivery.key] = self._timed(error_of(php_map(reply.errors[command])))
            elif (remote_id := item_id(_item(reply, command))) is not None:
                receipts[delivery.key] = Done(str(remote_id), self._link(step, remote_id))
            else:
                receipts[delivery.key] = Ambiguous("the answer of the batch says nothing about this one")
        return receipts

    def _link(self, step: Step, remote_id: int) -> str | None:
        return None if step.preparatory else f"{self._origin}/crm/{step.name}/details/{remote_id}/"

    def _report_dropped(self, step: Step, batch: Sequence[Delivery], reply: BatchReply) -> None:
        """An unknown field is ignored without a word; only the item that comes back shows it."""
        if step.preparatory or not self.settings.fields:
            return
        for command, delivery in _commands(batch).items():
            item = {_plain(name): value for name, value in _item(reply, command).items()}
            for name in self._custom(delivery.lead) if item else ():
                if item.get(_plain(name)) in (None, "", []) and name not in self._dropped:
                    self._dropped.add(name)
                    self._notice("field_dropped", f"Bitrix24 has not kept settings.fields.{name}: is the name right?")

    def _notice(self, code: str, message: str) -> None:
        self.toolbox.notify(Notice("bitrix24", self.toolbox.credential_id, code, message))

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        try:
            rows = await self._made(step, [delivery.key for delivery in batch])
            if step.name not in self._readable and not self._learn_readable(step, rows):
                self._learn_readable(step, await self._list(step, {}, newest=True))
        except (Rejected, Split) as error:  # our query is refused: that says nothing about the lane
            told = CannotTell(error.message, final=isinstance(error, Rejected))
            return {delivery.key: told for delivery in batch}
        return {delivery.key: self._finding(step, delivery, rows) for delivery in batch}

    def _finding(self, step: Step, delivery: Delivery, rows: Iterable[Mapping[str, Any]]) -> Finding:
        # compared here too: the vendor's database ignores case
        ids = sorted({i for row in rows if row.get("originId") == delivery.key and (i := item_id(row)) is not None})
        if ids:
            first, *more = ids
            return Found(str(first), {}, self._link(step, first), tuple(map(str, more)))
        if step.name in self._readable:
            return Absent()
        reason = f"no {step.name} made by leadctl can be read: the webhook's owner may lack the right to read"
        return CannotTell(reason, final=True)

    def _learn_readable(self, step: Step, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Whether "none" means none: items without read right are left out of a list without a word.

        An item of ours that is listed shows the right to read, except that the owner's own ones show nothing
        of those that are assigned to somebody else.
        """
        owner = self.config.user_id
        own = (self.settings.assigned_by_id or owner) == owner
        proven = any(
            row.get("originatorId") == ORIGINATOR and (own or number(row.get("assignedById")) != owner) for row in rows
        )
        if proven:
            self._readable.add(step.name)
        return proven

    async def _made(self, step: Step, keys: Sequence[str]) -> list[Mapping[str, Any]]:
        """Every item with one of these keys, page by page."""
        rows: list[Mapping[str, Any]] = []
        for _ in range(MAX_PAGES):
            page = await self._list(step, {"@originId": keys, **({">id": item_id(rows[-1])} if rows else {})})
            rows += page
            if len(page) < PAGE:
                return rows
        raise Ambiguous("the list of items does not end")

    async def _list(
        self, step: Step, condition: Mapping[str, object], *, newest: bool = False
    ) -> list[Mapping[str, Any]]:
        """One page of what leadctl has made."""
        body = {
            "entityTypeId": ENTITY_TYPES[step.name],
            "filter": {"=originatorId": ORIGINATOR, **condition},
            "select": ["id", "originatorId", "originId", "assignedById", "createdTime"],
            "order": {"id": "DESC" if newest else "ASC"},
            "start": -1,
        }
        answer = await self.exchange(self._request("crm.item.list", body))
        reply = php_map(answer.json())
        if "error" in reply:
            raise error_of(reply, answer.status)
        items = php_map(reply.get("result")).get("items")
        if not isinstance(items, list) or any(item_id(item) is None for item in items):
            raise Ambiguous("the list of items cannot be read", http_status=answer.status)
        return items

    async def check(self) -> str:
        commands = {"profile": "profile", "scope": "scope"}
        reply = self._read(await self.exchange(self._request("batch", {"halt": 0, "cmd": commands})), len(commands))
        for error in reply.errors.values():
            raise error_of(php_map(error))
        profile = php_map(reply.results.get("profile"))
        if not profile:
            raise Unusable("the webhook's owner is no active user of the portal")
        if "crm" not in php_map(reply.results.get("scope")).values():
            raise Unusable("the webhook lacks the scope crm: tick it in the portal", vendor_code="insufficient_scope")
        name = clean(f"{profile.get('NAME') or ''} {profile.get('LAST_NAME') or ''}", 80)
        return f"{urlsplit(self._origin).netloc} as {name or f'user {self.config.user_id}'}"


def _commands(batch: Sequence[Delivery]) -> dict[str, Delivery]:
    """Names of the commands: letters first, since keys 0..n-1 would come back as a list."""
    return {f"d{position}": delivery for position, delivery in enumerate(batch)}


def _person(lead: Lead, fallback: str) -> dict[str, Value]:
    """Name, phone and e-mail. The name is never empty: a portal without leads converts only those with one."""
    first, last = f.split_name(lead)
    contacts = {"PHONE": f.phone_text(lead), "EMAIL": f.email_address(lead)}
    fm: list[Value] = [{"typeId": kind, "valueType": "WORK", "value": text} for kind, text in contacts.items() if text]
    name = first or contacts["PHONE"] or contacts["EMAIL"] or fallback
    return {"name": name[:MAX_NAME], "lastName": last[:MAX_NAME] or None, "fm": fm}


def _comments(lead: Lead) -> str:
    labels = LABELS["ru"]
    parts = [lead.comment, f.answers_text(lead)]
    if lead.email.strip() and f.email_address(lead) is None:
        parts.append(f"{labels['email']}: {clean(lead.email, 250)}")  # as a field it would be refused, lead and all
    if any(len(part) > MAX_NAME for part in f.split_name(lead)):
        parts.append(f"{labels['name']}: {clean(lead.name, 500)}")
    return f.multiline(_BB_TAG.sub("[ ", "\n".join(part for part in parts if part.strip())), MAX_TEXT)


def _item(reply: BatchReply, command: str) -> dict[str, Any]:
    return php_map(php_map(reply.results.get(command)).get("item"))


def _plain(name: str) -> str:
    return name.replace("_", "").lower()
