"""What U-ON.Travel keeps, and what it takes: pure but for its memory."""

import itertools
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qsl

#: The account's time zone.
ZONE = timezone(timedelta(hours=3))
MANAGERS: Mapping[int, str] = {2: "olga@example.com", 3: "pavel@example.com", 5: "anna@example.com"}
STATUSES: Mapping[int, str] = {1: "Новый", 2: "В работе", 3: "Заявка &rarr; Лид"}
OFFICES: Mapping[int, str] = {1: "Главный офис"}
COMPANIES: Mapping[int, str] = {1: "ООО Тур"}
#: Additional fields by id; the section 2 is that of leads.
EXTENDED: Mapping[int, tuple[int, str]] = {199888: (2, "Страна"), 199889: (2, "Питомец"), 199890: (1, "Договор")}

CONTACTS = (
    "u_phone", "u_phone_mobile", "u_phone_home", "u_email", "u_social_vk", "u_social_fb", "u_social_ok", "u_telegram",
    "u_instagram", "u_whatsapp", "u_viber",
)  # fmt: skip
_DIRECTORIES: Mapping[str, Mapping[int, str]] = {
    "r_u_id": MANAGERS, "r_co_id": OFFICES, "r_ci_id": COMPANIES, "status_id": STATUSES,
}  # fmt: skip
_DATES: Mapping[str, str] = {
    "r_dat": "%Y-%m-%d %H:%M:%S", "date_from": "%Y-%m-%d", "date_to": "%Y-%m-%d", "u_birthday": "%Y-%m-%d",
    "reminder_datetime": "%Y-%m-%d %H:%M",
}  # fmt: skip
_NUMBERS = frozenset({"r_cl_id", "budget", "touroperator_id", "travel_type_id"})
_EXTENDED = re.compile(r"extended_fields\[(\d+)\]")
#: How a field of ``lead/create`` is named when a lead is read; others keep their names or are not shown.
_SHOWN: Mapping[str, str] = {
    "r_id_internal": "id_internal", "note": "notes", "source": "source", "u_telegram": "telegram",
    "u_whatsapp": "whatsapp", "budget": "client_requirements_budget", "requirements_note": "client_requirements_note",
    "u_name": "client_name", "u_surname": "client_surname", "u_sname": "client_sname", "u_phone": "client_phone",
    "u_phone_mobile": "client_phone_mobile", "u_email": "client_email",
    **{name: name for name in ("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term")},
}  # fmt: skip
#: ``lc-{installation}-{lead}-{credential}[-{n}]``
_KEY = re.compile(r"lc-[^-\s\]]+-([^\s\]]+?)-[^-\s\]]+(?:-\d+)?")


def key_of(form: Mapping[str, str]) -> str:
    """The delivery's key: the number of the lead, or the last one in its note."""
    number = form.get("r_id_internal", "")
    if _KEY.fullmatch(number):
        return number
    found = [match[0] for match in _KEY.finditer(form.get("note", ""))]
    return found[-1] if found else number


def lead_of(key: str) -> str:
    """The id of leadctl's lead in a key."""
    match = _KEY.fullmatch(key)
    return match[1] if match else key


def read_form(content_type: str, body: bytes) -> dict[str, str] | None:
    """The fields of a form, or of a JSON object; None where it is neither."""
    try:
        if content_type == "application/json":
            return dict(_flat(json.loads(body)))
        if content_type == "application/x-www-form-urlencoded":
            return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict"))
    except (ValueError, AttributeError):
        pass
    return None


def _flat(body: Any) -> Iterator[tuple[str, str]]:
    for name, value in body.items():
        if isinstance(value, dict):
            yield from ((f"{name}[{part}]", str(text)) for part, text in value.items())
        elif value is not None:
            yield name, str(value)


def wrong_parameter(form: Mapping[str, str]) -> str | None:
    """The name of the first parameter that is not accepted. Unknown ones are ignored."""
    for name, text in form.items():
        if name in _DIRECTORIES and not (text.isdecimal() and int(text) in _DIRECTORIES[name]):
            return name
        if name in _NUMBERS and not text.isdecimal():
            return name
        if name in _DATES and not _is_date(text, _DATES[name]):
            return name
        if (match := _EXTENDED.fullmatch(name)) and EXTENDED.get(int(match[1]), (0, ""))[0] != 2:
            return name
    return None if any(form.get(name, "").strip() for name in CONTACTS) else "u_phone"


def _is_date(text: str, form: str) -> bool:
    try:
        return datetime.strptime(text, form).replace(tzinfo=ZONE).strftime(form) == text
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class StoredLead:
    """A lead as it is shown. ``visible_at`` (monotonic seconds): lists show it from then on."""

    body: Mapping[str, Any]
    arrived: datetime
    visible_at: float

    @property
    def dated(self) -> datetime:
        """The date that the lead claims for itself."""
        return datetime.strptime(self.body["dat"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=ZONE)


@dataclass
class Base:
    """Leads and their people: a person is known by phone or e-mail address. Any thread may look."""

    leads: dict[int, StoredLead] = field(default_factory=dict)
    #: id → phone and address
    people: dict[int, tuple[str, str]] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(12345))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, form: Mapping[str, str], *, visible_after: float, keeps_number: bool) -> int:
        """Another lead, whatever is there already; its id."""
        now = datetime.now(ZONE)
        with self._lock:
            identity = next(self._ids)
            shown = {_SHOWN[name]: text for name, text in form.items() if name in _SHOWN}
            if not keeps_number:
                shown["id_internal"] = ""
            body = {
                "id": str(identity), "id_system": str(identity + 700), "id_internal": "", "notes": "", **shown,
                "dat": form.get("r_dat") or f"{now:%Y-%m-%d %H:%M:%S}", "dat_updated": f"{now:%Y-%m-%d %H:%M:%S}",
                "client_id": self._person(form), "status_id": form.get("status_id", "1"),
                "manager_id": form.get("r_u_id", "2"),
                "extended_fields": [
                    {"id": int(match[1]), "value": text}
                    for name, text in form.items()
                    if (match := _EXTENDED.fullmatch(name))
                ],
            }  # fmt: skip
            self.leads[identity] = StoredLead(body, now, time.monotonic() + visible_after)
        return identity

    def _person(self, form: Mapping[str, str]) -> int:
        phone, email = form.get("u_phone", "").strip(), form.get("u_email", "").lower()
        for identity, (known_phone, known_email) in self.people.items():
            if (phone and phone == known_phone) or (email and email == known_email):
                return identity
        self.people[identity := len(self.people) + 10] = (phone, email)
        return identity

    def visible(self) -> list[StoredLead]:
        """What the lists show, the oldest first."""
        now = time.monotonic()
        with self._lock:
            return [lead for lead in self.leads.values() if lead.visible_at <= now]
