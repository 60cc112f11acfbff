"""The lists, custom fields and contacts of one GetResponse account, and the rules by which they are made."""

import ipaddress
import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Lists by token: name, and the opt-in for the API.
LISTS: Mapping[str, tuple[str, str]] = {"p86zQ": ("leads", "single"), "V": ("newsletter", "double")}
#: Custom fields by id: name, type, format.
FIELDS: Mapping[str, tuple[str, str, str]] = {
    "z9Kgt": ("lead_id", "string", "text"),
    "kL6Nh": ("leadctl_key", "string", "text"),
    "n": ("phone", "phone", "text"),
    "pVyRW": ("comment", "string", "textarea"),
    "tR4bc": ("page_url", "string", "text"),
    "u1S": ("utm_source", "string", "text"),
    "u2M": ("utm_medium", "string", "text"),
    "u3C": ("utm_campaign", "string", "text"),
    "u4K": ("utm_content", "string", "text"),
    "u5T": ("utm_term", "string", "text"),
    "bQ7dx": ("budget", "string", "text"),
    "rAd10": ("plan", "string", "single_select"),
}
#: What a field of choices takes.
CHOICES: Mapping[str, Sequence[str]] = {"rAd10": ("basic", "pro")}
TAGS: Mapping[str, str] = {"m7E2": "site"}
RESERVED = frozenset({
    "name", "email", "twitter", "facebook", "buzz", "myspace", "linkedin", "digg", "googleplus", "pinterest",
    "responder", "campaign", "change",
})  # fmt: skip
TYPES = frozenset({"string", "number", "date", "datetime", "country", "currency", "phone", "gender", "ip", "url"})
FORMATS = frozenset({"text", "textarea", "radio", "checkbox", "single_select", "multi_select"})
#: Characters of a value, by the format of its field.
LONGEST: Mapping[str, int] = {"text": 255, "textarea": 4_000}
MAX_NAME = 128

_EMAIL = re.compile(r"[^\s@,;<>\"]+@[^\s@,;<>\".]+(?:\.[^\s@,;<>\".]+)+")
_PHONE = re.compile(r"\+\d{7,15}")
_NAME = re.compile(r"[a-z0-9_]{1,128}")
#: Where a contact may have these, and whether they must be there.
_KEYS = {"email", "name", "dayOfCycle", "scoring", "ipAddress", "tags", "customFieldValues"}


class Refused(Exception):
    """An error of the API, by its code; ``context`` names the field at fault."""

    def __init__(self, code: int, **context: Any) -> None:
        super().__init__(str(code))
        self.code = code
        self.context: Mapping[str, Any] = context


def invalid(name: str, why: str, code: int = 1000, **more: Any) -> Refused:
    """A value that is refused, with the field that holds it."""
    return Refused(code, validationType="validation", fieldName=name, originalName=name, errorDescription=why, **more)


def obj(value: object, name: str = "body") -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise invalid(name, "Expected an object", 1006)
    return value


@dataclass(slots=True)
class Contact:
    """A person in one list; ``shown_at`` is monotonic."""

    contact_id: str
    email: str
    campaign: str
    name: str
    shown_at: float
    confirmed: bool
    customs: dict[str, list[str]] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)

    @property
    def is_shown(self) -> bool:
        return self.confirmed and time.monotonic() >= self.shown_at


class Base:
    """All contacts. The switches may be set at any time."""

    def __init__(self) -> None:
        self.lists = dict(LISTS)
        self.fields = dict(FIELDS)
        self.contacts: dict[str, Contact] = {}
        #: Seconds in the queue, before a contact is shown.
        self.lag = 0.0
        #: Whether the address of a queued contact is refused as taken, or the second request merged with the first.
        self.queued_is_taken = False
        #: Addresses that are accepted and then dropped, without a word.
        self.dropped: set[str] = set()
        #: Addresses of people who were blocked, or deleted by hand.
        self.blocked: set[str] = set()
        #: How many contacts the plan takes.
        self.plan = 1_000_000
        #: Addresses that a confirmation letter went to.
        self.letters: list[str] = []
        self._ids = (f"c{number}X" for number in itertools.count(101))
        self._by_address: dict[tuple[str, str], Contact] = {}

    def check_list(self, token: object) -> str:
        if not isinstance(token, str) or not token:
            raise invalid("campaign", "Required field empty")
        if token not in self.lists:
            raise Refused(1001, resourceType="campaign", id=token)
        return token

    def check(self, item: Mapping[str, Any]) -> None:
        """The form of a contact that is to be made. Raises Refused."""
        if unknown := sorted(item.keys() - _KEYS):
            raise invalid(unknown[0], "Not allowed field")
        email, name, day = item.get("email"), item.get("name"), item.get("dayOfCycle")
        if not email:
            raise invalid("email", "Required field empty")
        if not isinstance(email, str) or not _EMAIL.fullmatch(email):
            raise invalid("email", "Not an e-mail address", 1003)
        if name is not None and not (isinstance(name, str) and 1 <= len(name) <= MAX_NAME):
            raise invalid("name", f"Expected string length between 1 and {MAX_NAME}")
        if day is not None and not (isinstance(day, str) and day.isdecimal()):
            raise invalid("dayOfCycle", "Expected a string of digits", 1006)
        if "ipAddress" in item:
            _check_ip(item["ipAddress"])
        self.check_values(item.get("customFieldValues", []))

    def check_values(self, values: object) -> dict[str, list[str]]:
        """Id of a custom field → values. Raises Refused."""
        if not isinstance(values, list):
            raise invalid("customFieldValues", "Expected an array", 1006)
        found: dict[str, list[str]] = {}
        for entry in values:
            identity = obj(entry, "customFieldValues").get("customFieldId")
            if identity not in self.fields:
                raise Refused(1001, resourceType="customField", id=str(identity))
            value = entry.get("value")
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise invalid("customFieldValues", "Expected an array of strings in value", 1006)
            for text in value:
                self._check_text(identity, text)
            found[identity] = value
        return found

    def _check_text(self, identity: str, text: str) -> None:
        name, kind, form = self.fields[identity]
        if not text:
            raise invalid(name, "Value must not be empty", 1005)
        if len(text) > (limit := LONGEST.get(form, 255)):
            raise invalid(name, "Too long", 1007, maxLength=limit)
        if identity in CHOICES and text not in CHOICES[identity]:
            raise invalid(name, "Not one of the defined values")
        if kind == "phone" and not _PHONE.fullmatch(text):
            raise invalid(name, "Not a phone number", 1003)

    def check_tags(self, ids: object) -> list[str]:
        if not isinstance(ids, list) or not all(isinstance(identity, str) for identity in ids):
            raise invalid("tags", "Expected an array of ids", 1006)
        if unknown := [identity for identity in ids if identity not in TAGS]:
            raise Refused(1001, resourceType="tag", id=unknown[0])
        return ids

    def add(self, token: str, item: Mapping[str, Any], tags: Sequence[str]) -> tuple[Contact | None, bool]:
        """Queue a contact; None where it is dropped without a word. False: it is there already. Raises Refused."""
        email = str(item["email"]).lower()
        if email in self.blocked:
            raise Refused(1002, value=item["email"])
        there = self._by_address.get((token, email))
        if there is not None and (there.is_shown or not there.confirmed or self.queued_is_taken):
            raise Refused(1008, value=item["email"])
        if there is not None:
            return there, False
        if len(self.contacts) >= self.plan:
            raise Refused(1027)
        if email in self.dropped:
            return None, True
        double = self.lists[token][1] == "double"
        if double:
            self.letters.append(email)
        customs = self.check_values(item.get("customFieldValues", []))
        contact = Contact(next(self._ids), str(item["email"]), token, str(item.get("name") or ""),
                          time.monotonic() + self.lag, not double, customs, list(tags))  # fmt: skip
        self.contacts[contact.contact_id] = self._by_address[token, email] = contact
        return contact, True

    def find(self, email: str, token: str = "p86zQ") -> Contact | None:  # noqa: S107 a list's
        """Whether or not it is shown."""
        return self._by_address.get((token, email.lower()))

    def one(self, identity: str) -> Contact:
        """A contact that is shown. Raises Refused."""
        contact = self.contacts.get(identity)
        if contact is None or not contact.is_shown:
            raise Refused(1013, contactId=identity)
        return contact

    def remove(self, identity: str) -> None:
        """By hand: the address can never be added through the API again."""
        contact = self.one(identity)
        del self.contacts[identity], self._by_address[contact.campaign, contact.email.lower()]
        self.blocked.add(contact.email.lower())

    def search(self, query: Mapping[str, str], *, exact: bool) -> Iterator[Contact]:
        """Contacts that are shown; by what is like the texts, or equals them. Raises Refused."""
        if unknown := sorted(query.keys() - {"email", "name", "campaignId"}):
            raise invalid(unknown[0], "Not allowed search field")
        for contact in self.contacts.values():
            texts = {"email": contact.email.lower(), "name": contact.name.lower()}
            wanted = {name: query[name].lower() for name in texts if name in query}
            like = all(text == texts[name] if exact else text in texts[name] for name, text in wanted.items())
            if like and contact.is_shown and query.get("campaignId", contact.campaign) == contact.campaign:
                yield contact

    def make_field(self, body: Mapping[str, Any]) -> str:
        """The id of a new custom field. Raises Refused."""
        if missing := [key for key in ("name", "type", "format", "hidden", "values") if key not in body]:
            raise invalid(missing[0], "Required field empty")
        name = body["name"]
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
            raise invalid("name", "Not allowed name", 1003)
        if body["type"] not in TYPES or body["format"] not in FORMATS or body["hidden"] not in ("true", "false"):
            raise invalid("type", "Not one of the known values")
        if name in {known for known, _, _ in self.fields.values()}:
            raise Refused(1008, value=name)
        identity = f"x{len(self.fields)}Y"
        self.fields[identity] = (name, body["type"], body["format"])
        return identity

    def shown_fields(self) -> list[dict[str, Any]]:
        return [
            {"customFieldId": identity, "name": name, "fieldType": form, "format": form, "valueType": kind,
             "type": kind, "hidden": "false", "values": list(CHOICES.get(identity, ()))}
            for identity, (name, kind, form) in self.fields.items()
        ]  # fmt: skip


def _check_ip(value: object) -> None:
    try:
        public = ipaddress.ip_address(str(value)).is_global
    except ValueError:
        public = False
    if not public:
        raise invalid("ipAddress", "Not a public address", 1003)
