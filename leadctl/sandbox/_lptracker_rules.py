"""What LPTracker accepts, as pure checks of a request's body: each gives a message, or nothing."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PROJECTS: Mapping[int, str] = {41823: "Site", 41824: "Shop"}
STAFF: Mapping[int, str] = {0: "Main", 7301: "Olga", 7302: "Pavel"}
#: Steps of each project's funnel.
FUNNELS: Mapping[int, Mapping[int, str]] = {41823: {1230456: "New", 1230457: "In work"}, 41824: {1230466: "New"}}
#: Fields of each project's leads.
CUSTOMS: Mapping[int, tuple[Mapping[str, Any], ...]] = {
    41823: (
        {"id": 2079688, "name": "Бюджет", "type": "text"},
        {"id": 2079689, "name": "Комментарий", "type": "text"},
        {"id": 2098950, "name": "Город", "type": "cats", "is_multi_select": True,
         "categories": [{"id": 1, "name": "Москва"}, {"id": 2, "name": "Казань"}]},
        {"id": 2098951, "name": "Тема", "type": "cats", "is_multi_select": False,
         "categories": [{"id": 3, "name": "Покупка"}]},
        {"id": 2098952, "name": "Дубль", "type": "text"},
        {"id": 2098953, "name": "дубль", "type": "text"},
    ),
    41824: ({"id": 2079700, "name": "Бюджет", "type": "text"},),
}  # fmt: skip
CONTACT_FIELDS: Mapping[int, str] = {12: "field1"}
DETAILS = frozenset({"phone", "email", "skype", "icq", "facebook", "vk", "telegram", "viber"})
_CONTACT = frozenset({"project_id", "name", "profession", "site", "details", "fields"})
_LEAD = frozenset({
    "contact_id", "contact", "name", "callback", "funnel", "stage_id", "owner", "owner_id", "view", "view_id",
    "custom", "payments", "lead_date",
})  # fmt: skip
_VIEW = frozenset({
    "source", "campaign", "keyword", "page", "referer", "seo_system", "ym_client_id", "ga_client_id", "uuid", "visitor",
})  # fmt: skip
MAX_NAME = 255
#: ``lc-{installation}-{lead}-{credential}[-{n}]``
KEY = re.compile(r"lc-[^-\s\]]+-([^\s\]]+?)-[^-\s\]]+(?:-\d+)?")


def key_of(text: object) -> str:
    """The delivery's key in a name or a comment: the last one."""
    found = [match[0] for match in KEY.finditer(str(text))]
    return found[-1] if found else ""


def lead_of(key: str) -> str:
    """The id of leadctl's lead in a key."""
    match = KEY.fullmatch(key)
    return match[1] if match else key


def leads_by_email(contact: Any) -> list[str]:
    """No key travels with a contact: leads of tests have their number in the address (``lead42@example.com``)."""
    details = contact.get("details") if isinstance(contact, dict) else None
    emails = [item.get("data") for item in details or [] if isinstance(item, dict) and item.get("type") == "email"]
    return [match[1] for email in emails if (match := re.fullmatch(r"[a-z]+(\d+)@.+", str(email)))]


def contact_problems(contact: Any) -> Iterator[str]:
    """What is wrong with a new contact."""
    if not isinstance(contact, dict):
        yield "contact must be an object"
        return
    yield from _unknown(contact, _CONTACT)
    if not _is_int(contact.get("project_id")) or contact["project_id"] not in PROJECTS:
        yield "project not found"
    if not isinstance(contact.get("name", ""), str) or len(contact.get("name", "")) > MAX_NAME:
        yield "invalid name"
    yield from _detail_problems(contact.get("details"))
    fields = contact.get("fields", {})
    if not isinstance(fields, dict) or {*fields} - {str(number) for number in CONTACT_FIELDS}:
        yield "invalid fields"


def _detail_problems(details: Any) -> Iterator[str]:
    if not isinstance(details, list) or not all(isinstance(item, dict) for item in details):
        yield "details must be a list"
        return
    for item in details:
        kind, data = item.get("type"), item.get("data")
        if kind not in DETAILS or not isinstance(data, str) or not data:
            yield "invalid detail"
        elif kind == "phone" and len(digits(data)) < 7:
            yield "invalid phone"
        elif kind == "email" and not re.fullmatch(r"[^@\s]+@[^@\s]+", data):
            yield "invalid email"
    if not {"phone", "email"} & {str(item.get("type")) for item in details}:
        yield "contact needs a phone or an email"


def lead_problems(lead: Any, project_of: Callable[[int], int | None]) -> Iterator[str]:
    """What is wrong with a new lead; ``project_of`` knows the contacts."""
    if not isinstance(lead, dict):
        yield "body must be an object"
        return
    yield from _unknown(lead, _LEAD)
    if "contact" in lead:
        yield from contact_problems(lead["contact"])
    project = project_at(lead, project_of)
    if project is None:
        yield "contact_id or contact is required"
        return
    if not isinstance(lead.get("name", ""), str) or len(lead.get("name", "")) > MAX_NAME:
        yield "invalid name"
    if not isinstance(lead.get("callback", False), bool):
        yield "invalid callback"
    for key in ("funnel", "stage_id"):
        if key in lead and (not _is_int(lead[key]) or lead[key] not in FUNNELS[project]):
            yield f"{key} not found"
    for key in ("owner", "owner_id"):
        if key in lead and (not _is_int(lead[key]) or lead[key] not in STAFF):
            yield f"{key} not found"
    view = lead.get("view", {})
    if not isinstance(view, dict) or {*view} - _VIEW or not all(isinstance(text, str) for text in view.values()):
        yield "invalid view"
    yield from _custom_problems(lead.get("custom", {}), CUSTOMS[project])


def project_at(lead: Mapping[str, Any], project_of: Callable[[int], int | None]) -> int | None:
    """The project of a new lead, by its contact."""
    contact, identity = lead.get("contact"), lead.get("contact_id")
    if isinstance(contact, dict):
        project = contact.get("project_id")
        return project if _is_int(project) and project in PROJECTS else None
    return project_of(identity) if isinstance(identity, int) else None


def _custom_problems(values: Any, customs: tuple[Mapping[str, Any], ...]) -> Iterator[str]:
    """On write a map, field id → value."""
    if not isinstance(values, dict):
        yield "custom must be a map"
        return
    known = {str(custom["id"]): custom for custom in customs}
    for name, value in values.items():
        custom = known.get(name)
        if custom is None:
            yield f"custom {name} not found"
        elif custom["type"] != "cats":
            if not isinstance(value, str):
                yield f"invalid custom {name}"
        elif isinstance(value, list) != custom["is_multi_select"] or not {
            *(value if isinstance(value, list) else [value])
        } <= {category["name"] for category in custom["categories"]}:
            yield f"no such category of custom {name}"


def _unknown(body: Mapping[str, Any], known: frozenset[str]) -> Iterator[str]:
    for key in sorted(body.keys() - known):
        yield f"unknown parameter {key}"


def digits(text: str) -> str:
    """A phone as it is stored and compared."""
    return re.sub(r"\D", "", text)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
