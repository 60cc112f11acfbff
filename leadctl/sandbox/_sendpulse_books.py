"""The address books of one SendPulse account, and what they refuse."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_EMAIL = re.compile(r"[^\s@<>(),;:\"]+@[^\s@<>(),;:\"]+\.[^\s@<>(),;:\"]+")
_PHONE = re.compile(r"\+?\d{7,15}")
_SWITCHES = ("disable_webhook", "dont_update", "check_emails")
UNSUBSCRIBED = 4


class Refused(Exception):
    """An error of the API."""

    def __init__(self, status: int, code: int | None, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Broken(Exception):
    """What the API has no answer for but HTTP 500."""


def argument(message: str) -> Refused:
    return Refused(422, 422, f"Argument {message}")


@dataclass(slots=True)
class Subscriber:
    """An address of a book. ``keys``: those of leadctl's deliveries that it was stored by."""

    number: int
    email: str
    variables: dict[str, Any] = field(default_factory=dict)
    phone: str = ""
    status: int = 1
    keys: set[str] = field(default_factory=set)

    def shown(self, book: int) -> dict[str, Any]:
        return {
            "email": self.email, "abook_id": str(book), "phone": self.phone, "status": self.status,
            "status_explain": "Unsubscribed" if self.status == UNSUBSCRIBED else "Active",
            "variables": [
                {"name": name, "type": "string" if isinstance(value, str) else "number", "value": value}
                for name, value in self.variables.items()
            ],
        }  # fmt: skip


class Books:
    """All books by id; addresses in lower case."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = dict(names)
        self.status = dict.fromkeys(names, 0)
        self.subscribers: dict[int, dict[str, Subscriber]] = {number: {} for number in names}
        self.senders = {"news@example.com"}
        #: Addresses that were sent a letter asking for their consent.
        self.letters: list[str] = []

    def known(self, book: int) -> dict[str, Subscriber]:
        """The addresses of a book. Raises Refused."""
        if book not in self.names:
            raise Refused(404, 213, "Book not found")
        return self.subscribers[book]

    def shown(self, book: int) -> list[dict[str, Any]]:
        found = self.known(book).values()
        active = sum(1 for subscriber in found if subscriber.status == 1)
        return [{
            "id": book, "name": self.names[book], "all_email_qty": len(found), "active_email_qty": active,
            "inactive_email_qty": len(found) - active, "creationdate": "2026-01-10 09:00:00",
            "status": self.status[book], "status_explain": "Active" if not self.status[book] else "Blocked",
        }]  # fmt: skip

    def add(self, book: int, body: Any) -> list[tuple[Subscriber, bool]]:
        """All or nothing: each with whether its delivery was there already. Raises Refused or Broken."""
        known = self.known(book)
        items = _checked(body, self.senders)
        return [self._store(known, email, variables, body) for email, variables in items]

    def _store(
        self, known: dict[str, Subscriber], email: str, variables: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Subscriber, bool]:
        new = email.lower() not in known
        subscriber = known.setdefault(email.lower(), Subscriber(len(known) + 1, email))
        if new or options.get("dont_update") is not True:
            subscriber.variables |= variables
            subscriber.phone = str(variables.get("Phone", subscriber.phone))
        if options.get("confirmation") == "force" and new:
            self.letters.append(email)
            subscriber.status = 2
        key = str(variables.get("leadctl_key", ""))
        twin = key in subscriber.keys
        subscriber.keys.add(key)
        return subscriber, twin

    def one(self, book: int, email: str) -> Subscriber:
        """Raises Refused."""
        found = self.known(book).get(email.lower())
        if found is None:
            raise Refused(422, 502, "Email address not found")
        return found

    def change(self, book: int, body: Any) -> dict[str, bool]:
        """Variables of one address, which are a list here. Raises Refused."""
        variables = body.get("variables") if isinstance(body, dict) else None
        named = isinstance(variables, list) and all(
            isinstance(v, dict) and {"name", "value"} <= v.keys() for v in variables
        )
        if not isinstance(variables, list) or not named:
            raise argument("variables must be array")
        subscriber = self.one(book, str(body.get("email")))
        subscriber.variables |= {str(variable["name"]): variable["value"] for variable in variables}
        return {"result": True}

    def phone(self, book: int, body: Any) -> dict[str, bool]:
        """Raises Refused."""
        text = str(body.get("phone") if isinstance(body, dict) else "")
        if not _PHONE.fullmatch(text):
            raise Refused(422, 422, "Phone is not valid")
        self.one(book, str(body.get("email"))).phone = text
        return {"result": True}

    def by_variable(self, book: int, name: str, value: str) -> list[dict[str, Any]]:
        """Raises Refused where nobody has such a variable."""
        found = self.known(book).values()
        if not any(name in subscriber.variables for subscriber in found):
            raise Refused(404, 299, "Variable not found")
        shown = [subscriber.shown(book) for subscriber in found if str(subscriber.variables.get(name)) == value]
        return [{key: item[key] for key in ("email", "status", "status_explain")} for item in shown]


def _checked(body: Any, senders: set[str]) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(body, dict) or "emails" not in body:
        raise argument("emails missing")
    items = body["emails"]
    if isinstance(items, dict):
        raise Broken  # sendpulse/sendpulse-rest-api-php#9
    if not isinstance(items, list):
        raise argument("emails must be array")
    if not items:
        raise argument("emails is invalid")
    _check_options(body, senders)
    return [_item(item) for item in items]


def _item(item: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(item, str):
        item = {"email": item}
    if not isinstance(item, dict):
        raise argument("emails is invalid")
    if item.keys() - {"email", "variables"}:
        raise Broken
    email, variables = item.get("email"), item.get("variables", {})
    if not isinstance(email, str) or not _EMAIL.fullmatch(email):
        raise argument("email is invalid")
    plain = isinstance(variables, dict) and all(isinstance(value, (str, int, float)) for value in variables.values())
    if not isinstance(variables, dict) or not plain:
        raise argument("emails.*.variables is invalid")
    return email, variables


def _check_options(body: Mapping[str, Any], senders: set[str]) -> None:
    if "confirmation" in body:
        if body["confirmation"] != "force":
            raise argument("confirmation is invalid")
        sender = body.get("sender_email")
        if sender is None:
            raise argument("sender_email missing")
        if not _EMAIL.fullmatch(str(sender)):
            raise argument("sender_email is invalid")
        if sender not in senders:
            raise Refused(422, 1003, "Sender not found")
    if "tags" in body and not (isinstance(body["tags"], list) and all(isinstance(tag, int) for tag in body["tags"])):
        raise argument("tags must be array")
    for name in _SWITCHES:
        if not isinstance(body.get(name, False), bool):
            raise argument(f"{name} must be boolean")


def leads_of(body: Any) -> Sequence[str]:
    """The leads that a request would store."""
    items = body.get("emails") if isinstance(body, dict) else None
    variables = (
        [item.get("variables") for item in items or [] if isinstance(item, dict)] if isinstance(items, list) else []
    )
    return [str(values["lead_id"]) for values in variables if isinstance(values, dict) and "lead_id" in values]
