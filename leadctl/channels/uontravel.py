"""U-ON.Travel: one lead (обращение) a request.

The vendor has no idempotency key: a repeated request makes a second lead. So every lead carries the delivery's key, as
its number (``r_id_internal``) and at the end of its note, and what is in doubt is looked for by either, in the lists of
the days that it may stand under. That the number is shown again is documented, but nobody reports having seen it: the
note is there for that.
"""

import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cached_property
from hashlib import sha256
from html import unescape
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from pydantic import AfterValidator, Field, SecretStr

from leadctl.channelkit import hal
from leadctl.channelkit.channel import ChannelConfig, ChannelSettings, Text, Toolbox
from leadctl.channelkit.fields import NO_WAY, email_address, multiline, phone_e164, remarks, split_name, utm
from leadctl.channelkit.http import Answer, HttpChannel, HttpRequest, nothing_made, of_settings, with_status
from leadctl.channelkit.lookup import Listed, find_marked
from leadctl.channelkit.phpquery import php_map
from leadctl.channelkit.spec import Bucket, ChannelSpec, Limit, Retransmit, Step
from leadctl.channelkit.templates import LABELS, check_template, never_fails, render
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.masking import MASK, clean
from leadctl.domain.model import RESTORED, Delivery, Destination, Done, Finding, Lead, Receipt

#: Fields by which the vendor can reach a person: it takes no lead without one of them.
CONTACTS = frozenset({
    "u_phone", "u_phone_mobile", "u_phone_home", "u_email", "u_telegram", "u_whatsapp", "u_viber", "u_instagram",
    "u_social_vk", "u_social_fb", "u_social_ok",
})  # fmt: skip
#: What ``fields`` may name, beside additional fields: the documented ones that leadctl does not keep for itself. The
#: vendor ignores any other one and answers "200", so that a typo would lose the data without a word.
FIELDS = CONTACTS | {
    "r_u_id", "r_cl_id", "r_ci_id", "r_co_id", "status_id", "reason_deny_id", "source", "touroperator_id",
    "travel_type_id", "visa_id", "insurance_id", "note", "date_from", "date_to", "nights_from", "nights_to",
    "countries", "requirements_countries", "hotel_types", "nutrition", "tourist_count", "tourist_child_count",
    "tourist_baby_count", "budget", "requirements_note", "u_name", "u_surname", "u_sname", "u_address", "u_birthday",
    "u_note", "utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term", "reminder_datetime",
    "reminder_text",
}  # fmt: skip
#: Sent unless ``settings.notify``: no task, and no message to the tourist or the manager.
SILENCE = ("ignore_actions_and_reminders", "ignore_tourist_notification", "ignore_manager_notification")
MAX_FIELDS = 50
#: Lengths are not documented: a line stays inside a column of 255, a text far inside 64 KB.
MAX_LINE = 255
MAX_VALUE = 5_000
MAX_NOTE = 15_000

#: The server's own time; an account may keep another, which its lists are asked a day more on either side for.
MOSCOW = timezone(timedelta(hours=3))
DAY = timedelta(days=1)
PAGE = 100
MAX_PAGES = 200
#: Seconds between the requests of one look-up, of which the limiter does not know: two lanes of them, and the sends
#: beside them, stay within the vendor's 10/s.
PAUSE = 0.4
#: What looks like an outage: a key may have a white list of addresses.
CUT_OFF = "U-ON is as silent to an address that is not on the white list of the key"

#: What a code means, whether it is the HTTP status or the ``result`` of a body. Any other one may have come too late.
CODES: Mapping[str, tuple[type[DeliveryError], str]] = {
    "400": (Rejected, "the request is refused"),
    "401": (Unusable, "the key is refused"),
    "402": (Unusable, "the account is not paid for"),
    "403": (Unusable, "the key is refused: is api_key right, and are GET? and POST? ticked for it?"),
    "404": (Rejected, "a value is refused"),
    "405": (Unusable, "the method is refused: is base_url right?"),
    "407": (Unusable, "a proxy asks for a password"),
    "410": (Unusable, "there is no such method any more"),
    "413": (Rejected, "the lead is too long"),
    "415": (Unusable, "the kind of body is refused"),
    "422": (Rejected, "a value is refused"),
}
#: What a 404 is, stands only in its words; an unknown text is a refusal of the lead.
_NO_ROUTE = re.compile(r"no route found|<html", re.IGNORECASE)
_PARAMETER = re.compile(r"parameter\s+([a-z_0-9]+(?:\[[0-9]+\])?)\s+is wrong", re.IGNORECASE)

#: With a letter: it is cut out of answers, and must not be a part of the ids in them.
_API_KEY = re.compile(r"(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{6,200}")
_ID = re.compile(r"[1-9][0-9]{0,17}")
_EXTENDED = re.compile(r"extended_fields\[[1-9][0-9]{0,17}\]")
_DIALLED = re.compile(r"[0-9+(). -]+")
_MARK = re.compile(r"\[(lc-[A-Za-z0-9_.-]+)\]")
_PHONES = frozenset({"u_phone", "u_phone_mobile", "u_phone_home", "u_whatsapp", "u_viber"})


def _api_key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not _API_KEY.fullmatch(text):
        raise ValueError("expected the key as the settings of the cabinet show it (letters and digits)")
    return SecretStr(text)


def _field_names(value: dict[str, str]) -> dict[str, str]:
    """By the names that travel: a bare number is an additional field."""
    named: dict[str, str] = {}
    for name, template in value.items():
        full = f"extended_fields[{name}]" if _ID.fullmatch(name) else name
        if full not in FIELDS and not _EXTENDED.fullmatch(full):
            raise ValueError(f"{clean(name, 60)} is no field of lead/create that settings may fill")
        if full in named:
            raise ValueError(f"{clean(name, 60)} is there twice")
        named[full] = template
    return named


Line = Annotated[Text, AfterValidator(lambda value: clean(value, MAX_LINE))]
Template = Annotated[Text, AfterValidator(check_template)]


class UonTravelConfig(ChannelConfig):
    """The key of the cabinet, with GET? and POST? ticked. ``source`` is shown as the source of every lead."""

    api_key: Annotated[SecretStr, AfterValidator(_api_key)]
    source: Line | None = None
    base_url: str = "https://api.u-on.ru"


class UonTravelSettings(ChannelSettings):
    """``notify``: U-ON makes its task and tells tourist and manager of every lead. ``fields``: a field of
    ``lead/create`` (``r_u_id``, ``status_id``, ``u_telegram`` …), or an additional one as ``extended_fields[ID]`` or as
    its bare ID, → a template."""

    notify: bool = False
    fields: Annotated[dict[str, Template], AfterValidator(_field_names)] = Field(
        default_factory=dict, max_length=MAX_FIELDS
    )


class UonTravel(HttpChannel[UonTravelConfig, UonTravelSettings]):
    """One key."""

    Config = UonTravelConfig
    Settings = UonTravelSettings
    spec = ChannelSpec(
        name="uontravel",
        title="U-ON.Travel",
        docs="https://api.u-on.ru/doc",
        # 3 s is the usual advice; the second look is for a request that was still being worked on.
        steps=(Step("lead", Retransmit.LOOKUP, looks=(3, 15), busy=20),),
        limits="10 requests/s an account, one lead a request; we keep 5/s",
        repeat="makes a second lead; so a lead in doubt is looked for first, by the key in its number and its note",
        concurrency=2,
        request_timeout=20.0,
        errors={
            "400, 413, 422; 404 with any text but those below": "Rejected",
            "401, 402, 403 (wrong key, GET? or POST? not ticked), 405, 407, 410, 415, 3xx": "Unusable",
            "404 No route found, or a web page; 404 for a fixed value of the settings": "Unusable",
            "429": "Throttled",
            "5xx, any other code, no result, or an answer that cannot be read": "Ambiguous",
            "a dropped connection or a time-out (so, too, an address outside the key's white list)": "Ambiguous",
            "a look-up that fails": "Transient",
        },
        example_data={"api_key": "Example0Key1Of2Account3", "source": "site"},
        example_settings={
            "notify": False,
            "fields": {"r_u_id": "2", "199888": "{{ lead.answers.country }}", "budget": "{{ lead.answers.budget }}"},
        },
    )

    def __init__(self, config: UonTravelConfig, settings: UonTravelSettings, toolbox: Toolbox) -> None:
        super().__init__(config, settings, toolbox)
        self._key = config.api_key.get_secret_value()
        self._base = config.base_url.rstrip("/")
        self._host = urlsplit(self._base).netloc.rpartition("@")[2].lower()
        self._scope = f"uontravel:{sha256(self._key.encode()).hexdigest()[:16]}"
        self._labels = LABELS["ru"]
        #: The templates that decide whether a lead can be sent.
        self._deciding = {
            name: source for name, source in settings.fields.items() if name in CONTACTS or not never_fails(source)
        }

    # Where it leads to

    def destination(self) -> Destination:
        return Destination("uontravel", (str(self.toolbox.credential_id),), (self._key,), self._host)

    def endpoints(self) -> Sequence[str]:
        return (self._base,)

    def buckets(self) -> Sequence[Bucket]:
        return (Bucket(self._scope, Limit(rate=5, burst=2, documented=10)),)

    def problems(self, lead: Lead) -> Sequence[str]:
        try:
            values = _contacts(lead) | _rendered(self._deciding, lead)
        except Rejected as error:
            return (error.message,)
        if CONTACTS.isdisjoint(values):
            return (NO_WAY,)
        return ()

    @cached_property
    def judged(self) -> frozenset[str]:
        return super().judged if self._deciding else frozenset({"phone", "email"})

    @cached_property
    def judge(self) -> Callable[[Lead], Sequence[str]]:
        return super().judge if self._deciding else _without_ways

    # What is sent

    def build(self, step: Step, batch: Sequence[Delivery]) -> HttpRequest:
        """A form, as the vendor's own samples send it; UTF-8 by name, for one integrator saw question marks."""
        del step
        (delivery,) = batch
        body = urlencode(self._values(delivery), errors="replace").encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        return HttpRequest("POST", self._url("/lead/create.json"), body, kind)

    def _url(self, path: str) -> str:
        return f"{self._base}/{self._key}{path}"

    def _values(self, delivery: Delivery) -> dict[str, str]:
        lead = delivery.lead
        first, last = split_name(lead)
        values = {"source": self.config.source or "", "u_name": first, "u_surname": last, **_contacts(lead)}
        values |= utm(lead)
        values |= _rendered(self.settings.fields, lead)
        values["note"] = self._note(delivery, values.get("note", ""))
        values["r_id_internal"] = delivery.key
        if created := _created(lead):
            values["r_dat"] = f"{created:%Y-%m-%d %H:%M:%S}"
        if not self.settings.notify:
            values |= dict.fromkeys(SILENCE, "1")
        return {name: text for name, text in values.items() if text}

    def _note(self, delivery: Delivery, chosen: str) -> str:
        """``chosen``, or what has no field of its own; a phone that could not be sent as it was written; the key."""
        lead = delivery.lead
        repeat = self._labels["repeat"] if delivery.possible_repeat else ""
        text = chosen or multiline(remarks(lead, self._labels), MAX_NOTE)
        written = clean(lead.phone, MAX_LINE)
        phone = "" if _is_whole(written) else f"{self._labels['phone']}: {written}"
        mark = f"{self._labels['id']}: {clean(str(lead.id), MAX_LINE)} [{delivery.key}]"
        return "\n\n".join(part for part in (repeat, text, phone, mark) if part)

    # Sending

    async def prepare(self, step: Step) -> Mapping[str, str]:
        """When it was sent: the vendor lists leads by their day."""
        del step
        return {"sent": str(int(self.toolbox.clock.now().timestamp()))}

    async def exchange(self, request: HttpRequest, timeout: float | None = None) -> Answer:  # noqa: ASYNC109 handed on
        """The key stands in every path, and an answer may quote that path: it is never let in."""
        try:
            answer = await super().exchange(request, timeout)
        except (Transient, Ambiguous) as error:
            raise type(error)(f"{error.message}. {CUT_OFF}") from None
        return replace(answer, body=answer.body.replace(self._key.encode(), MASK.encode()))

    # What is answered

    def parse(self, step: Step, batch: Sequence[Delivery], answer: Answer) -> Mapping[str, Receipt]:
        del step
        (delivery,) = batch
        result, text = _said(answer)
        if 200 <= answer.status < 300 and result == "200":
            try:
                return {delivery.key: Done(str(hal.identity(php_map(answer.json()))))}
            except ValueError:
                raise with_status(Ambiguous("U-ON's answer names no lead"), answer) from None
        if 200 <= answer.status < 300:
            answer.json()  # one that is no JSON, or broke off, says so itself
        raise with_status(self._failure(answer, result, text), answer)

    def _failure(self, answer: Answer, result: str, text: str) -> DeliveryError:
        """What a refusal means, of a request that sends or of one that asks."""
        # What stands before the vendor answers 5xx too: then the body counts less.
        code = result if result and answer.status < 500 else str(answer.status)
        words = clean(text, 200) or "no explanation"
        if code == "429":
            wait = answer.retry_after(self.toolbox.clock.now().timestamp())
            return Throttled("U-ON: too many requests", retry_after=wait, scope=self._scope, vendor_code=code)
        if 300 <= answer.status < 400:
            return Unusable(f"U-ON answers HTTP {answer.status}: is base_url right?", vendor_code=code)
        if code == "404" and _NO_ROUTE.search(text):
            return Unusable(f"U-ON has no such method ({words}): is base_url right?", vendor_code=code)
        if parameter := _PARAMETER.search(text) if code in ("400", "404", "422") else None:
            return self._wrong(parameter[1], code)
        unclear = f"the answer {clean(code, 40)} tells neither that it was done nor that it was not"
        kind, meaning = CODES.get(code, (Ambiguous, unclear))
        return kind(f"U-ON: {meaning} ({words})", vendor_code=clean(code, 40))

    def _wrong(self, name: str, code: str) -> DeliveryError:
        """A value that is refused: of this lead, or, where it is the same for all, of the settings."""
        template = self.settings.fields.get(name)
        if template is not None and not re.search(r"\{[{%]", template):
            return Unusable(f"U-ON does not accept {name} of settings.fields: correct it", vendor_code=code, path=name)
        return Rejected(f"U-ON refuses the value of {name}", vendor_code=code, path=name)

    # Asking

    async def find(self, step: Step, batch: Sequence[Delivery]) -> Mapping[str, Finding]:
        """``lead/search`` knows neither the number nor the note, so whole days are read, and the key is compared here.

        Which day a list means is not documented: the one of the send and the one of ``r_dat`` are both read.
        """
        del step
        pages = self._listed(_merged([days for delivery in batch for days in self._days(delivery)]))
        return await find_marked(pages, [delivery.key for delivery in batch], {}, lambda _: None)

    def _days(self, delivery: Delivery) -> list[tuple[date, date]]:
        """First and last days of the lists that may show it."""
        context, created = delivery.context, _created(delivery.lead)
        sent = datetime.fromtimestamp(int(context["sent"]), UTC) if "sent" in context else delivery.first_at
        # A ledger that was restored knows of a send before the one that it forgot.
        until = self.toolbox.clock.now() if RESTORED in context or "sent" not in context else sent
        spans = [(sent, until), *([(created, created)] if created else [])]
        return [(first.astimezone(MOSCOW).date() - DAY, last.astimezone(MOSCOW).date() + DAY) for first, last in spans]

    async def _listed(self, spans: Sequence[tuple[date, date]]) -> AsyncGenerator[Sequence[Listed], None]:
        """Every page of these days, and an empty one when all were read to their end."""
        read = 0
        for first, last in spans:
            number, more = 1, True
            while more:
                if read == MAX_PAGES:
                    return
                if read:
                    await self.toolbox.clock.sleep(PAUSE / self.toolbox.scale)
                read += 1
                body = await self._read(f"/leads/{first}/{last}/{number}.json")
                items = _items(body, "leads")
                if items:
                    yield [_entry(item) for item in items]
                # Read on where either says so: the number of pages, or a page that is full.
                pages = str(body.get("pages_all")) if body else "0"
                more = bool(items) and (len(items) >= PAGE or not pages.isdecimal() or number < int(pages))
                number += 1
        yield ()

    async def _read(self, path: str) -> Mapping[str, Any] | None:
        """The object at this path; None where the vendor finds nothing, which it says by the result 404."""
        try:
            answer = await self.exchange(HttpRequest("GET", self._url(path)))
            result, text = _said(answer)
            refused = _NO_ROUTE.search(text) or _PARAMETER.search(text)
            if result == "404" and answer.status in (200, 404) and not refused:
                return None
            if answer.status != 200 or result not in ("", "200"):
                raise with_status(self._failure(answer, result, text), answer)
            body = answer.json()
        except Ambiguous as error:
            raise nothing_made(error) from None
        except Rejected as error:  # no lead is in a question
            raise of_settings(error) from None
        return body if isinstance(body, dict) else {}  # no object is no list either

    async def check(self) -> str:
        """The managers: that takes the key and GET?, and shows whether the one of the settings is there."""
        managers = _items(await self._read("/manager.json"), "users", identity="u_id")
        chosen = self.settings.fields.get("r_u_id", "").strip()
        if chosen.isdecimal() and chosen not in {str(manager.get("u_id")) for manager in managers}:
            raise Unusable(f"U-ON has no manager {chosen}, whom settings.fields names (r_u_id)", path="r_u_id")
        return f"{self._host}: an account of {len(managers)} managers; that the key may POST is shown only by a send"


def _said(answer: Answer) -> tuple[str, str]:
    """``result`` as a text (it comes as a number or a text; empty without one), and the words.

    Three shapes are seen: ``{"result", "message"}`` under any HTTP status, ``{"error": {"message"}}``, and plain text.
    """
    body = answer.json_or_none()
    if not isinstance(body, dict):
        return "", answer.text
    error = body.get("error")
    words = error.get("message") if isinstance(error, dict) else body.get("message") or error
    return str(body.get("result") or ""), str(words or "")


def _items(body: Mapping[str, Any] | None, kind: str, *, identity: str = "id") -> list[Mapping[str, Any]]:
    """The entries of a list. Raises Transient where it is none: an absence must not be read out of that."""
    if body is None:
        return []
    items = list(php_map(body.get(kind)).values())
    known = isinstance(body.get(kind), (list, dict)) and all(isinstance(item, dict) for item in items)
    if not known or not all(str(item.get(identity)).isdecimal() for item in items):
        raise Transient(f"U-ON's list of {kind} is not of the documented form", http_status=200)
    return items


def _entry(item: Mapping[str, Any]) -> Listed:
    """By its number, and by the last key of its note: ours stands behind all that the lead's own text could hold."""
    notes = unescape(str(item.get("notes") or ""))
    return Listed(hal.identity(item), {str(item.get("id_internal") or "").strip(), *_MARK.findall(notes)[-1:]})


def _merged(spans: Sequence[tuple[date, date]]) -> list[tuple[date, date]]:
    """The same days, none of them twice."""
    merged: list[tuple[date, date]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + DAY:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _created(lead: Lead) -> datetime | None:
    """The lead's date as the vendor is told it; not one that only stands for "none" (0001, 9999)."""
    created = lead.created_at
    return created.astimezone(MOSCOW) if created and 1990 <= created.year < 2100 else None


def _contacts(lead: Lead) -> dict[str, str]:
    """What the lead itself has, where it can be used."""
    ways = {"u_phone": _digits(lead.phone), "u_email": email_address(lead) or ""}
    return {name: text for name, text in ways.items() if text}


def _without_ways(lead: Lead) -> Sequence[str]:
    return () if email_address(lead) or _digits(lead.phone) else (NO_WAY,)


def _rendered(templates: Mapping[str, str], lead: Lead) -> dict[str, str]:
    """Field → value, without empty ones. Raises Rejected where a template fails for this lead."""
    texts = {name: multiline(render(source, lead), MAX_VALUE) for name, source in templates.items()}
    values = {name: _digits(text) if name in _PHONES else text for name, text in texts.items()}
    return {name: text for name, text in values.items() if text}


def _digits(text: str) -> str:
    """A phone as the vendor keeps it: a plus becomes a space there, even where it is encoded."""
    plain = clean(text, 60)
    number = phone_e164(Lead(id=0, phone=plain))
    if number is not None:
        return number.removeprefix("+")
    digits = re.sub(r"[^0-9]", "", plain)
    return digits if _DIALLED.fullmatch(plain) and 5 <= len(digits) <= 20 else ""


def _is_whole(written: str) -> bool:
    """Whether the digits that are sent are all that was written (no extension, no words)."""
    return re.sub(r"[^0-9]", "", written)[-10:] == _digits(written)[-10:] and (not written or bool(_digits(written)))
