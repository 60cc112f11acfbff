"""The CRM of one SendPulse account: contacts, deals and comments, with no idempotency anywhere."""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from leadctl.sandbox._sendpulse_books import Refused

PIPELINES: Mapping[int, Mapping[str, Any]] = {
    10: {"name": "Sales", "steps": {11: "New", 12: "In work"}, "attributes": {7: "Budget", 8: "Source"}},
    20: {"name": "Service", "steps": {21: "New"}, "attributes": {}},
}
USERS: Mapping[int, str] = {123: "Olga", 124: "Pavel"}
#: The account's owner: the list of users does not show it, but deals may belong to it.
OWNER = 100
MAX_EMAIL = 50
MAX_NAME = 255
MAX_COMMENT = 65_535
CURRENCIES = frozenset({"UAH", "USD", "EUR"})
_KEY = re.compile(r"lc-[^-\s\]]+-([^\s\]]+?)-[^-\s\]]+(?:-\d+)?")
_COMPARE: Mapping[str, Callable[[str, Any], bool]] = {
    "eq": lambda have, want: have == str(want),
    "neq": lambda have, want: have != str(want),
    "like": lambda have, want: str(want).lower() in have.lower(),
    "in": lambda have, want: isinstance(want, list) and have in map(str, want),
    "gt": lambda have, want: float(have) > float(want),
    "gte": lambda have, want: float(have) >= float(want),
    "lt": lambda have, want: float(have) < float(want),
    "lte": lambda have, want: float(have) <= float(want),
}
_FIELDS = frozenset({
    "id", "pipelineId", "status", "stepId", "name", "responsibleId", "number", "price", "currency", "sourceType",
    "sourceId", "createdAt", "updatedAt",
})  # fmt: skip


def key_in(text: object) -> str:
    """The delivery's key in a name or comment: the last one."""
    found = [match[0] for match in _KEY.finditer(str(text))]
    return found[-1] if found else ""


def lead_in(text: object) -> str:
    """The lead's id in the key of a name or comment."""
    match = _KEY.fullmatch(key_in(text))
    return match[1] if match else ""


def number(value: Any, name: str, known: Iterable[int] | None = None) -> int:
    """An integer, as one. Raises Refused."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(422, 422, f"Argument {name} {'missing' if value is None else 'must be integer'}")
    if known is not None and value not in known:
        raise Refused(422, 422, f"Argument {name} is invalid")
    return value


def text(value: Any, name: str, most: int, least: int = 0) -> str:
    """Raises Refused."""
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise Refused(422, 422, f"Argument {name} is invalid")
    return value


def page_of(body: Mapping[str, Any], default: int) -> slice:
    """Raises Refused."""
    limit, offset = number(body.get("limit", default), "limit"), number(body.get("offset", 0), "offset")
    if not 1 <= limit <= 100 or offset < 0:
        raise Refused(422, 422, "Argument limit is invalid")
    return slice(offset, offset + limit)


class CrmStore:
    """What was made."""

    def __init__(self) -> None:
        self.contacts: dict[int, dict[str, Any]] = {}
        self.deals: dict[int, dict[str, Any]] = {}
        self.comments: dict[int, list[dict[str, Any]]] = {}
        #: False: lists take no notice of ``filter``, as some vendors' do.
        self.filters = True
        self._ids = itertools.count(5_001)

    def contact(self, identity: int) -> dict[str, Any]:
        """Raises Refused."""
        if identity not in self.contacts:
            raise Refused(404, None, "Contact not found")
        return self.contacts[identity]

    def deal(self, identity: int) -> dict[str, Any]:
        """Raises Refused."""
        if identity not in self.deals:
            raise Refused(404, None, "Deal not found")
        return self.deals[identity]

    def create_contact(self, body: Mapping[str, Any]) -> dict[str, Any]:
        responsible = number(body.get("responsibleId"), "responsibleId", {OWNER, *USERS})
        names = {key: text(body.get(key, ""), key, MAX_NAME) for key in ("firstName", "lastName", "externalContactId")}
        identity = next(self._ids)
        contact = {"id": identity, "responsibleId": responsible, **names, "phones": [], "emails": [],
                   "createdAt": _now()}  # fmt: skip
        self.contacts[identity] = contact
        return contact

    def add_phone(self, identity: int, body: Mapping[str, Any]) -> dict[str, Any]:
        contact = self.contact(identity)
        phone = {
            "id": next(self._ids),
            "phone": text(body.get("phone"), "phone", 50, 1),
            "isMain": not contact["phones"],
        }
        contact["phones"].append(phone)
        return phone

    def add_emails(self, identity: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        contact = self.contact(identity)
        items = body.get("emails")
        if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
            raise Refused(422, 422, "Argument emails must be array")
        added = [
            {
                "id": next(self._ids),
                "email": text(item.get("email"), "email", MAX_EMAIL, 1),
                "isMain": bool(item.get("isMain")),
            }
            for item in items
        ]
        contact["emails"] += added
        return added

    def by_phone(self, body: Mapping[str, Any]) -> dict[str, Any]:
        wanted = re.sub(r"\D", "", str(body.get("phone") or ""))
        page = page_of(body, 100)
        rows = [
            contact for contact in self.contacts.values()
            if not wanted or any(wanted in re.sub(r"\D", "", entry["phone"]) for entry in contact["phones"])
        ]  # fmt: skip
        return {"list": rows[page], "total": len(rows)}

    def by_email(self, body: Mapping[str, Any]) -> dict[str, Any]:
        wanted, full = str(body.get("email") or "").lower(), body.get("isEmailFullSearch") is True
        rows = [
            contact for contact in self.contacts.values()
            if any(
                wanted == entry["email"].lower() if full else wanted in entry["email"].lower()
                for entry in contact["emails"]
            )
        ]  # fmt: skip
        return {"list": rows, "total": len(rows)}

    def external(self, identity: str) -> dict[str, Any]:
        """Raises Refused."""
        for contact in self.contacts.values():
            if contact["externalContactId"] == identity:
                return contact
        raise Refused(404, None, "Contact not found")

    def create_deal(self, body: Mapping[str, Any]) -> dict[str, Any]:
        pipeline = number(body.get("pipelineId"), "pipelineId", PIPELINES)
        step = number(body.get("stepId"), "stepId", PIPELINES[pipeline]["steps"])
        links = body.get("contact", [])
        if not isinstance(links, list):
            raise Refused(422, 422, "Argument contact must be array")
        for link in links:
            self.contact(number(link, "contact"))
        source = number(body["sourceId"], "sourceId") if "sourceId" in body else None
        if body.get("currency", "USD") not in CURRENCIES:
            raise Refused(422, 422, "Argument currency is invalid")
        responsible = number(body.get("responsibleId", OWNER), "responsibleId", {OWNER, *USERS})
        attributes = _attributes(body.get("attributes", []), PIPELINES[pipeline]["attributes"])
        identity, order = next(self._ids), len(self.deals) + 1
        deal = {
            "id": identity, "pipelineId": pipeline, "status": 1, "stepId": step, "responsibleId": responsible,
            "number": order, "name": text(body.get("name", f"Deal {order}"), "name", MAX_NAME), "price": 0,
            "sourceId": source, "contact": links, "attributes": attributes, "createdAt": _now(),
        }  # fmt: skip
        self.deals[identity], self.comments[identity] = deal, []
        return deal

    def deals_like(self, body: Mapping[str, Any]) -> dict[str, Any]:
        page, conditions = page_of(body, 10), body.get("filter", [])
        if not isinstance(conditions, list):
            raise Refused(422, 422, "Argument filter must be array")
        for condition in conditions:
            if condition.get("name") not in _FIELDS or condition.get("expression") not in _COMPARE:
                raise Refused(422, 422, "Argument filter is invalid")
        pipelines = body.get("pipelineIds") or list(PIPELINES)
        rows = [deal for deal in self.deals.values() if deal["pipelineId"] in pipelines]
        if self.filters:
            rows = [deal for deal in rows if all(_holds(deal, condition) for condition in conditions)]
        shown = [{name: value for name, value in deal.items() if name != "contact"} for deal in rows]
        return {"data": shown[page], "meta": {"total": len(rows)}}

    def deals_of(self, contact: int) -> list[dict[str, Any]]:
        self.contact(contact)
        return [deal for deal in self.deals.values() if contact in deal["contact"]]

    def add_comment(self, deal: int, body: Mapping[str, Any]) -> dict[str, Any]:
        self.deal(deal)
        message = text(body.get("message"), "message", MAX_COMMENT, 1)
        comment = {"id": next(self._ids), "userId": OWNER, "eventData": {"text": message}, "status": 1}
        self.comments[deal].append(comment)
        return comment


def _attributes(items: Any, known: Mapping[int, str]) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Refused(422, 422, "Argument attributes must be array")
    return [
        {
            "attributeId": number(item.get("attributeId"), "attributeId", known),
            "value": text(item.get("value"), "value", 65_535),
        }
        for item in items
    ]


def _holds(deal: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    return _COMPARE[str(condition["expression"])](str(deal.get(condition["name"])), condition.get("value"))


def pipelines() -> list[dict[str, Any]]:
    return [
        {
            "id": identity, "name": pipeline["name"], "status": 1,
            "steps": [{"id": step, "pipelineId": identity, "name": name} for step, name in pipeline["steps"].items()],
        }
        for identity, pipeline in PIPELINES.items()
    ]  # fmt: skip


def users() -> list[dict[str, Any]]:
    return [{"id": identity, "firstname": name} for identity, name in USERS.items()]


def attributes_of(pipeline: int) -> list[dict[str, Any]]:
    """Raises Refused."""
    if pipeline not in PIPELINES:
        raise Refused(404, None, "Pipeline not found")
    return [{"id": identity, "name": name} for identity, name in PIPELINES[pipeline]["attributes"].items()]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00:00")
