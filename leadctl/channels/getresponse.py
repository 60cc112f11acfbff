"""GetResponse: a contact of a list (a "campaign"), one lead a request.

``202`` says that the contact is queued, and names no id. An address is in a list once: a repeated request changes
nothing, and ``409`` says that the person is there already, which does not mean that this lead's data are. Then they are
added to the contact by the call that removes nothing.

The vendor's batch is not used: whether one refused contact spoils the whole call, and what becomes of a contact that is
in the list already, is not documented, and its 202 names nobody. https://apireference.getresponse.com/
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from hashlib import sha256
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit
from weakref import WeakValueDictionary

from pydantic import AfterValidator, Field, SecretStr

from leadctl.channelkit import getresponse_api as vendor
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.fields import UTM_KEYS, email_address, multiline, phone_e164, remarks, utm, without_email
from leadctl.channelkit.getresponse_api import Card
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, never_fails, render
from leadctl.domain.errors import DeliveryError, Rejected, Transient, Unusable
from leadctl.domain.events import Notice
from leadctl.domain.masking import clean
from leadctl.domain.model import Absent, CannotTell, Delivery, Destination, Done, Finding, Found, Lead, Receipt, Verdict

MAX_NAME = 128
MAX_FIELDS = 50
#: Characters of a custom field; how many the vendor takes is not documented: what it refuses as too long is cut.
MAX_VALUE = 5_000
#: Seconds after which a contact that is queued is asked for again: twice, within the usual 300 s of a delivery.
UNSEEN = 100.0
#: Addresses remembered as queued: seven minutes of sending at full speed.
MAX_QUEUED = 30_000
#: Seconds between the two questions of a look-up, so that eight at a time stay below the vendor's 80/s.
ASK_PAUSE = 0.22

KEY_FIELD = "leadctl_key"
#: Custom fields that are filled without being listed in the settings, where the account has them.
STANDARD = ("lead_id", KEY_FIELD, "phone", "comment", "page_url", *UTM_KEYS)
#: The host of GetResponse MAX in the US; the other one is api3.getresponse360.pl.
MAX_BASE = "https://api3.getresponse360.com/v3"

_DOMAIN = re.compile(r"(?!www\.)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,}")


def _api_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("expected the key as the account's settings show it, without spaces")
    return SecretStr(text)


def _domain(value: str) -> str:
    text = value.strip().lower()
    if len(text) > 253 or not _DOMAIN.fullmatch(text):
        raise ValueError("expected the account's domain alone, like example.com: no https://, no www.")
    return text


class GetResponseConfig(ChannelConfig):
    """The key, and the list's token. ``domain`` is of GetResponse MAX alone; with it, ``base_url`` is by default
    ``https://api3.getresponse360.com/v3`` (for an account in Poland: ``https://api3.getresponse360.pl/v3``)."""

    api_key: Annotated[SecretStr, AfterValidator(_api_key)]
    campaign_id: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    domain: Annotated[str, AfterValidator(_domain)] | None = None
    base_url: str = "https://api.getresponse.com/v3"

    @property
    def base(self) -> str:
        return MAX_BASE if self.domain and "base_url" not in self.model_fields_set else self.base_url


def _fields(value: dict[str, str]) -> dict[str, str]:
    if taken := {"email", "campaign", KEY_FIELD} & value.keys():
        raise ValueError(f"must not set {min(taken)}: leadctl sets it")
    return value


FieldName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Template = Annotated[Text, AfterValidator(check_template)]


class GetResponseSettings(ChannelSettings):
    """``double_optin``: whether the list must ask each person for confirmation, by a letter; a list that does otherwise
    is refused. Left out: as the list has it. ``fields``: a custom field (its name or id), or ``name``, → a template.
    Custom fields of these names are filled without being listed, where the account has them: lead_id, leadctl_key,
    phone, comment, page_url and utm_source, utm_medium, utm_campaign, utm_content, utm_term."""

    double_optin: bool | None = None
    fields: Annotated[dict[FieldName, Template], AfterValidator(_fields)] = Field(
        default_factory=dict, max_length=MAX_FIELDS
    )


Building = Callable[[Delivery, Card], HttpRequest]


class GetResponse(HttpChannel[GetResponseConfig, GetResponseSettings]):
    """One key, and one list."""

    Config = GetResponseConfig
    Settings = GetResponseSettings
    spec = ChannelSpec(
        name="getresponse",
        title="GetResponse",
        docs="https://apireference.getresponse.com/",
        steps=(Step("contact", Retransmit.IDEMPOTENT),),
        limits=(
            "80 requests/s and 30,000 in 10 minutes an account, 10 at a time; we keep 70/s and 8 at a time. One lead a "
            "request: the vendor's batch does not say what became of each"
        ),
        repeat="makes no second contact: an address is in a list once, to which the lead's fields are added",
        concurrency=8,
        visible_after=60,
        errors={
            "1000, 1003, 1007, once the value that is named was cut or left out; 1010, the second time": "Rejected",
            "1002 (blocked, bounced or deleted before), 1004, 1005, 1006, 1009, 1011, 1012, 1028, 1029, other 4xx":
                "Rejected",
            "409 or 1008, while the contact is not shown, if the list asks for confirmation": "Rejected",
            "409 or 1008, while the contact is not shown, elsewhere; a contact that goes meanwhile": "Transient",
            "1001, unless the ids of the fields have changed; 1013": "Unusable",
            "1014 as 401 or 403, 1017, 1018, 1021, 1023, 1024, 1027 (plan); 401 to 405, 407, 410, 415, 3xx": "Unusable",
            "a list or field of the settings that is not there, or a list with another opt-in": "Unusable",
            "1015, 429": "Throttled",
            "1016": "LimitReached",
            "1019; a question that fails": "Transient",
            "1, 408, other 5xx, a success that is not 202": "Ambiguous",
        },
        example_data={"api_key": "example0key1of2no3account4abcdef", "campaign_id": "p86zQ"},
        example_settings={"double_optin": False, "fields": {"budget": "{{ lead.answers.budget }}"}},
    )  # fmt: skip

    def __init__(self, config: GetResponseConfig, settings: GetResponseSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        key = config.api_key.get_secret_value()
        self._scope = f"getresponse:{sha256(key.encode()).hexdigest()[:16]}"
        headers = {"X-Auth-Token": f"api-key {key}", **({"X-Domain": config.domain} if config.domain else {})}
        self._api = vendor.Api(toolbox, self.exchange, config.base, headers, self._scope)
        self._labels = LABELS["ru"]
        self._deciding = [source for source in settings.fields.values() if not never_fails(source)]
        #: The account's custom fields, id → name; None until it was asked.
        self._known: Mapping[str, str] | None = None
        #: Whether the list sends letters that ask for confirmation.
        self._letters = False
        self._looking = asyncio.Lock()
        #: One lead of an address at a time, and the keys of those that were queued: the vendor might take two requests
        #: for one contact, and keep the data of only one.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._queued: dict[str, str] = {}

    # Where it leads to

    def destination(self) -> Destination:
        list_id = self.config.campaign_id
        parts = (self.config.api_key.get_secret_value(), list_id)
        return Destination("getresponse", (str(self.toolbox.credential_id),), parts, list_id)

    def endpoints(self) -> Sequence[str]:
        return (self._api.base,)

    def buckets(self) -> Sequence[Bucket]:
        return (
            Bucket(f"{self._scope}:10min", Limit(rate=27_000, per=600, burst=3_000)),
            Bucket(self._scope, Limit(rate=70, per=1, burst=8, documented=80)),
        )

    def problems(self, lead: Lead) -> Sequence[str]:
        if lacking := without_email(lead):
            return lacking
        try:
            for source in self._deciding:
                render(source, lead)
        except Rejected as error:
            return (error.message,)
        return ()

    @cached_property
    def judged(self) -> frozenset[str]:
        return super().judged if self._deciding else frozenset({"email"})

    @cached_property
    def judge(self) -> Callable[[Lead], Sequence[str]]:
        return super().judge if self._deciding else without_email

    def batch_key(self, step: Step, delivery: Delivery) -> str | None:
        """Of one person's leads the later one waits while the earlier one waits to be sent again."""
        return _address(delivery)

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        (delivery,) = batch
        return self._creation(delivery, self._card(delivery))

    def _creation(self, delivery: Delivery, card: Card) -> HttpRequest:
        """No ``dayOfCycle``: with it the list's letters would begin."""
        body: dict[str, Any] = {
            "email": email_address(delivery.lead),
            "campaign": {"campaignId": self.config.campaign_id},
            **({"name": card.name} if card.name else {}),
            **({"customFieldValues": card.custom_values()} if card.values else {}),
        }
        return self._api.post("/contacts", body)

    def _addition(self, contact: str, delivery: Delivery, card: Card) -> HttpRequest:
        """Adds and changes, and removes nothing; ``POST /contacts/{id}`` would remove all other values."""
        del delivery
        return self._api.post(f"/contacts/{contact}/custom-fields", {"customFieldValues": card.custom_values()})

    def _card(self, delivery: Delivery) -> Card:
        lead = delivery.lead
        chosen = {key: multiline(render(text, lead), MAX_VALUE) for key, text in self.settings.fields.items()}
        name = clean(chosen.pop("name", ""), MAX_NAME) or clean(lead.name, MAX_NAME)
        told = {self._id_of(key): text for key, text in (self._standard(delivery) | chosen).items() if text}
        return Card(name, {identity: text for identity, text in told.items() if identity})

    def _standard(self, delivery: Delivery) -> dict[str, str]:
        lead, phone = delivery.lead, phone_e164(delivery.lead)
        comment = remarks(replace(lead, page_url=""), self._labels)
        if not phone and (text := clean(lead.phone, 60)):
            comment = f"{comment}\n\n{self._labels['phone']}: {text}".strip()
        return {
            "lead_id": clean(str(lead.id), MAX_NAME),
            KEY_FIELD: delivery.key,
            "phone": phone or "",
            "comment": multiline(comment, MAX_VALUE),
            "page_url": clean(lead.page_url, 2_000),
            **utm(lead),
        }

    def _id_of(self, field: str) -> str | None:
        """The id of a custom field that is named, or of one that is given by its id."""
        by_name = next((identity for identity, name in self._names.items() if name == field), None)
        return by_name or (field if field in self._names and field in self.settings.fields else None)

    # Sending

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        """An error of authentication may quote the key: it is never let in."""
        answer = await super().exchange(request, timeout)
        if answer.status < 400:
            return answer
        return replace(answer, body=self.toolbox.secrets.hide(answer.text).encode())

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        (delivery,) = batch
        await self._look_around()
        address = _address(delivery)
        turn = self._turns.setdefault(address, asyncio.Lock())
        async with turn:
            if not self._is_first(delivery):
                return await self._bring(delivery)
            try:
                verdict = await self._post(delivery, self._creation, 202, Done(accepted=True))
            except Rejected as error:
                if error.vendor_code not in (vendor.TAKEN, "409"):
                    raise
                return await self._bring(delivery)
            self._queued[address] = delivery.key
            if len(self._queued) > MAX_QUEUED:
                del self._queued[next(iter(self._queued))]
            return verdict

    def _is_first(self, delivery: Delivery) -> bool:
        """Whether no other lead of this address waits in the vendor's queue, as far as is known here."""
        return self._queued.get(_address(delivery), delivery.key) == delivery.key

    async def _bring(self, delivery: Delivery) -> Verdict:
        """The person is in the list, or will be: add this lead's data to the contact."""
        contact = await self._contact(delivery.lead)
        if contact is None:
            return self._unseen(delivery)
        self._queued.pop(_address(delivery), None)
        if not self._card(delivery).values:
            return Verdict({delivery.key: Done(contact)}, 409)
        try:
            return await self._post(delivery, partial(self._addition, contact), 200, Done(contact))
        except Unusable as error:
            if error.vendor_code != vendor.NOT_THERE:
                raise
            gone = Transient("GetResponse: the contact has gone meanwhile", vendor_code=vendor.NOT_THERE)
            gone.http_status, gone.request_digest = 404, error.request_digest
            raise gone from None

    def _unseen(self, delivery: Delivery) -> Verdict:
        """The address is taken, and no contact is shown: one is queued, or waits for the person's confirmation."""
        if self._is_first(delivery) and delivery.context.get("in_doubt") == "1":
            return Verdict({delivery.key: Done(accepted=True)}, 409)  # by the attempt in doubt
        if self._letters:
            raise Rejected(
                "GetResponse: the address waits for the person's confirmation, and takes no data until then",
                vendor_code=vendor.TAKEN, http_status=409,
            )  # fmt: skip
        raise Transient(
            "GetResponse: the address is taken, but its contact is not shown yet (it is queued, or waits for the "
            "person's confirmation): this lead's data cannot be added to it",
            retry_after=UNSEEN / self.toolbox.scale, vendor_code=vendor.TAKEN, http_status=409,
        )  # fmt: skip

    async def _post(self, delivery: Delivery, building: Building, good: int, done: Done) -> Verdict:
        """One request; and once more, if there is anything to change about it."""
        card = self._card(delivery)
        request = building(delivery, card)
        lost = ""
        try:
            answer = await self.exchange(request)
            failure = self._api.failure(answer, good)
            again = await self._mended(delivery, card, failure, answer) if failure else None
            if failure and again:
                lost = card.lost(again, self._names) if failure.vendor_code != "1001" else ""
                request = building(delivery, again)
                answer = await self.exchange(request)
                failure = self._api.failure(answer, good)
            if failure is not None:
                raise failure
        except DeliveryError as error:
            error.request_digest = request.digest
            raise
        if lost:
            self._tell("left_out", f"lead {delivery.lead.id} went without what GetResponse refuses: {lost}")
            done = replace(done, parts={"left_out": lost})
        return Verdict({delivery.key: done}, answer.status, request.digest)

    async def _mended(self, delivery: Delivery, card: Card, failure: DeliveryError, answer: Answer) -> Card | None:
        """What may be taken at the second attempt."""
        match failure.vendor_code:
            case "1010":
                return card
            case "1001":  # ids are cached: a field may have been made anew
                await self._look_around(anew=True)
                again = self._card(delivery)
            case "1000" | "1003" | "1007":
                again = card.without(answer, self._names)
            case _:
                return None
        return again if again != card else None

    @property
    def _names(self) -> Mapping[str, str]:
        return self._known or {}

    def _tell(self, code: str, text: str) -> None:
        self.toolbox.notify(Notice("getresponse", self.toolbox.credential_id, code, text))

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        """Of the first request: 202 has no body, so that nothing can be missing from it."""
        (delivery,) = batch
        if (failure := self._api.failure(answer, 202)) is not None:
            raise failure
        return {delivery.key: Done(accepted=True)}

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        await self._look_around()
        return {delivery.key: await self._find(delivery) for delivery in batch}

    async def _find(self, delivery: Delivery) -> Finding:
        contact = await self._contact(delivery.lead)
        if contact is None and self._letters:
            return CannotTell("contacts that wait for the person's confirmation are not shown")
        field = self._id_of(KEY_FIELD)
        if contact is None or field is None:
            return Found(contact) if contact else Absent()
        await self.toolbox.clock.sleep(ASK_PAUSE / self.toolbox.scale)
        shown = vendor.shown(await self._api.read(f"/contacts/{contact}"), field)
        if delivery.key in shown:
            return Found(contact)
        return CannotTell("the contact shows the key of another lead") if shown else Absent()

    async def _contact(self, lead: Lead) -> str | None:
        """The id of the contact in our list, if it is shown there. Compared here too: without ``exactMatch`` the filter
        finds what is like it."""
        address = email_address(lead) or ""
        query = {"query[email]": address, "query[campaignId]": self.config.campaign_id, "additionalFlags": "exactMatch"}
        items = await self._api.list(f"/contacts?{urlencode(query)}", "contactId", of_lead=True)
        return vendor.contact_of(items, address, self.config.campaign_id)

    async def check(self) -> str:
        account = await self._api.read("/accounts?fields=email")
        email = account.get("email") if isinstance(account, dict) else None
        place = await self._list()
        if place is None:
            raise Unusable(
                f"GetResponse has no list {self.config.campaign_id}: correct campaign_id (LIST TOKEN in its settings)",
                vendor_code="campaign_id",
            )
        self._known = await self._fields()
        filled = ", ".join(name for name in STANDARD if self._id_of(name)) or "none of its own"
        letters = "asks each person for confirmation" if self._letters else "without confirmation letters"
        return f"{clean(str(email or urlsplit(self._api.base).hostname), 100)}: list {place}, {letters}; fills {filled}"

    async def _look_around(self, *, anew: bool = False) -> None:
        """Once: does the list send letters, and what are the custom fields called?"""
        async with self._looking:
            if self._known is None or anew:
                await self._list()
                known = await self._fields()
                if self._known is None and self._letters and self.settings.double_optin is None:
                    self._tell("double_optin", "the list sends each person a letter that asks for confirmation")
                self._known = known

    async def _list(self) -> str | None:
        """Names the list; None where it is not there. Raises Unusable where its opt-in is not the one asked for."""
        found = await self._api.read(f"/campaigns/{self.config.campaign_id}")
        if not isinstance(found, dict):
            return None
        kinds = found.get("optinTypes")
        kind = kinds.get("api") if isinstance(kinds, dict) else None
        self._letters = kind == "double"
        wanted = self.settings.double_optin
        if kind in ("single", "double") and wanted is not None and wanted is not self._letters:
            raise Unusable(
                f"the list's opt-in for the API is {kind}, and double_optin of the settings is {str(wanted).lower()}: "
                "change one of them",
                vendor_code="double_optin",
            )
        return f"{clean(str(found.get('name') or ''), 80)} ({self.config.campaign_id})"

    async def _fields(self) -> Mapping[str, str]:
        """The account's custom fields. Raises Unusable where one of the settings is missing."""
        known = await self._api.custom_fields()
        there = {"name", *known, *known.values()}
        if missing := [field for field in self.settings.fields if field not in there]:
            raise Unusable(
                f"the account has no custom field {', '.join(missing)}: make it, or correct fields of the settings",
                vendor_code="fields",
            )
        return known


def _address(delivery: Delivery) -> str:
    return (email_address(delivery.lead) or "").lower()
