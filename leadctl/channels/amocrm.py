"""amoCRM and Kommo: a lead with its contact, and a note.

API v4 has no idempotency key: ``request_id`` is echoed, not stored, and a repeated request makes a second lead
(https://developers.kommo.com/reference/complex-leads). So every lead carries the delivery's key, in a text field of the
owner's choice or at the end of its name, and what is in doubt is looked for by it, newest leads first.
"""

import re
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import aclosing
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from leadctl.channelkit import hal
from leadctl.channelkit.auth import BearerAuth, OAuthConfig, named_wait
from leadctl.channelkit.batches import AdaptiveSizes, each, without
from leadctl.channelkit.channel import ChannelSettings, Text, TextList, Toolbox
from leadctl.channelkit.fields import email_address, multiline, phone_text, remarks, split_name, utm
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, with_status
from leadctl.channelkit.lookup import Listed, find_marked
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, render
from leadctl.domain.errors import Ambiguous, DeliveryError, LimitReached, Rejected, Split, Throttled, Unusable
from leadctl.domain.events import Notice
from leadctl.domain.masking import clean
from leadctl.domain.model import Absent, Delivery, Destination, Done, Finding, Lead, Receipt, Verdict

#: In ``leads/complex`` an entity has 40 custom values: these beside the marker and five UTM values.
MAX_FIELDS = 34
MAX_VALUE = 5_000
MAX_NAME = 200
#: The vendor documents no length of a note; this is far inside what a MySQL TEXT holds.
MAX_NOTE = 15_000
PAGE = 250
#: Pages that a look-up walks: down to the highest id before the send, or, where that is unknown, only the newest.
#: Walking a whole base counts as suspicious activity: https://developers.kommo.com/docs/limitations
GUIDED_PAGES = 40
UNGUIDED_PAGES = 4
#: Seconds between the requests of one look-up: with the 5/s of the bucket this stays within the vendor's 7/s.
LOOK_PAUSE = 0.5

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.(?:amocrm\.ru|amocrm\.com|kommo\.com))?")
_IN_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_FIELD_PATH = re.compile(r"custom_fields_values\.(\d+)\.field_(?:id|code)")
_CONFIGURED = ("pipeline_id", "status_id", "responsible_user_id")
#: A 400 whose cause stands only in its words: the user may not add leads, or the subscription has lapsed
#: (amocrm/amocrm-api-php#33). An unknown text takes the status's own class.
_LAPSED = "Код ошибки 244"
#: Old codes, still seen with 401 and 403: https://www.amocrm.com/developers/content/api/errors
LEGACY: Mapping[str, str] = {
    "101": "there is no such subdomain",
    "110": "the login or the token is wrong",
    "111": "the vendor asks for a captcha",
    "112": "the user is disabled",
    "113": "this machine's address is not on the account's white list",
}
#: Statuses that refuse the credential, or what it points to; nothing was executed.
REFUSALS: Mapping[int, str] = {
    401: "the token is refused; issue a new one",
    402: "the account's trial or paid period is over",
    403: "access is denied",
}


def _host(value: str) -> str:
    host = value.strip().lower().removeprefix("https://").rstrip("/")
    if not _HOST.fullmatch(host):
        raise ValueError('expected a subdomain ("acme") or a host ("acme.amocrm.ru", "acme.kommo.com")')
    return host if "." in host else f"{host}.amocrm.ru"


class AmoCrmConfig(OAuthConfig):
    """The account, and the token to it."""

    base_url: str | None = None
    subdomain: Annotated[str, AfterValidator(_host)] | None = Field(default=None, validate_default=True)

    @field_validator("subdomain")
    @classmethod
    def _subdomain_or_base_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and not info.data.get("base_url"):
            raise ValueError("is needed (or base_url)")
        return value

    @property
    def base(self) -> str:
        """What stands before ``/api/v4``."""
        return self.base_url.rstrip("/") if self.base_url else f"https://{self.subdomain}"


Id = Annotated[int, Field(gt=0)]
#: The id or the code of a lead field, or ``name``.
FieldName = Annotated[str, Field(pattern=r"^(name|[0-9]{1,18}|[A-Za-z_][A-Za-z0-9_]{0,99})$")]
Template = Annotated[Text, AfterValidator(check_template)]


class AmoCrmSettings(ChannelSettings):
    """Where a lead lands and what it carries. ``fields`` maps the id or code of a lead field, or ``name``, to a
    template; ``external_id_field_id`` is a text field that keeps the delivery's key."""

    pipeline_id: Id | None = None
    status_id: Id | None = None
    responsible_user_id: Id | None = None
    external_id_field_id: Id | None = None
    tags: TextList = Field(default_factory=list)
    fields: dict[FieldName, Template] = Field(default_factory=dict, max_length=MAX_FIELDS)


class AmoCrm(HttpChannel[AmoCrmConfig, AmoCrmSettings]):
    """One amoCRM or Kommo account."""

    spec = ChannelSpec(
        name="amocrm",
        title="amoCRM / Kommo",
        docs="https://developers.kommo.com/reference/complex-leads",
        # 8 and 45 s behind our own time-out: lists show late what the vendor has stored just before it.
        steps=tuple(
            Step(name, Retransmit.LOOKUP, batch=50, looks=(8, 45), look_batch=asked, busy=20)
            for name, asked in (("lead", 50), ("note", 1))
        ),
        limits="7 requests/s an integration, 50/s an account, 50 leads a request; we keep 5/s. Many 429s end in a ban",
        repeat="makes a second lead; so a lead in doubt is looked for first, by the key that it carries",
        request_timeout=60.0,
        errors={
            "400 validation-errors, one lead": "Rejected",
            "400 validation-errors, several leads; 422 too many": "Split",
            "400 for a pipeline, stage, user or field of the settings; 400 Код ошибки 244": "Unusable",
            "401, after one refresh where there is a refresh token": "Unusable",
            "402, 403 JSON, 404, 405, 3xx": "Unusable",
            "403 HTML (ban)": "LimitReached",
            "429": "Throttled",
            "500, 502, 503, 504, or an answer that cannot be read": "Ambiguous",
            "a look-up that fails": "Transient",
        },
        example_data={"subdomain": "acme", "access_token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.example"},
        example_settings={
            "pipeline_id": 3383152, "status_id": 33929749, "responsible_user_id": 504141,
            "external_id_field_id": 771001, "tags": ["leadctl"], "fields": {"771002": "{{ lead.answers.budget }}"},
        },
    )  # fmt: skip
    Config = AmoCrmConfig
    Settings = AmoCrmSettings

    def __init__(self, config: AmoCrmConfig, settings: AmoCrmSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        self._host = urlsplit(config.base).netloc.rpartition("@")[2].lower()
        self._scope = f"amocrm:{self._host}"
        client = config.oauth_client(f"{config.base}/oauth2/access_token")
        self._auth = BearerAuth("amocrm", toolbox, super().exchange, config.tokens(), client, refused=_is_token_refused)
        self._reader = hal.Reader(config.base, self.exchange, self._failure, self._pause)
        self._labels = LABELS["en" if self._host.endswith(".kommo.com") else "ru"]
        self._sizes = AdaptiveSizes(self.spec.steps)
        #: The highest lead id seen; None until the account was asked.
        self._highest: int | None = None

    # Where it leads to

    def destination(self) -> Destination:
        parts = (self._host, str(self.settings.pipeline_id or ""))
        return Destination("amocrm", (self._host,), parts, self._host)

    def endpoints(self) -> Sequence[str]:
        return (self.config.base,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket(self._scope, Limit(rate=5, per=1, burst=2, documented=7)),)

    def _lead_url(self, lead_id: int) -> str:
        return f"{self.config.base}/leads/detail/{lead_id}"

    def needs(self, step: Step, delivery: Delivery) -> bool:
        return step.name != "note" or bool(remarks(delivery.lead, self._labels))

    def batch_size(self, step: Step) -> int:
        return self._sizes.of(step)

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        if step.name == "note":
            path, bodies = "/api/v4/leads/notes", [self._note(delivery) for delivery in batch]
        else:
            path, bodies = "/api/v4/leads/complex", each(batch, self._lead)
        return HttpRequest.json("POST", self.config.base + path, bodies)

    def _lead(self, delivery: Delivery) -> dict[str, Any]:
        contact = _contact(delivery.lead)
        tags = [{"name": clean(tag, MAX_NAME)} for tag in self.settings.tags]
        body: dict[str, Any] = {"name": self._name(delivery), "request_id": delivery.key}
        body |= {key: getattr(self.settings, key) for key in _CONFIGURED}
        body["custom_fields_values"] = [_custom(field, value) for field, value in self._values(delivery).items()]
        body["_embedded"] = _filled({"tags": tags, "contacts": [contact] if contact else []})
        return _filled(body)

    def _name(self, delivery: Delivery) -> str:
        lead = delivery.lead
        name = clean(render(self.settings.fields.get("name", ""), lead), MAX_NAME)
        if not name:
            name = clean(f"{self._labels['title']} {lead.id}: {lead.name}", MAX_NAME).rstrip(" :")
        if delivery.possible_repeat:
            name = f"{self._labels['repeat']}: {name}"
        return name if self.settings.external_id_field_id else f"{name} [{delivery.key}]"

    def _values(self, delivery: Delivery) -> Mapping[str, str]:
        """The lead's custom fields: id or code → value."""
        values: dict[str, str] = {key.upper(): value for key, value in utm(delivery.lead).items()}
        for field, template in self.settings.fields.items():
            if field != "name" and (text := multiline(render(template, delivery.lead), MAX_VALUE)):
                values[field] = text
        if self.settings.external_id_field_id:
            values[str(self.settings.external_id_field_id)] = delivery.key
        return values

    def _note(self, delivery: Delivery) -> dict[str, Any]:
        text = multiline(remarks(delivery.lead, self._labels), MAX_NOTE)
        mark = f"{self._labels['id']}: {clean(str(delivery.lead.id), MAX_NAME)} [{delivery.key}]"
        params = {"text": f"{text}\n\n{mark}"}
        lead_id = int(delivery.done["lead"])
        return {"entity_id": lead_id, "note_type": "common", "params": params, "request_id": delivery.key}

    # Sending

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        return await self._auth.send(request, timeout)

    async def prepare(self, step: Step) -> Mapping[str, str]:
        """The highest lead id of the account: what is made later has a higher one."""
        if step.name != "lead":
            return {}
        if self._highest is None:
            newest = await self._reader.page("/api/v4/leads?order[id]=desc&limit=1", "leads")
            self._saw(map(hal.identity, newest.items))
        return {"max_lead_id": str(self._highest or 0)}

    def _saw(self, ids: Iterable[int]) -> None:
        self._highest = max([self._highest or 0, *ids])

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        try:
            verdict = await super().send(step, batch)
        except DeliveryError as error:
            if error.http_status == 504 or (isinstance(error, Split) and not error.refused):
                self._sizes.too_much(step, len(batch))
            raise
        self._sizes.worked(step)
        if step.name == "lead":
            self._observe(batch, verdict.receipts)
        return verdict

    def _observe(self, batch: Sequence[Delivery], receipts: Mapping[str, Receipt]) -> None:
        for delivery in batch:
            receipt = receipts.get(delivery.key)
            if isinstance(receipt, Done) and receipt.remote_id:
                self._saw([int(receipt.remote_id)])
                if "merged" in receipt.parts:
                    text = f"lead {delivery.lead.id} was merged by duplicate control into lead {receipt.remote_id}"
                    self.toolbox.notify(Notice("amocrm", self.toolbox.credential_id, "merged", text))

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        if not 200 <= answer.status < 300:
            raise with_status(self._refusal(step, batch, answer), answer)
        body = answer.json()
        try:
            # leads/complex answers with a bare array, notes with a HAL page.
            entries = hal.page(body, "notes").items if step.name == "note" else hal.entities(body)
        except ValueError:
            raise with_status(Ambiguous("amoCRM's answer is not of the documented form"), answer) from None
        return dict(self._receipts(step, {delivery.key for delivery in batch}, entries))

    def _receipts(self, step: Step, keys: Set[str], entries: Sequence[hal.Entity]) -> Iterator[tuple[str, Done]]:
        """By ``request_id``, never by position: several leads may have become one, which makes the answer shorter."""
        for entry in entries:
            identity = hal.identity(entry)
            parts = {"contact": str(entry["contact_id"])} if entry.get("contact_id") else {}
            if entry.get("merged") is True:
                parts["merged"] = str(identity)
            done = Done(str(identity), self._lead_url(identity) if step.name == "lead" else None, parts)
            request_ids = entry.get("request_id")
            for key in request_ids if isinstance(request_ids, list) else [request_ids]:
                if isinstance(key, str) and key in keys:
                    yield key, done

    def _refusal(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> DeliveryError:
        """The error table of a request that sends."""
        general = self._failure(answer)
        if general is not None and not (step.name == "note" and answer.status == 404):  # there: the lead is gone
            return general
        if named := self._named(step, batch, answer):
            return without(batch, named, executed_maybe=True)
        text = f"amoCRM refuses the request: {hal.words(answer)}"
        if len(batch) == 1:
            return Rejected(text, vendor_code=str(answer.status))
        # Only "too many" is surely said before anything is stored.
        return Split(text, executed_maybe=answer.status != 422)

    def _named(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, DeliveryError]:
        """The deliveries that ``validation-errors`` names, each with its worst error."""
        deliveries = {delivery.key: delivery for delivery in batch}
        named: dict[str, DeliveryError] = {}
        for item in hal.objects(hal.problem(answer).get("validation-errors")):
            delivery = deliveries.get(str(item.get("request_id")))
            if delivery is not None:
                errors = [self._invalid(step, delivery, error) for error in hal.objects(item.get("errors")) or [{}]]
                worst = next((error for error in errors if isinstance(error, Unusable)), errors[0])
                named[delivery.key] = with_status(worst, answer)
        return named

    def _invalid(self, step: Step, delivery: Delivery, error: Mapping[str, Any]) -> DeliveryError:
        code, path = clean(str(error.get("code") or "400"), 80), clean(str(error.get("path") or ""), 120)
        detail = clean(str(error.get("detail") or code), 200)
        setting = self._setting_at(delivery, path) if step.name == "lead" else None
        if setting:
            return Unusable(f"amoCRM does not accept {setting} of the settings: {detail}", vendor_code=code, path=path)
        return Rejected(f"amoCRM refuses {path or 'the lead'}: {detail}", vendor_code=code, path=path)

    def _setting_at(self, delivery: Delivery, path: str) -> str | None:
        """Which of the settings stands at this path of the request, if it is one of them."""
        if path in _CONFIGURED:
            return path
        match = _FIELD_PATH.fullmatch(path)
        fields = list(self._values(delivery)) if match else []
        if match is None or int(match[1]) >= len(fields):
            return None
        field = fields[int(match[1])]
        if field == str(self.settings.external_id_field_id):
            return f"external_id_field_id ({field})"
        return f"the field {field}" if field in self.settings.fields else None

    def _failure(self, answer: Answer) -> DeliveryError | None:
        """What a status means for any request; None where that depends on the request."""
        status, said = answer.status, hal.words(answer)
        code = _legacy_code(answer) or str(status)
        said = LEGACY.get(code, said)
        if status == 429:
            wait = named_wait(answer, self.toolbox.clock.now().timestamp())
            return Throttled("too many requests", retry_after=wait, scope=self._scope, vendor_code=code)
        if status == 403 and not hal.problem(answer):
            return LimitReached("the API is blocked after too many requests: ask amoCRM's support", vendor_code=code)
        if status in REFUSALS:
            return Unusable(f"{REFUSALS[status]} ({said})", vendor_code=code)
        if status in (404, 405) or status < 400:
            return Unusable(f"HTTP {status} ({said}): are subdomain and pipeline_id right?", vendor_code=code)
        if status >= 500 or status == 408:
            return Ambiguous(f"amoCRM answers HTTP {status} ({said})", vendor_code=code)
        if _LAPSED in said:
            return Unusable("the user may not add leads, or the subscription has lapsed (error 244)", vendor_code="244")
        return None

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        """Leads: newest first, until all are older than the sends in doubt. The key is compared here, for filters are
        ignored without a word on most accounts (amocrm/amocrm-api-php#71).

        A lead that duplicate control merged into one older than that is not seen; sent again, it is merged again.
        """
        if step.name == "lead":
            floors = {d.key: int(d.context["max_lead_id"]) for d in batch if "max_lead_id" in d.context}
            path = "/api/v4/leads?order[id]=desc&with=contacts"
            pages = self._listed(path, "leads", GUIDED_PAGES if floors else UNGUIDED_PAGES)
            return await find_marked(pages, [delivery.key for delivery in batch], floors, self._lead_url)
        findings: dict[str, Finding] = {}
        for delivery in batch:
            if findings:
                await self._pause()
            findings[delivery.key] = await self._find_note(delivery)
        return findings

    async def _find_note(self, delivery: Delivery) -> Finding:
        pages = self._listed(f"/api/v4/leads/{delivery.done['lead']}/notes?order[id]=desc", "notes", UNGUIDED_PAGES)
        try:
            return (await find_marked(pages, [delivery.key], {}, lambda _: None))[delivery.key]
        except Unusable as error:
            if error.http_status == 404:  # the lead was deleted, and its notes with it
                return Absent()
            raise

    async def _listed(self, path: str, kind: str, most: int) -> AsyncGenerator[Sequence[Listed], None]:
        async with aclosing(self._reader.pages(path, kind, size=PAGE, most=most)) as pages:
            async for items in pages:
                if kind == "leads":
                    self._saw(map(hal.identity, items))
                yield [Listed(hal.identity(item), _marks(item), _parts(item)) for item in items]

    async def _pause(self) -> None:
        await self.toolbox.clock.sleep(LOOK_PAUSE / self.toolbox.scale)

    async def check(self) -> str:
        account = await self._reader.read("/api/v4/account?with=is_api_filter_enabled")
        return f"{clean(str(account.get('name') or self._host), 100)} ({self._host}, account {account.get('id')})"


def _custom(field: str, value: str) -> dict[str, Any]:
    """A custom field by id (digits) or by code, with one value."""
    reference = {"field_id": int(field)} if field.isdecimal() else {"field_code": field}
    return {**reference, "values": [{"value": value}]}


def _contact(lead: Lead) -> dict[str, Any]:
    """The person; empty where nothing is known of them."""
    first, last = split_name(lead)
    ways = (("PHONE", phone_text(lead)), ("EMAIL", email_address(lead)))
    values = [{"field_code": c, "values": [{"value": text, "enum_code": "WORK"}]} for c, text in ways if text]
    return _filled({"first_name": first, "last_name": last, "custom_fields_values": values})


def _filled(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if value}


def _is_token_refused(answer: Answer) -> bool:
    """Whether a new token may help: not where a legacy code blames the user or the account."""
    return answer.status == 401 and _legacy_code(answer) is None


def _legacy_code(answer: Answer) -> str | None:
    body = hal.problem(answer)
    inner = body.get("response")
    code = str(body.get("error_code") or (inner.get("error_code") if isinstance(inner, dict) else None))
    return code if code in LEGACY and answer.status in (401, 403) else None


def _marks(entity: hal.Entity) -> Set[str]:
    """Every text that may be a key: what stands in brackets in a name or a note, and the custom fields."""
    params = entity.get("params")
    text = params.get("text") if isinstance(params, dict) else entity.get("name")
    values = [
        value for field in hal.objects(entity.get("custom_fields_values")) for value in hal.objects(field.get("values"))
    ]
    return {*_IN_BRACKETS.findall(str(text)), *(str(value.get("value")) for value in values)}


def _parts(entity: hal.Entity) -> Mapping[str, str]:
    embedded = entity.get("_embedded")
    contacts = hal.objects(embedded.get("contacts")) if isinstance(embedded, dict) else []
    return {"contact": str(contacts[0].get("id"))} if contacts else {}
