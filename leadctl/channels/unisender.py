"""UniSender (Selzy): a contact of one or several lists, ``subscribe`` for one, ``importContacts`` for many.

Both are upserts by e-mail and phone, so a repeat makes no second contact. Everything is a POST of a form: the key
stays out of URLs, and parameters in both places are an error there.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from leadctl.channelkit import unisender_api
from leadctl.channelkit.batches import each
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.fields import UTM_KEYS, answers_text, email_address, multiline, phone_e164, remarks, utm
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, nothing_made, of_settings, with_status
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, render
from leadctl.channelkit.unisender_api import number_of
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Split, Transient, Unusable
from leadctl.domain.events import Notice
from leadctl.domain.masking import clean, mask_personal
from leadctl.domain.model import Delivery, Destination, Done, Lead, Receipt, Verdict

#: Rows × columns of one import: PHP drops variables beyond its limit without a word.
MAX_CELLS = 5_000
#: Custom fields of one call (50 at the vendor): these beside Name and the nine that leadctl fills by itself.
MAX_FIELDS = 40
#: The vendor's two ways to take contacts: 500 rows, or one to whom a letter is sent.
IMPORTED = Step("contact", Retransmit.IDEMPOTENT, batch=500)
SUBSCRIBED = Step("contact", Retransmit.IDEMPOTENT)
MAX_NAME = 200
MAX_VALUE = 5_000
#: Characters of free text above which a lead travels alone, so that no import is megabytes long.
LONG_TEXT = 1_500
#: Seconds of a pause after a limit: both are counted by the minute, and no answer says how long to wait.
LIMIT_WAIT = 60.0
#: Seconds between the questions about single rows of an import: half of what all methods together may.
ASK_PAUSE = 0.1

KEY_FIELD = "leadctl_key"
#: Fields that are filled without being listed in the settings, where the account has them.
_STANDARD = frozenset({"lead_id", KEY_FIELD, "comment", "page_url", *UTM_KEYS})
#: The columns of the vendor's own, which ``fields`` must not set.
_SYSTEM = re.compile(
    r"(?i)tags|delete|(email|phone)(_status|_availability|_subscribe_times|_(unsubscribed_|excluded_)?list_ids)?"
)
_FIELD_NAME = r"^[A-Za-z][A-Za-z0-9_]{0,99}$"
#: Mailboxes of no person, which an import refuses; the vendor publishes examples, not the list.
_ROLES = frozenset({
    "abuse", "admin", "administrator", "all", "do-not-reply", "donotreply", "hostmaster", "info", "mailer-daemon",
    "marketing", "no-reply", "no_reply", "noc", "noreply", "postmaster", "root", "sales", "security", "spam", "support",
    "webmaster",
})  # fmt: skip


def _api_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("expected the key as the account's settings show it, without spaces")
    return SecretStr(text)


def _list_ids(value: object) -> object:
    if isinstance(value, str):
        value = re.split(r"[\s,;]+", value.strip(" ,;"))
    items = value if isinstance(value, list) else [value]
    return [str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in items]


def _in_order(value: list[str]) -> list[str]:
    return sorted(set(value), key=int)


def _number(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class UniSenderConfig(ChannelConfig):
    """The account's key, and the lists that a contact enters. ``lang`` is the language of the vendor's errors."""

    api_key: Annotated[SecretStr, AfterValidator(_api_key)]
    list_ids: Annotated[
        list[Annotated[str, Field(pattern=r"^[1-9][0-9]{0,17}$")]],
        BeforeValidator(_list_ids, json_schema_input_type=list[int] | list[str] | int | str),
        Field(min_length=1),
        AfterValidator(_in_order),
    ]
    lang: Literal["ru", "en"] = "en"
    base_url: str = "https://api.unisender.com"


FieldName = Annotated[str, Field(pattern=_FIELD_NAME)]
Template = Annotated[Text, AfterValidator(check_template)]


def _no_system_columns(value: dict[str, str]) -> dict[str, str]:
    if any(_SYSTEM.fullmatch(name) or name == KEY_FIELD for name in value):
        raise ValueError(f"must not set email, phone, tags, delete, their system columns, or {KEY_FIELD}")
    return value


class UniSenderSettings(ChannelSettings):
    """``double_optin``: 3 (you have the person's consent, no letter is sent), 0 (the vendor sends a letter that asks
    for it), 4 (a letter only to those who are not in a list yet). ``fields``: a field of the account → a template.
    Fields of these names are filled without being listed, where the account has them: lead_id, leadctl_key, comment,
    page_url and utm_source, utm_medium, utm_campaign, utm_content, utm_term."""

    double_optin: Annotated[Literal[0, 3, 4], BeforeValidator(_number)] = 3
    fields: Annotated[dict[FieldName, Template], AfterValidator(_no_system_columns)] = Field(
        default_factory=dict, max_length=MAX_FIELDS
    )


class UniSender(HttpChannel[UniSenderConfig, UniSenderSettings]):
    """One key, and its lists."""

    Config = UniSenderConfig
    Settings = UniSenderSettings
    spec = ChannelSpec(
        name="unisender",
        title="UniSender",
        docs="https://www.unisender.com/ru/support/api/contacts/importcontacts/",
        steps=(IMPORTED,),
        limits=(
            "300 subscribe and 1,200 other calls a minute for a key and an IP address; we keep 4/s. Up to 500 leads a "
            "request; a lead without an e-mail address, or with a confirmation letter, travels alone"
        ),
        repeat=(
            "updates the same contact (by e-mail, else phone); the latest lead of a person replaces its fields. "
            "Where letters are sent, a contact in doubt is asked for first, by leadctl_key"
        ),
        request_timeout=40.0,  # an import may take 30 s
        errors={
            "invalid_arg, unspecified, too_many_double_optins, an error in the log of an import": "Rejected",
            "the same for an import as a whole": "Split",
            "invalid_api_key, access_denied, unknown_method, not_enough_money": "Unusable",
            "a list or field that the account does not have; a list without a confirmation letter": "Unusable",
            "3xx, 401 to 405, 407, 410": "Unusable",
            "retry_later; getLists or getFields that cannot be read, before anything is sent": "Transient",
            "api_call_limit_exceeded_for_api_key, api_call_limit_exceeded_for_ip, 429": "Throttled",
            "any other code, 408, 5xx, or an answer that cannot be read": "Ambiguous",
        },
        example_data={"api_key": "5example0key1of2no3account4abcdef", "list_ids": [134, 135]},
        example_settings={"double_optin": 3, "fields": {"budget": "{{ lead.answers.budget }}"}},
    )

    def __init__(self, config: UniSenderConfig, settings: UniSenderSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        digest = sha256(config.api_key.get_secret_value().encode()).hexdigest()[:16]
        self._envelope = unisender_api.Envelope(
            hide=toolbox.secrets.hide,
            now=lambda: toolbox.clock.now().timestamp(),
            wait=LIMIT_WAIT / toolbox.scale,
            key_scope=f"unisender:{digest}",
            ip_scope=f"unisender:ip:{urlsplit(config.base_url).netloc.rpartition('@')[2].lower()}",
        )
        self._labels = LABELS[config.lang]
        #: The account's fields; None until it was asked.
        self._known: frozenset[str] | None = None

    # Where it leads to

    def destination(self) -> Destination:
        lists = ",".join(self.config.list_ids)
        parts = (self.config.api_key.get_secret_value(), lists)
        return Destination("unisender", (str(self.toolbox.credential_id),), parts, lists)

    def endpoints(self) -> Sequence[str]:
        return (self.config.base_url,)

    def buckets(self) -> Sequence[Bucket]:
        # Credentials with keys of their own share the address: 300 subscribe a minute for all of them.
        return (
            Bucket(self._envelope.ip_scope, Limit(rate=290, per=60, burst=2)),
            Bucket(self._envelope.key_scope, Limit(rate=4, per=1, burst=2, documented=5)),
        )

    def problems(self, lead: Lead) -> Sequence[str]:
        return self.judge(lead)

    @cached_property
    def judged(self) -> frozenset[str]:
        return frozenset({"phone", "email"})

    @cached_property
    def judge(self) -> Callable[[Lead], Sequence[str]]:
        # A letter is the vendor's way round: the mailbox itself is asked.
        return _refused_by_import if self.settings.double_optin == 3 else _without_ways

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return (IMPORTED,) if self.settings.double_optin == 3 else (SUBSCRIBED,)

    def batch_size(self, step: Step) -> int:
        ours = _STANDARD if self._known is None else self._standard_names
        columns = 5 + len(ours | self.settings.fields.keys())
        return min(step.batch, MAX_CELLS // columns)

    def batch_alone(self, step: Step, delivery: Delivery) -> bool:
        """Phones alone: an import cannot be asked about them afterwards, and an SDK says that it needs e-mails."""
        lead = delivery.lead
        long = len(lead.comment) + len(lead.page_url) + len(answers_text(lead)) > LONG_TEXT
        return long or email_address(lead) is None

    def batch_key(self, step: Step, delivery: Delivery) -> str | None:
        """Two leads of one person never share an import: which of them it would keep is not documented."""
        return (email_address(delivery.lead) or "").lower() or phone_e164(delivery.lead)

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        rows = each(batch, self._row)
        lists = ",".join(self.config.list_ids)
        if len(rows) == 1:
            pairs = [(f"fields[{name}]", text) for name, text in rows[0].items()]
            how = {"list_ids": lists, "double_optin": str(self.settings.double_optin), "overwrite": "2"}
            return self._request("subscribe", [*how.items(), *pairs])
        # An import has no list_ids: every row names its lists, for the e-mail and for the phone.
        tables = [{**row, **{f"{way}_list_ids": lists for way in ("email", "phone") if way in row}} for row in rows]
        pairs = [(f"field_names[{column}]", name) for column, name in enumerate(tables[0])]
        pairs += [
            (f"data[{number}][{column}]", row.get(name, ""))
            for number, row in enumerate(tables)
            for column, name in enumerate(tables[0])
        ]
        return self._request("importContacts", [("overwrite_tags", "0"), ("overwrite_lists", "0"), *pairs])

    def _request(self, method: str, pairs: Iterable[tuple[str, str]] = ()) -> HttpRequest:
        form = [("format", "json"), ("api_key", self.config.api_key.get_secret_value()), *pairs]
        url = f"{self.config.base_url.rstrip('/')}/{self.config.lang}/api/{method}"
        kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return HttpRequest("POST", url, urlencode(form, errors="replace").encode(), kind)

    def _row(self, delivery: Delivery) -> dict[str, str]:
        """Field → value. What belongs to the person is left out where it is empty, what belongs to the lead is not:
        the contact must not keep a comment or a source of an earlier one."""
        lead = delivery.lead
        fields = {name: text for name, text in self._standard(delivery).items() if name in self._standard_names}
        fields |= {
            name: multiline(render(template, lead), MAX_VALUE) for name, template in self.settings.fields.items()
        }
        name = fields.pop("Name", "") or clean(lead.name, MAX_NAME)
        person = {"email": email_address(lead) or "", "phone": phone_e164(lead) or "", "Name": name}
        return {key: text for key, text in person.items() if text} | fields

    @property
    def _standard_names(self) -> AbstractSet[str]:
        return _STANDARD & (self._known or set())

    def _standard(self, delivery: Delivery) -> dict[str, str]:
        lead = delivery.lead
        comment = remarks(replace(lead, page_url=""), self._labels)
        if not phone_e164(lead) and (phone := clean(lead.phone, 60)):
            comment = f"{comment}\n\n{self._labels['phone']}: {phone}"
        return {
            "lead_id": clean(str(lead.id), MAX_NAME),
            KEY_FIELD: delivery.key,
            "comment": multiline(comment, MAX_VALUE),
            "page_url": clean(lead.page_url, 2_000),
            **dict.fromkeys(UTM_KEYS, ""),
            **utm(lead),
        }

    # Sending

    async def send(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        """One request for those who have the same columns: whether an empty cell clears a name is not documented.

        Before the first: are the lists and the mapped fields there? A wrong one may be dropped without an error.
        """
        if self._known is None:
            await self._lists()
            self._known = await self._fields()
        groups: dict[tuple[str, ...], list[Delivery]] = {}
        for delivery, row in zip(batch, each(batch, self._row), strict=True):
            groups.setdefault(tuple(row), []).append(delivery)
        receipts: dict[str, Receipt] = {}
        verdict = Verdict(receipts)
        for group in groups.values():
            try:
                part = await (self._one(step, group[0]) if len(group) == 1 else self._many(step, group))
            except DeliveryError as error:
                if not receipts:
                    raise
                receipts |= {delivery.key: error for delivery in batch if delivery.key not in receipts}
                break
            receipts |= part.receipts
            verdict = Verdict(receipts, part.http_status, part.request_digest)
        return verdict

    async def _one(self, step: Step, delivery: Delivery) -> Verdict:
        doubt = delivery.context.get("in_doubt") == "1"
        letter = self.settings.double_optin != 3 and email_address(delivery.lead)
        if doubt and letter and await self._is_there(delivery):
            return Verdict({delivery.key: Done()})  # a repeat would send a second letter
        try:
            return await super().send(step, [delivery])
        except Rejected as error:
            if error.path != "phone" or email_address(delivery.lead) is None:
                raise
        verdict = await super().send(step, [replace(delivery, lead=replace(delivery.lead, phone=""))])
        text = f"phone conflict: lead {delivery.lead.id} went without its phone, which belongs to another contact"
        self.toolbox.notify(Notice("unisender", self.toolbox.credential_id, "phone_conflict", text))
        conflict = {"phone": "conflict"}
        done = {
            key: replace(receipt, parts=conflict) if isinstance(receipt, Done) else receipt
            for key, receipt in verdict.receipts.items()
        }
        return replace(verdict, receipts=done)

    async def _many(self, step: Step, batch: Sequence[Delivery]) -> Verdict:
        verdict = await super().send(step, batch)
        receipts = dict(verdict.receipts)
        for delivery in batch:
            receipt = receipts.get(delivery.key)
            if not isinstance(receipt, Done):
                await self.toolbox.clock.sleep(ASK_PAUSE / self.toolbox.scale)
                receipts[delivery.key] = await self._settled(step, delivery, receipt)
        return replace(verdict, receipts=receipts)

    async def _settled(self, step: Step, delivery: Delivery, refusal: DeliveryError | None) -> Receipt:
        """A row that is in the log of an import, where errors and warnings are mixed and no list of their codes is
        published; or (no ``refusal``) one that the import neither counts nor names."""
        try:
            there = await self._is_there(delivery)
            if there:
                return Done()
            if refusal is not None and there is False and refusal.path != "phone":
                return refusal
            return (await self._one(step, delivery)).receipts[delivery.key]  # alone it gets an answer of its own
        except Rejected as error:
            return error
        except DeliveryError as error:
            return Ambiguous(f"what became of it could not be asked: {error.message}", vendor_code=error.vendor_code)

    async def _is_there(self, delivery: Delivery) -> bool | None:
        """Whether the contact is in our lists and carries this delivery's key; None: in the lists, with no key."""
        ask = {"email": email_address(delivery.lead) or "", "include_lists": "1", "include_fields": "1"}
        try:
            result = await self._read("getContact", ask.items())
        except Rejected:  # what is answered for an unknown address is not documented
            return False
        if not isinstance(result, dict):
            raise Transient("UniSender's answer about a contact is not of the documented form")
        lists, fields = (unisender_api.beside_or_inside(result, name) for name in ("lists", "fields"))
        listed = {str(item.get("id")) for item in lists if isinstance(item, dict)} if isinstance(lists, list) else set()
        if not listed.issuperset(self.config.list_ids):
            return False
        return fields[KEY_FIELD] == delivery.key if isinstance(fields, dict) and KEY_FIELD in fields else None

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        answer = await super().exchange(request, timeout)
        body = answer.json_or_none()
        if isinstance(body, dict) and body.get("warnings"):
            text = mask_personal(clean(self.toolbox.secrets.hide(str(body["warnings"])), 200))
            self.toolbox.notify(Notice("unisender", self.toolbox.credential_id, "warnings", f"UniSender warns: {text}"))
        return answer

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        """An import: Done, or Rejected for what its log names; where some are not even counted, only the latter."""
        try:
            result = self._envelope.result(answer)
            if len(batch) == 1:
                return {batch[0].key: Done(str(number_of(result, "person_id")))}
            return self._imported(batch, result)
        except Rejected as error:
            if len(batch) == 1:
                raise
            raise with_status(Split(error.message, vendor_code=error.vendor_code), answer) from None
        except (ValueError, IndexError):
            raise unisender_api.unreadable(answer) from None

    def _imported(self, batch: Sequence[Delivery], result: object) -> Mapping[str, Receipt]:
        """Raises ValueError or IndexError where the answer does not account for exactly these rows."""
        if number_of(result, "total") != len(batch):
            raise ValueError("other rows")
        refused: dict[str, Receipt] = {}
        for entry in unisender_api.log_of(result):
            refused.setdefault(batch[number_of(entry, "index")].key, self._envelope.refused_row(entry))
        counted = sum(number_of(result, name) for name in ("inserted", "updated", "deleted"))
        # Not the length of the log: what it only warns of is counted too.
        if counted + min(number_of(result, "invalid"), len(refused)) < len(batch):
            return refused
        return {delivery.key: refused.get(delivery.key, Done()) for delivery in batch}

    # Asking

    async def check(self) -> str:
        """The lists; and the fields, where the settings name some."""
        said = await self._lists()
        if self.settings.fields:
            await self._fields()
        return said

    async def _read(self, method: str, pairs: Iterable[tuple[str, str]] = ()) -> Any:
        """``result`` of a method that makes nothing: a failure leaves nothing in doubt."""
        try:
            return self._envelope.result(await self.exchange(self._request(method, pairs)))
        except Ambiguous as error:
            raise nothing_made(error) from None

    async def _lists(self) -> str:
        """Names the configured lists. Raises Unusable where one is missing."""
        titles = await self._named("getLists", "id", "title")
        if missing := [number for number in self.config.list_ids if number not in titles]:
            raise Unusable(f"the account has no list {', '.join(missing)}: correct list_ids", vendor_code="list_ids")
        return "lists " + ", ".join(f"{number} ({titles[number]})" for number in self.config.list_ids)

    async def _fields(self) -> frozenset[str]:
        """The account's fields. Raises Unusable where one of the settings is missing."""
        names = await self._named("getFields", "name", "type")
        if missing := [name for name in self.settings.fields if name not in names and name != "Name"]:
            raise Unusable(
                f"the account has no field {', '.join(missing)}: create it there, or correct fields of the settings",
                vendor_code="fields",
            )
        return frozenset(names)

    async def _named(self, method: str, key: str, value: str) -> dict[str, str]:
        try:
            result = await self._read(method)
        except Rejected as error:  # no lead is in it
            raise of_settings(error) from None
        if not isinstance(result, list) or not all(isinstance(item, dict) for item in result):
            raise Transient(f"UniSender's answer to {method} is not of the documented form")
        return {str(item.get(key)): clean(str(item.get(value) or ""), 60) for item in result}


def _without_ways(lead: Lead) -> Sequence[str]:
    known = email_address(lead) or phone_e164(lead)
    return () if known else ("it has neither an e-mail address nor a phone number",)


def _refused_by_import(lead: Lead) -> Sequence[str]:
    if _mailbox(email_address(lead) or "") in _ROLES:
        return ("UniSender imports no role addresses (info@, sales@, noreply@ …)",)
    return _without_ways(lead)


def _mailbox(email: str) -> str:
    return email.partition("@")[0].partition("+")[0].lower()
