"""The contacts of one UniSender account, and the rules by which they change."""

import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Lists by code; the last one has no confirmation letter.
LISTS: Mapping[str, str] = {"134": "Leads", "135": "Partners", "136": "Silent"}
WITHOUT_LETTER = frozenset({"136"})
STATUSES = frozenset({"new", "active", "inactive", "unsubscribed"})
ROLES = frozenset({"info", "sales", "no-reply", "noreply", "all", "admin", "postmaster", "abuse"})
FIELDS = ("Name", "lead_id", "leadctl_key", "comment", "page_url", "utm_source", "utm_medium", "utm_campaign",
          "utm_content", "utm_term", "budget")  # fmt: skip
MAX_FIELDS = 50
MAX_TAGS = 10

_EMAIL = re.compile(r"[^\s@,;<>\"]+@[^\s@,;<>\"]+\.[^\s@,;<>\"]+")
_PHONE = re.compile(r"\+\d{7,15}")


class Refused(Exception):
    """An error of the API: a code, and its text in English."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@dataclass(slots=True)
class Contact:
    """A person. ``lists`` and ``phone_lists``: list code → status there."""

    person_id: int
    email: str = ""
    phone: str = ""
    status: str = "new"
    lists: dict[str, str] = field(default_factory=dict)
    phone_lists: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    added_at: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()))


def check_ways(email: str, phone: str) -> None:
    """An address and a phone as the vendor wants them. Raises Refused."""
    if not email and not phone:
        raise Refused("invalid_arg", "e-mail or phone is required")
    if email and not _EMAIL.fullmatch(email):
        raise Refused("invalid_arg", f"e-mail {email} is not valid")
    if phone and not _PHONE.fullmatch(phone):
        raise Refused("invalid_arg", f"phone {phone} is not in the international format")


def check_tags(tags: Sequence[str]) -> None:
    if len(tags) > MAX_TAGS:
        raise Refused("invalid_arg", f"at most {MAX_TAGS} tags")


class Base:
    """All contacts, and the account's lists and fields."""

    def __init__(self) -> None:
        self.lists = dict(LISTS)
        self.field_names = list(FIELDS)
        #: By person_id.
        self.contacts: dict[int, Contact] = {}
        self._emails: dict[str, Contact] = {}
        self._phones: dict[str, Contact] = {}
        #: Addresses that were sent a confirmation letter, one entry a letter.
        self.letters: list[str] = []
        self._ids = itertools.count(2_500_767_342)

    def check_lists(self, codes: Sequence[str], *, letter: bool = False) -> None:
        """Raises Refused."""
        if not codes:
            raise Refused("invalid_arg", "list_ids is required")
        if unknown := [code for code in codes if code not in self.lists]:
            raise Refused("invalid_arg", f"list {unknown[0]} is not found")
        silent = [code for code in codes if code in WITHOUT_LETTER]
        if letter and silent:
            raise Refused("unspecified", f'These list ids="{",".join(silent)}" has no confirmation letters')

    def check_fields(self, names: Sequence[str]) -> None:
        """Raises Refused."""
        if unknown := [name for name in names if name not in self.field_names]:
            raise Refused("invalid_arg", f"field {unknown[0]} is not found")
        if len(names) > MAX_FIELDS:
            raise Refused("invalid_arg", f"at most {MAX_FIELDS} fields")

    def find(self, email: str, phone: str) -> Contact | None:
        """By e-mail, then by phone. Raises Refused where they belong to two people."""
        owner, other = self._emails.get(email.lower()), self._phones.get(phone)
        strange = other is not None and bool(email) and bool(other.email) and other.email.lower() != email.lower()
        if strange or (owner and other and owner is not other):
            text = f"Contacts {email} and {phone} already exist but owned by different subscribers"
            raise Refused("unspecified", text)
        return owner or other

    def remove(self, contact: Contact) -> None:
        del self.contacts[contact.person_id]
        self._emails.pop(contact.email.lower(), None)
        self._phones.pop(contact.phone, None)

    def _add(self, email: str, phone: str) -> tuple[Contact, bool]:
        """The contact of these, and whether it is new. Raises Refused."""
        found = self.find(email, phone)
        contact = found or Contact(next(self._ids))
        contact.email, contact.phone = contact.email or email, phone or contact.phone
        self.contacts[contact.person_id] = contact
        if contact.email:
            self._emails[contact.email.lower()] = contact
        if contact.phone:
            self._phones[contact.phone] = contact
        return contact, found is None

    def subscribe(
        self,
        ways: tuple[str, str],
        codes: Sequence[str],
        fields: Mapping[str, str],
        tags: Sequence[str],
        how: tuple[str, str],
    ) -> Contact:
        """``ways``: e-mail and phone; ``how``: double_optin and overwrite. Raises Refused."""
        double_optin, overwrite = how
        contact, new = self._add(*ways)
        if overwrite == "1":
            contact.fields, contact.tags, contact.lists, contact.phone_lists = {}, [], {}, {}
        kept = dict(contact.fields)
        contact.fields |= fields
        if overwrite == "0":
            contact.fields |= kept
        contact.tags = list(tags) if tags and overwrite != "0" else list(dict.fromkeys([*contact.tags, *tags]))
        email, phone = ways
        known = not new and contact.status in ("new", "active")
        if email and (double_optin == "0" or (double_optin == "4" and not known)):
            self.letters.append(email)
            contact.status = contact.status if known else "invited"
        for code in codes if email else ():
            contact.lists.setdefault(code, contact.status)
        for code in codes if phone else ():
            contact.phone_lists.setdefault(code, "active")
        return contact

    def import_row(self, row: Mapping[str, str], lists: Mapping[str, Sequence[str]], *, overwrite_lists: bool) -> bool:
        """One row of an import; True if the contact is new. An empty cell empties the field. Raises Refused."""
        email, phone = row.get("email", ""), row.get("phone", "")
        check_ways(email, phone)
        if email.partition("@")[0].lower() in ROLES:
            raise Refused("invalid_email", f"{email} is a role address")
        for codes in lists.values():
            if unknown := [code for code in codes if code not in self.lists]:
                raise Refused("invalid_list", f"list {unknown[0]} is not found")
        contact, new = self._add(email, phone)
        if overwrite_lists:
            contact.lists, contact.phone_lists = {}, {}
        status = row.get("email_status", "")
        if status and (new or contact.status in ("active", "inactive")):
            contact.status = status
        for code in lists.get("email", ()):
            contact.lists.setdefault(code, contact.status)
        for code in lists.get("phone", ()):
            contact.phone_lists.setdefault(code, "active")
        contact.fields |= {name: text for name, text in row.items() if name in self.field_names}
        return new

    def shown(self) -> Iterator[dict[str, Any]]:
        """The account's custom fields."""
        for number, name in enumerate(self.field_names, 1):
            yield {"id": number, "name": name, "type": "text", "is_visible": 1, "view_pos": number}
