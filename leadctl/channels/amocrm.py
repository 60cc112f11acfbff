"""amoCRM and Kommo: a lead with its contact, and a note.

API v4 has no idempotency key: ``request_id`` is echoed, not stored, and a repeated request makes a second lead
(https://developers.kommo.com/reference/complex-leads). So every lead carries the delivery's key, in a text field of the
owner's choice or at the end of its name, and what is in doubt is looked for by it, newest leads first.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from leadctl.channelkit.auth import BearerAuth, OAuthClient, Token, Tokens, UnixTime, named_wait
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, TextList, Toolbox
from leadctl.channelkit.fields import answers_text, email_address, multiline, phone_text, split_name, utm
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, with_status
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, render
from leadctl.domain.errors import (
    Ambiguous,
    DeliveryError,
    LimitReached,
    Rejected,
    Split,
    Throttled,
    Transient,
    Unusable,
)
from leadctl.domain.events import Notice
from leadctl.domain.masking import clean
from leadctl.domain.model import Absent, CannotTell, Delivery, Destination, Done, Finding, Found, Lead, Receipt, Verdict

#: Custom-field values of one entity in ``leads/complex``.
MAX_VALUES = 40
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
_FIELD = re.compile(r"name|[0-9]{1,18}|[A-Za-z_][A-Za-z0-9_]{0,99}")
_IN_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_VALUE_PATH = re.compile(r"(?:\d+\.)?custom_fields_values\.(\d+)\.field_(?:id|code)")
_CONFIGURED = ("pipeline_id", "status_id", "responsible_user_id")
#: Answers without a code that this list knows by their words. An unknown text takes the status's own class.
TEXTS: tuple[tuple[str, str], ...] = (
    ("Код ошибки 244", "the user may not add leads, or the subscription has lapsed"),  # amocrm/amocrm-api-php#33
)
#: Old codes, still seen in answers with 401 and 403: https://www.amocrm.com/developers/content/api/errors
LEGACY: Mapping[str, str] = {
    "101": "there is no such subdomain",
    "110": "the login or the token is wrong",
    "111": "the vendor asks for a captcha",
    "112": "the user is disabled",
    "113": "this machine's address is not on the account's white list",
}


def _host(value: str) -> str:
    host = value.strip().lower().removeprefix("https://").rstrip("/")
    if not _HOST.fullmatch(host):
        raise ValueError('expected a subdomain ("acme") or a host ("acme.amocrm.ru", "acme.kommo.com")')
    return host


def _field_name(value: str) -> str:
    if not _FIELD.fullmatch(value):
        raise ValueError('expected the id or the code of a lead field, or "name"')
    return value


class AmoCrmConfig(ChannelConfig):
    """``access_token`` alone is a long-lived token; with ``refresh_token`` and the client's three keys it is OAuth."""

    base_url: str | None = None
    subdomain: Annotated[str, AfterValidator(_host)] | None = Field(default=None, validate_default=True)
    access_token: Token
    refresh_token: SecretStr | None = None
    client_id: Text | None = Field(default=None, validate_default=True)
    client_secret: SecretStr | None = Field(default=None, validate_default=True)
    redirect_uri: str | None = Field(default=None, validate_default=True)
    expires_at: UnixTime | None = None

    @field_validator("subdomain")
    @classmethod
    def _subdomain_or_base_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value and not info.data.get("base_url"):
            raise ValueError("is needed (or base_url)")
        return value

    @field_validator("client_id", "client_secret", "redirect_uri")
    @classmethod
    def _needed_to_refresh(cls, value: Any, info: ValidationInfo) -> Any:
        if not value and info.data.get("refresh_token"):
            raise ValueError("is needed with refresh_token")
        return value

    @property
    def base(self) -> str:
        """What stands before ``/api/v4``."""
        if self.base_url:
            return self.base_url.rstrip("/")
        host = self.subdomain or ""
        return f"https://{host}" if "." in host else f"https://{host}.amocrm.ru"

    def oauth(self) -> OAuthClient | None:
        """Who refreshes the token; None for a long-lived one."""
        if not (self.refresh_token and self.client_id and self.client_secret and self.redirect_uri):
            return None
        secret = self.client_secret.get_secret_value()
        return OAuthClient(f"{self.base}/oauth2/access_token", self.client_id, secret, self.redirect_uri)


Id = Annotated[int, Field(gt=0)]
FieldName = Annotated[str, AfterValidator(_field_name)]
Template = Annotated[Text, AfterValidator(check_template)]


class AmoCrmSettings(ChannelSettings):
    """Where a lead lands and what it carries. ``fields`` maps the id or code of a lead field, or ``name``, to a
    template; ``external_id_field_id`` is a text field that keeps the delivery's key."""

    pipeline_id: Id | None = None
    status_id: Id | None = None
    responsible_user_id: Id | None = None
    external_id_field_id: Id | None = None
    tags: TextList = []
    #: Beside the marker and five UTM values.
    fields: dict[FieldName, Template] = Field(default={}, max_length=MAX_VALUES - 6)


class AmoCrm(HttpChannel[AmoCrmConfig, AmoCrmSettings]):
    """One amoCRM or Kommo account."""

    spec = ChannelSpec(
        name="amocrm",
        title="amoCRM / Kommo",
        docs="https://developers.kommo.com/reference/complex-leads",
        steps=(
            Step("lead", Retransmit.LOOKUP, batch=50, looks=(8, 45)),
            Step("note", Retransmit.LOOKUP, batch=50, looks=(8, 45)),
        ),
        limits="7 requests/s an integration and 50/s an account, 50 leads a request; we keep 5/s. Many 429s end in a ban",
        repeat="makes a second lead; so a lead in doubt is looked for first, by the key that it carries",
        request_timeout=60.0,
        errors={
            "400 validation-errors": "Rejected",
            "400 validation-errors of a batch": "Split",
            "400 for a pipeline, stage, user or field of the settings": "Unusable",
            "400 Код ошибки 244": "Unusable",
            "401, after one refresh where the token can be refreshed": "Unusable",
            "402": "Unusable",
            "403 JSON (no right, address filter)": "Unusable",
            "403 HTML (ban)": "LimitReached",
            "404, 405, 3xx": "Unusable",
            "422 too many in one request": "Split",
            "429": "Throttled",
            "500, 502, 503, 504, or an answer that cannot be read": "Ambiguous",
            "a look-up that fails": "Transient",
        },
        example_data={"subdomain": "acme", "access_token": "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.example"},
        example_settings={
            "pipeline_id": 3383152,
            "status_id": 33929749,
            "responsible_user_id": 504141,
            "external_id_field_id": 771001,
            "tags": ["leadctl"],
            "fields": {"771002": "{{ lead.answers.budget }}"},
        },
    )
    Config = AmoCrmConfig
    Settings = AmoCrmSettings

    def __init__(self, config: AmoCrmConfig, settings: AmoCrmSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        refresh = config.refresh_token.get_secret_value() if config.refresh_token else ""
        tokens = Tokens(config.access_token.get_secret_value(), refresh, config.expires_at)
        self._auth = BearerAuth(
            "amocrm", toolbox, super().exchange, tokens, config.oauth(), refused=_is_token_refused
        )  # fmt: skip
        self._labels = LABELS["en" if self._netloc.endswith(".kommo.com") else "ru"]
        #: Requests of a size that was too much are made smaller, and slowly larger again.
        self._sizes = {step.name: step.batch for step in self.spec.steps}
        #: The highest lead id seen; None until the account was asked.
        self._highest: int | None = None

    # Where it leads to

    @property
    def _netloc(self) -> str:
        return urlsplit(self.config.base).netloc.rpartition("@")[2].lower()

    def destination(self) -> Destination:
        pipeline = str(self.settings.pipeline_id or "")
        return Destination("amocrm", (self._netloc,), (self._netloc, pipeline), self._netloc)

    def endpoints(self) -> Sequence[str]:
        return (self.config.base,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket(self._scope, Limit(rate=5, per=1, burst=5, documented=7)),)

    @property
    def _scope(self) -> str:
        return f"amocrm:{self._netloc}"

    def _lead_url(self, lead_id: str) -> str:
        return f"{self.config.base}/leads/detail/{lead_id}"

    def needs(self, step: Step, delivery: Delivery) -> bool:
        return step.name != "note" or bool(self._remarks(delivery.lead))

    def batch_size(self, step: Step) -> int:
        return self._sizes[step.name]

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        if step.name == "note":
            return self._post("/api/v4/leads/notes", [self._note(delivery) for delivery in batch])
        bodies: list[dict[str, Any]] = []
        refused: dict[str, DeliveryError] = {}
        for delivery in batch:
            try:
                bodies.append(self._lead(delivery))
            except Rejected as error:  # a template that fails for this lead
                refused[delivery.key] = error
        if refused:
            raise _without(batch, refused, executed_maybe=False)
        return self._post("/api/v4/leads/complex", bodies)

    def _post(self, path: str, body: object) -> HttpRequest:
        return HttpRequest.json("POST", self.config.base + path, body)

    def _lead(self, delivery: Delivery) -> dict[str, Any]:
        settings = self.settings
        body: dict[str, Any] = {"name": self._name(delivery), "request_id": delivery.key}
        for key in _CONFIGURED:
            if (value := getattr(settings, key)) is not None:
                body[key] = value
        if values := self._values(delivery):
            body["custom_fields_values"] = [_custom(field, value) for field, value in values.items()]
        embedded: dict[str, Any] = {}
        if settings.tags:
            embedded["tags"] = [{"name": clean(tag, MAX_NAME)} for tag in settings.tags]
        if contact := _contact(delivery.lead):
            embedded["contacts"] = [contact]
        if embedded:
            body["_embedded"] = embedded
        return body

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
        lead = delivery.lead
        mark = f"{self._labels['id']}: {clean(str(lead.id), MAX_NAME)} [{delivery.key}]"
        text = "\n\n".join([multiline("\n\n".join(self._remarks(lead)), MAX_NOTE), mark])
        return {
            "entity_id": int(delivery.done["lead"]),
            "note_type": "common",
            "params": {"text": text},
            "request_id": delivery.key,
        }

    def _remarks(self, lead: Lead) -> list[str]:
        """What of the lead has no field of its own."""
        labels = self._labels
        address = "" if email_address(lead) else clean(lead.email, MAX_NAME)
        more = utm(lead)
        tags = ", ".join(f"{clean(k, 100)}={clean(v, 255)}" for k, v in lead.utm.items() if v and k not in more)
        remarks = [multiline(lead.comment, MAX_NOTE), answers_text(lead)]
        for label, text in (("page_url", clean(lead.page_url, 2000)), ("email", address), ("utm", tags)):
            remarks.append(f"{labels[label]}: {text}" if text else "")
        return [remark for remark in remarks if remark.strip(": \n")]

    # Sending

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        return await self._auth.send(request, timeout)

    async def prepare(self, step: Step) -> Mapping[str, str]:
        """The highest lead id of the account: what is made later has a higher one."""
        if step.name != "lead":
            return {}
        if self._highest is None:
            body = await self._read("/api/v4/leads?order[id]=desc&limit=1")
            self._seen(_identity(item) for item in _items(body, "leads"))
        return {"max_lead_id": str(self._highest or 0)}

    def _seen(self, ids: Iterable[int]) -> None:
        self._highest = max([self._highest or 0, *ids])

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        try:
            verdict = await super().send(step, batch)
        except DeliveryError as error:
            if error.http_status == 504 or (isinstance(error, Split) and not error.refused):
                self._sizes[step.name] = max(1, min(len(batch), self._sizes[step.name]) // 2)
            raise
        self._sizes[step.name] = min(step.batch, self._sizes[step.name] + 1)
        if step.name == "lead":
            self._note_answers(batch, verdict.receipts)
        return verdict

    def _note_answers(self, batch: Sequence[Delivery], receipts: Mapping[str, Receipt]) -> None:
        done = [(d, r) for d in batch if isinstance(r := receipts.get(d.key), Done)]
        self._seen(int(receipt.remote_id or 0) for _, receipt in done)
        for delivery, receipt in done:
            if "merged" in receipt.parts:
                text = f"lead {delivery.lead.id} was merged by duplicate control into lead {receipt.remote_id}"
                self.toolbox.notify(Notice("amocrm", self.toolbox.credential_id, "merged", text))

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        if not 200 <= answer.status < 300:
            raise with_status(self._refusal(step, batch, answer), answer)
        body = answer.json()
        try:
            entries = _items(body, "notes") if step.name == "note" else _entries(body)
            return dict(self._receipts(step, {delivery.key for delivery in batch}, entries))
        except (KeyError, TypeError, ValueError):
            raise with_status(Ambiguous("amoCRM's answer is not of the documented form"), answer) from None

    def _receipts(self, step: Step, keys: set[str], entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Done]]:
        """By ``request_id``, never by position: several leads may have become one, which makes the answer shorter."""
        for entry in entries:
            identity = str(_identity(entry))
            parts: dict[str, str] = {}
            if entry.get("contact_id"):
                parts["contact"] = str(entry["contact_id"])
            if entry.get("merged") is True:
                parts["merged"] = identity
            url = self._lead_url(identity) if step.name == "lead" else None
            request_ids = entry.get("request_id")
            for key in request_ids if isinstance(request_ids, list) else [request_ids]:
                if key in keys:
                    yield key, Done(identity, url, parts)

    def _refusal(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> DeliveryError:
        """The error table of a request that sends."""
        general = self._failure(answer)
        if general is not None and not (step.name == "note" and answer.status == 404):  # there: the lead is gone
            return general
        body = answer.json_or_none()
        errors = body.get("validation-errors") if isinstance(body, dict) else None
        named = self._named(step, batch, errors if isinstance(errors, list) else [], answer)
        if named:
            return _without(batch, named, executed_maybe=True)
        if len(batch) == 1:
            return Rejected(f"amoCRM refuses it: {_words(body, answer)}", vendor_code=str(answer.status))
        # Only of "too many" is it sure that nothing was stored.
        return Split(f"amoCRM refuses the request: {_words(body, answer)}", executed_maybe=answer.status != 422)

    def _named(
        self, step: Step, batch: Sequence[Delivery], errors: Sequence[Any], answer: Answer
    ) -> dict[str, DeliveryError]:
        """The leads that ``validation-errors`` names, each with its worst error."""
        deliveries = {delivery.key: delivery for delivery in batch}
        named: dict[str, DeliveryError] = {}
        for item in errors:
            key = item.get("request_id") if isinstance(item, dict) else None
            delivery = deliveries.get(key) if isinstance(key, str) else None
            if delivery is None:
                continue
            found = [e for e in item.get("errors") or [{}] if isinstance(e, dict)] or [{}]
            read = [with_status(self._validation_error(step, delivery, error), answer) for error in found]
            named[delivery.key] = next((error for error in read if isinstance(error, Unusable)), read[0])
        return named

    def _validation_error(self, step: Step, delivery: Delivery, error: Mapping[str, Any]) -> DeliveryError:
        code, path = clean(str(error.get("code") or "400"), 80), clean(str(error.get("path") or ""), 120)
        detail = clean(str(error.get("detail") or ""), 200)
        setting = self._setting_at(delivery, path) if step.name == "lead" else None
        if setting:
            text = f"amoCRM does not accept {setting} of the settings: {detail or code}"
            return Unusable(text, vendor_code=code, path=path)
        return Rejected(f"amoCRM refuses {path or 'the lead'}: {detail or code}", vendor_code=code, path=path)

    def _setting_at(self, delivery: Delivery, path: str) -> str | None:
        """Which of the settings stands at this path of the request, if it is one of them."""
        if path.rpartition(".")[2] in _CONFIGURED and not path.startswith("_embedded"):
            return path.rpartition(".")[2]
        match = _VALUE_PATH.fullmatch(path)
        fields = list(self._values(delivery)) if match else []
        if match is None or int(match[1]) >= len(fields):
            return None
        field = fields[int(match[1])]
        if field == str(self.settings.external_id_field_id):
            return f"external_id_field_id ({field})"
        return f"the field {field}" if field in self.settings.fields else None

    def _failure(self, answer: Answer) -> DeliveryError | None:
        """What a status means for any request; None: it depends on the request."""
        status, body = answer.status, answer.json_or_none()
        words = _words(body, answer)
        code = _legacy_code(body) if status in (401, 403) else None
        error: DeliveryError | None = None
        if status == 401:
            error = Unusable(f"the token is refused: {LEGACY.get(code or '', words)}; issue a new one")
        elif status == 402:
            error = Unusable("the account's trial or paid period is over")
        elif status == 403 and isinstance(body, dict):
            error = Unusable(f"access is denied: {LEGACY.get(code or '', words)}")
        elif status == 403:
            error = LimitReached("the API is blocked for this account or address after too many requests: ask support")
        elif status == 429:
            wait = named_wait(answer, self.toolbox.clock.now().timestamp())
            error = Throttled("too many requests", retry_after=wait, scope=self._scope)
        elif status in (404, 405) or status < 400:
            error = Unusable(f"HTTP {status} ({words}): is the address or the pipeline right? Was the account renamed?")
        elif status >= 500 or status == 408:
            error = Ambiguous(f"amoCRM answers HTTP {status}: {words}")
        else:
            meaning = next((meaning for text, meaning in TEXTS if text in words), None)
            error = Unusable(meaning) if meaning else None
        if error is not None:
            error.vendor_code = code or str(status)
        return error

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        if step.name == "note":
            return {d.key: await self._find_note(d, first=number == 0) for number, d in enumerate(batch)}
        return await self._find_leads(batch)

    async def _find_leads(self, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        """Newest leads first, until all are older than the sends in doubt; the marker is compared here, for filters
        are ignored without a word on most accounts (amocrm/amocrm-api-php#71).

        A lead that duplicate control merged into one older than that is not seen; sent again, it is merged again.
        """
        floors = {d.key: int(d.context["max_lead_id"]) for d in batch if "max_lead_id" in d.context}
        hits: dict[str, dict[int, str | None]] = {delivery.key: {} for delivery in batch}
        lowest, reason = None, "the account has too many newer leads to look through"
        path = "/api/v4/leads?order[id]=desc&with=contacts"
        try:
            async for items in self._pages(path, "leads", GUIDED_PAGES if floors else UNGUIDED_PAGES):
                ids = [_identity(item) for item in items]
                if ids != sorted(ids, reverse=True):
                    raise Transient("the list of leads is not in the order asked for")
                self._seen(ids)
                for item in items:
                    for key in _markers(item) & hits.keys():
                        hits[key][_identity(item)] = _contact_of(item)
                lowest = min(ids, default=0)
                if floors and lowest <= min(floors.values()):
                    break
        except Transient as error:
            reason = error.message
        findings: dict[str, Finding] = {}
        for key, leads in hits.items():
            if leads:
                findings[key] = self._found(leads)
            elif lowest is not None and lowest <= floors.get(key, 0):
                findings[key] = Absent()
            else:
                findings[key] = CannotTell(reason)
        return findings

    def _found(self, leads: Mapping[int, str | None]) -> Found:
        first, *others = sorted(leads)
        contact = leads[first]
        parts = {"contact": contact} if contact else {}
        return Found(str(first), parts, self._lead_url(str(first)), tuple(map(str, others)))

    async def _find_note(self, delivery: Delivery, *, first: bool) -> Finding:
        path = f"/api/v4/leads/{int(delivery.done['lead'])}/notes?order[id]=desc"
        mark = f"[{delivery.key}]"
        if not first:
            await self._pause()
        try:
            async for notes in self._pages(path, "notes", UNGUIDED_PAGES):
                for note in notes:
                    if mark in str((note.get("params") or {}).get("text")):
                        return Found(str(_identity(note)))
                if not notes:
                    return Absent()
        except Transient as error:
            return CannotTell(error.message)
        except Unusable as error:
            if error.http_status == 404:  # the lead was deleted, and its notes with it
                return Absent()
            raise
        return CannotTell("the lead has too many notes to look through")

    async def _pages(self, path: str, kind: str, most: int) -> AsyncIterator[list[Mapping[str, Any]]]:
        """Page after page of a list; an empty one is its end. Raises Transient where one cannot be read."""
        for number in range(1, most + 1):
            if number > 1:
                await self._pause()
            body = await self._read(f"{path}&limit={PAGE}&page={number}")
            items = _items(body, kind)
            if items:
                yield items
            if len(items) < PAGE and "next" not in (body.get("_links") or {}):
                yield []
                return

    async def _pause(self) -> None:
        await self.toolbox.clock.sleep(LOOK_PAUSE / self.toolbox.scale)

    async def _read(self, path: str) -> Mapping[str, Any]:
        """The answer to a GET; an empty list is HTTP 204 without a body. Failures of a GET are Transient at most."""
        try:
            answer = await self.exchange(HttpRequest("GET", self.config.base + path))
            if answer.status == 204:
                return {}
            if answer.status != 200:
                words = _words(answer.json_or_none(), answer)
                raise with_status(self._failure(answer) or Transient(f"HTTP {answer.status}: {words}"), answer)
            body = answer.json()
        except Ambiguous as error:
            raise Transient(error.message, http_status=error.http_status, vendor_code=error.vendor_code) from None
        if not isinstance(body, dict):
            raise Transient("amoCRM's answer is not of the documented form", http_status=200)
        return body

    async def check(self) -> str:
        account = await self._read("/api/v4/account?with=is_api_filter_enabled")
        return f"{clean(str(account.get('name') or self._netloc), 100)} ({self._netloc}, account {account.get('id')})"


def _custom(field: str, value: str) -> dict[str, Any]:
    """A custom field by id (digits) or by code, with one value."""
    reference = {"field_id": int(field)} if field.isdecimal() else {"field_code": field}
    return {**reference, "values": [{"value": value}]}


def _contact(lead: Lead) -> dict[str, Any]:
    """The person; empty where nothing is known of them."""
    first, last = split_name(lead)
    names = {key: text for key, text in (("first_name", first), ("last_name", last)) if text}
    ways = (("PHONE", phone_text(lead)), ("EMAIL", email_address(lead)))
    values = [{"field_code": c, "values": [{"value": text, "enum_code": "WORK"}]} for c, text in ways if text]
    return {**names, **({"custom_fields_values": values} if values else {})}


def _without(batch: Sequence[Delivery], refused: Mapping[str, DeliveryError], *, executed_maybe: bool) -> DeliveryError:
    """The error of a batch of which these were refused by name; of a single one, its own."""
    worst = next((error for error in refused.values() if isinstance(error, Unusable)), None)
    if len(refused) == len(batch) and (worst or len(batch) == 1):
        return worst or refused[batch[0].key]
    text = f"{len(refused)} of {len(batch)} leads are refused"
    return Split(text, refused=refused, executed_maybe=executed_maybe)


def _is_token_refused(answer: Answer) -> bool:
    """Whether a new token may help: not where a legacy code blames the user or the account."""
    return answer.status == 401 and _legacy_code(answer.json_or_none()) is None


def _legacy_code(body: Any) -> str | None:
    if not isinstance(body, dict):
        return None
    inner = body.get("response")
    code = body.get("error_code") or (inner.get("error_code") if isinstance(inner, dict) else None)
    return str(code) if str(code) in LEGACY else None


def _words(body: Any, answer: Answer) -> str:
    """What a problem+json says; else the beginning of what is not JSON."""
    if isinstance(body, dict):
        said = body.get("detail") or body.get("title")
        return clean(str(said), 200) if said else "no explanation"
    return clean(answer.text, 80) or "no explanation"


def _identity(entity: Mapping[str, Any]) -> int:
    """The id of an entity. Raises KeyError, TypeError or ValueError."""
    return int(entity["id"])


def _entries(body: Any) -> Sequence[Mapping[str, Any]]:
    """The bare array that ``leads/complex`` answers with. Raises TypeError for anything else."""
    if not isinstance(body, list) or not all(isinstance(entry, dict) for entry in body):
        raise TypeError("not an array of objects")
    return body


def _items(body: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The entities of a list; none in an empty answer. Raises KeyError or TypeError for anything else."""
    if not body:
        return []
    return list(_entries(body["_embedded"][kind]))


def _markers(lead: Mapping[str, Any]) -> set[str]:
    """Every text of the lead that may be a key: what stands in brackets in its name, and its custom fields."""
    texts = set(_IN_BRACKETS.findall(str(lead.get("name"))))
    for field in lead.get("custom_fields_values") or []:
        texts.update(str(value.get("value")) for value in field.get("values") or [])
    return texts


def _contact_of(lead: Mapping[str, Any]) -> str | None:
    contacts = (lead.get("_embedded") or {}).get("contacts") or []
    return str(contacts[0]["id"]) if contacts else None
