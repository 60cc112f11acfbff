"""SendPulse: an address of a mailing list; or, where ``settings.crm`` asks for it, a deal of the CRM with its contact.

The book is an upsert by e-mail address, so a repeat makes no second subscriber. The CRM has no idempotency: what is in
doubt there is looked for by ``sourceId``, which is a number made of the delivery's key.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from leadctl.channelkit import hal
from leadctl.channelkit.auth import Token
from leadctl.channelkit.batches import each
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.fields import (
    answers_text,
    email_address,
    multiline,
    phone_e164,
    remarks,
    split_name,
    utm,
    without_email,
)
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, nothing_made, of_settings, with_status
from leadctl.channelkit.sendpulse_api import Api, Login
from leadctl.channelkit.sendpulse_crm import CRM, PAGE, Crm, data_of, matching, source_id, ways_of, without_ways
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, never_fails, render
from leadctl.domain.errors import Ambiguous, DeliveryError, InvalidCredential, Rejected, Split
from leadctl.domain.masking import clean
from leadctl.domain.model import CannotTell, Delivery, Destination, Done, Finding, Lead, Receipt, Verdict

#: Seconds behind our own time-out at which the CRM is asked what it has made.
LOOKS = (5.0, 20.0)
BUSY = 20.0
BOOK = Step("subscriber", Retransmit.IDEMPOTENT, batch=100)
BY_PHONE = Step("by_phone", Retransmit.IDEMPOTENT, preparatory=True)
BY_EMAIL = Step("by_email", Retransmit.IDEMPOTENT, preparatory=True)
CONTACT = Step("contact", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY, preparatory=True)
PHONE = Step("phone", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY, preparatory=True)
EMAIL = Step("email", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY, preparatory=True)
DEAL = Step("deal", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY)
COMMENT = Step("comment", Retransmit.LOOKUP, looks=LOOKS, busy=BUSY)
#: Steps that only ask, and which way to reach the person each of the steps is about.
_QUESTIONS = (BY_PHONE, BY_EMAIL)
_WAYS: Mapping[str, str] = {"by_phone": "phone", "by_email": "email", "phone": "phone", "email": "email"}

#: Seconds for which pipeline, step and fields are taken to be as they were seen.
FRESH = 3600.0
#: A deal's name has 255 characters; this leaves room for the key.
MAX_NAME = 150
#: A comment has 65,535 characters; of a variable no length is documented.
MAX_COMMENT = 15_000
MAX_VALUE = 5_000
MAX_FIELDS = 40
#: Characters of free text above which a subscriber travels alone, so that no request is megabytes long.
LONG_TEXT = 1_500
#: How many contacts of this run are remembered.
MAX_MET = 10_000
#: The variables that leadctl itself keeps in a book.
_OURS = frozenset({"email", "leadctl_key", "lead_id"})


def _one_line(value: str) -> str:
    if not value or clean(value, 100) != value:
        raise ValueError("expected a name: one line of at most 100 characters")
    return value


Id = Annotated[int, Field(gt=0)]
Template = Annotated[Text, AfterValidator(check_template)]


class SendPulseConfig(ChannelConfig):
    """A static ``api_key``, or ``client_id`` and ``client_secret``; and the book, which a deal does not need."""

    client_id: Text | None = None
    client_secret: SecretStr | None = Field(default=None, validate_default=True)
    api_key: Token | None = Field(default=None, validate_default=True)
    address_book_id: Id | None = None
    base_url: str = "https://api.sendpulse.com"

    @field_validator("client_secret")
    @classmethod
    def _with_its_id(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("client_id") and not (value and value.get_secret_value()):
            raise ValueError("is needed with client_id")
        return value

    @field_validator("api_key")
    @classmethod
    def _one_of_the_two(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None and not info.data.get("client_id"):
            raise ValueError("is needed (or client_id and client_secret)")
        return value

    @property
    def book(self) -> str:
        return str(self.address_book_id)

    def login(self) -> Login:
        if self.api_key:
            return Login(api_key=self.api_key.get_secret_value())
        secret = self.client_secret.get_secret_value() if self.client_secret else ""
        return Login(client_id=self.client_id or "", client_secret=secret)


class CrmSettings(BaseModel):
    """Where a deal begins, and whose it is."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    pipeline_id: Id
    step_id: Id
    responsible_id: Id


class SendPulseSettings(ChannelSettings):
    """``crm``: make a deal instead of a subscriber. ``fields``: a variable of the book → a template; with ``crm``, the
    id of a deal's field, or ``name``, → a template."""

    crm: CrmSettings | None = None
    fields: dict[Annotated[Text, AfterValidator(_one_line)], Template] = Field(
        default_factory=dict, max_length=MAX_FIELDS
    )

    @field_validator("fields")
    @classmethod
    def _of_this_mode(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        if info.data.get("crm") and any(name != "name" and not name.isdecimal() for name in value):
            raise ValueError("with crm, a field is named by its id, or is name")
        if any(name.lower() in _OURS for name in value):
            raise ValueError("must not set email, lead_id or leadctl_key: leadctl sets them")
        return value


class SendPulse(HttpChannel[SendPulseConfig, SendPulseSettings]):
    """One account, and one book or pipeline of it."""

    Config = SendPulseConfig
    Settings = SendPulseSettings
    spec = ChannelSpec(
        name="sendpulse",
        title="SendPulse",
        docs="https://sendpulse.com/integrations/api",
        steps=(BOOK,),
        limits="10 requests/s an account; we keep 8/s. Up to 100 addresses a request; a deal takes 4 to 7 requests",
        repeat=(
            "updates the same subscriber, by e-mail address; the latest lead of a person replaces its variables. "
            "A deal in doubt is looked for first, by its sourceId and among those of its contact"
        ),
        errors={
            "422, 14, 17, 20, 97, 502, 904, 906, 404 of a deal or contact, other 4xx": "Rejected",
            "the same for several addresses; 413": "Split",
            "401, after one new token; 403, 3030303030 (plan), 402, 405, 410, 3xx": "Unusable",
            "404 or 213 (no such book), 299, 1003, 707, 708": "Unusable",
            "a pipeline, step or field of the settings that is not there": "Unusable",
            "429, or 2020202020 with any status": "Throttled",
            "a question that fails": "Transient",
            "408, 5xx, an unknown code in HTTP 200, or an answer that cannot be read": "Ambiguous",
        },
        example_data={"client_id": "f3d9a01c", "client_secret": "example-secret-0a1b2c", "address_book_id": 88123},
        example_settings={"fields": {"budget": "{{ lead.answers.budget }}"}},
    )

    def __init__(self, config: SendPulseConfig, settings: SendPulseSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        if settings.crm is None and config.address_book_id is None:
            raise InvalidCredential("data.address_book_id: is needed (or crm in the settings)")
        self._login = config.login()
        self._api = Api(toolbox, super().exchange, config.base_url, self._login)
        self._crm = Crm(self._api)
        self._labels = LABELS["ru"]
        self._lacking = without_email if settings.crm is None else without_ways
        #: Monotonic time until which the pipeline need not be looked at again.
        self._fresh_until: float | None = None
        #: Contacts made by this run, by phone and address: a search may not show them yet.
        self._met: dict[str, str] = {}

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        crm = (BY_PHONE, BY_EMAIL, CONTACT, PHONE, EMAIL, DEAL, COMMENT)
        return crm if self.settings.crm else (BOOK,)

    # Where it leads to

    def destination(self) -> Destination:
        crm = self.settings.crm
        kind, place = ("pipeline", str(crm.pipeline_id)) if crm else ("book", self.config.book)
        parts = (self._login.name, f"{kind}:{place}")
        return Destination("sendpulse", (str(self.toolbox.credential_id),), parts, place)

    def endpoints(self) -> Sequence[str]:
        return (self._api.base,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket(self._api.scope, Limit(rate=8, per=1, burst=2, documented=10)),)

    def problems(self, lead: Lead) -> Sequence[str]:
        if lacking := self._lacking(lead):
            return lacking
        try:
            self._rendered(lead)
        except Rejected as error:
            return (error.message,)
        return ()

    @cached_property
    def judged(self) -> frozenset[str]:
        return super().judged if self.judge == self.problems else frozenset({"phone", "email"})

    @cached_property
    def judge(self) -> Callable[[Lead], Sequence[str]]:
        return self._lacking if all(map(never_fails, self.settings.fields.values())) else self.problems

    def needs(self, step: Step, delivery: Delivery) -> bool:
        """A contact that was found is left as it is: what it lacks stands in the comment."""
        if step in (BOOK, DEAL, COMMENT):
            return True
        if DEAL.name in delivery.done or _found(delivery):
            return False
        known = step.name not in _WAYS or _WAYS[step.name] in ways_of(delivery.lead)
        return known and not (step in _QUESTIONS and CONTACT.name in delivery.done)

    def batch_alone(self, step: Step, delivery: Delivery) -> bool:
        lead = delivery.lead
        return len(lead.comment) + len(lead.page_url) + len(answers_text(lead)) > LONG_TEXT

    def batch_key(self, step: Step, delivery: Delivery) -> str | None:
        """Two leads of one address never share a request: which of them it would keep is not documented."""
        email = email_address(delivery.lead)
        return email.lower() if step == BOOK and email else None

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        if step == BOOK:
            path, body = f"/addressbooks/{self.config.book}/emails", {"emails": self._subscribers(batch)}
            return self._api.request("POST", path, body)
        path, body = self._crm_request(step, batch[0])
        return self._api.request("POST", CRM + path, body)

    def _subscribers(self, batch: Sequence[Delivery]) -> list[dict[str, Any]]:
        """Only these two keys: with others the vendor answers 500 (sendpulse/sendpulse-rest-api-php#9)."""
        return each(batch, lambda d: {"email": email_address(d.lead), "variables": self._variables(d)})

    def _variables(self, delivery: Delivery) -> dict[str, str]:
        """Empty ones are left out: whether a book takes an empty value is not documented, and one that it does not
        take would be the refusal of all."""
        lead = delivery.lead
        comment, phone = remarks(replace(lead, page_url=""), self._labels), phone_e164(lead)
        if not phone and (text := clean(lead.phone, 60)):
            comment = f"{comment}\n\n{self._labels['phone']}: {text}".strip()
        values = {
            "name": clean(lead.name, MAX_NAME),
            "Phone": (phone or "").removeprefix("+"),
            "comment": multiline(comment, MAX_VALUE),
            "page_url": clean(lead.page_url, 2_000),
            **utm(lead),
            **self._rendered(lead),
            "lead_id": clean(str(lead.id), MAX_NAME),
            "leadctl_key": delivery.key,
        }
        return {name: text for name, text in values.items() if text}

    def _rendered(self, lead: Lead) -> dict[str, str]:
        rendered = {name: multiline(render(text, lead), MAX_VALUE) for name, text in self.settings.fields.items()}
        return {name: text for name, text in rendered.items() if text}

    def _crm_request(self, step: Step, delivery: Delivery) -> tuple[str, dict[str, Any]]:
        lead, contact = delivery.lead, _contact_of(delivery)
        ways = ways_of(lead)
        match step.name:
            case "by_phone":
                return "/contacts/get-list", {"phone": ways["phone"].removeprefix("+"), "limit": PAGE, "offset": 0}
            case "by_email":
                return "/contacts/get-list-by-email", {"email": ways["email"], "isEmailFullSearch": True}
            case "contact":
                return "/contacts/create", self._contact(delivery)
            case "phone":
                return f"/contacts/{contact}/phones", {"phone": ways["phone"]}
            case "email":
                return f"/contacts/{contact}/emails", {"emails": [{"email": ways["email"], "isMain": True}]}
            case "deal":
                return "/deals", self._deal(delivery)
            case _:
                return f"/deals/{delivery.done[DEAL.name]}/comments", {"message": self._comment(delivery)}

    def _contact(self, delivery: Delivery) -> dict[str, Any]:
        """The vendor would rather keep ``externalContactId`` for its own services, but a contact has nothing else by
        which it could be found again before it has its phone and address."""
        first, last = split_name(delivery.lead)
        first = first or next(iter(ways_of(delivery.lead).values()))
        return {"responsibleId": self._where.responsible_id, "firstName": clean(first, MAX_NAME),
                "lastName": clean(last, MAX_NAME), "externalContactId": str(source_id(delivery.key))}  # fmt: skip

    def _deal(self, delivery: Delivery) -> dict[str, Any]:
        crm, fields = self._where, self._rendered(delivery.lead)
        attributes = [{"attributeId": int(name), "value": text} for name, text in fields.items() if name != "name"]
        return {
            "pipelineId": crm.pipeline_id,
            "stepId": crm.step_id,
            "responsibleId": crm.responsible_id,
            "name": self._name(delivery, fields.get("name", "")),
            "sourceId": source_id(delivery.key),
            "contact": [int(_contact_of(delivery))],
            **({"attributes": attributes} if attributes else {}),
        }

    def _name(self, delivery: Delivery, name: str) -> str:
        lead = delivery.lead
        name = clean(name or f"{self._labels['title']} {lead.id}: {lead.name}", MAX_NAME).rstrip(" :")
        repeat = f"{self._labels['repeat']}: " if delivery.possible_repeat else ""
        return f"{repeat}{name} [{delivery.key}]"

    def _comment(self, delivery: Delivery) -> str:
        """All that has no field of its own; phone and address too, which a contact that was found may not have."""
        lead, labels = delivery.lead, self._labels
        tags = ", ".join(f"{clean(key, 100)}={clean(text, 255)}" for key, text in lead.utm.items() if text)
        lines = {"phone": clean(lead.phone, 60), "email": email_address(lead) or "", "utm": tags}
        told = "\n".join(f"{labels[label]}: {text}" for label, text in lines.items() if text)
        mark = f"{labels['id']}: {clean(str(lead.id), MAX_NAME)} [{delivery.key}]"
        text = multiline(f"{remarks(replace(lead, utm={}), labels)}\n\n{told}", MAX_COMMENT)
        return f"{text}\n\n{mark}"

    @property
    def _where(self) -> CrmSettings:
        assert self.settings.crm is not None  # noqa: S101 only steps of the CRM come here
        return self.settings.crm

    # Sending

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        return await self._api.send(request, timeout)

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        if step == BOOK:
            return await super().send(step, batch)
        if self._fresh_until is None or self.toolbox.clock.monotonic() >= self._fresh_until:
            await self._look_around()
        (delivery,) = batch
        if step == CONTACT:
            return await self._send_contact(delivery)
        try:
            return await super().send(step, batch)
        except Ambiguous as error:
            if step in _QUESTIONS:
                raise nothing_made(error) from None
            raise

    async def _send_contact(self, delivery: Delivery) -> Verdict:
        """One contact for all leads of a person, whether or not the vendor's search shows it yet."""
        ways = {kind: text.lower() for kind, text in ways_of(delivery.lead).items()}
        for step in _QUESTIONS:
            if known := self._met.get(ways.get(_WAYS[step.name], "")):
                return Verdict({delivery.key: Done(known, parts={step.name: known})})
        verdict = await super().send(CONTACT, [delivery])
        receipt = verdict.receipts[delivery.key]
        if isinstance(receipt, Done) and receipt.remote_id:
            self._met |= dict.fromkeys(ways.values(), receipt.remote_id)
        while len(self._met) > MAX_MET:
            del self._met[next(iter(self._met))]
        return verdict

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        failure = self._api.failure(answer)
        if failure is not None:
            raise self._of_batch(step, batch, failure)
        body = answer.json()
        try:
            if step == BOOK:
                return _accepted(batch, body)
            (delivery,) = batch
            data = data_of(body)
            if step in _QUESTIONS:
                kind = _WAYS[step.name]
                return {delivery.key: Done(matching(kind, ways_of(delivery.lead)[kind], data))}
            made = data[-1] if isinstance(data, list) and data else data  # addresses come as a list
            return {delivery.key: Done(str(hal.identity(made if isinstance(made, dict) else {})))}
        except ValueError:
            raise with_status(Ambiguous("SendPulse's answer is not of the documented form"), answer) from None

    def _of_batch(self, step: Step, batch: Sequence[Delivery], failure: DeliveryError) -> DeliveryError:
        """A request is refused as a whole, and never says for whom."""
        if isinstance(failure, Rejected) and step == BOOK and failure.http_status == 404:  # no lead is in the path
            return of_settings(failure)
        if not isinstance(failure, Rejected) or len(batch) == 1:
            return failure
        code, status = failure.vendor_code, failure.http_status
        return Split(failure.message, vendor_code=code, http_status=status, answer=failure.answer)

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        findings: dict[str, Finding] = {}
        for delivery in batch:
            try:
                findings[delivery.key] = await self._find(step, delivery)
            except Rejected as error:  # the question is refused: that says nothing about the lead
                findings[delivery.key] = CannotTell(error.message, final=True)
            except ValueError:
                findings[delivery.key] = CannotTell("SendPulse's answer is not of the documented form")
        return findings

    async def _find(self, step: Step, delivery: Delivery) -> Finding:
        contact = _contact_of(delivery)
        match step.name:
            case "contact":
                return await self._crm.contact(delivery.key)
            case "phone" | "email":
                return await self._crm.way(contact, step.name, ways_of(delivery.lead)[step.name])
            case "deal":
                return await self._crm.deal(contact, delivery.key)
            case "comment":
                return await self._crm.comment(delivery.done[DEAL.name], delivery.key)
        return CannotTell("it is sent again instead", final=True)

    async def check(self) -> str:
        name = await self._api.account()
        return f"{name}: {await (self._look_around() if self.settings.crm else self._api.book(self.config.book))}"

    async def _look_around(self) -> str:
        crm = self._where
        fields = (int(name) for name in self.settings.fields if name != "name")
        named = await self._crm.pipeline(crm.pipeline_id, crm.step_id, fields)
        self._fresh_until = self.toolbox.clock.monotonic() + FRESH
        return named


def _accepted(batch: Sequence[Delivery], body: object) -> Mapping[str, Receipt]:
    """The answer names nobody. Raises ValueError unless it is the documented one."""
    if not isinstance(body, dict) or body.get("result") is not True:
        raise ValueError("no result")
    return {delivery.key: Done() for delivery in batch}


def _found(delivery: Delivery) -> str:
    """The contact that was there before this delivery; empty where there is none."""
    return delivery.done.get(BY_PHONE.name) or delivery.done.get(BY_EMAIL.name) or ""


def _contact_of(delivery: Delivery) -> str:
    return _found(delivery) or delivery.done.get(CONTACT.name, "")
