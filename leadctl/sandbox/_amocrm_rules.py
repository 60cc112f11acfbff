"""What amoCRM accepts, as pure checks of a request's body, and its rotating tokens."""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Pipelines with their stages; 142 (won) and 143 (lost) exist in each.
PIPELINES: Mapping[int, frozenset[int]] = {
    3383152: frozenset({33929749, 33929752, 142, 143}),
    3383155: frozenset({33929761, 142, 143}),
}
USERS = frozenset({504141, 504142})
MAX_VALUES = 40
PHONE_CODES = frozenset({"WORK", "WORKDD", "MOB", "FAX", "HOME", "OTHER"})
EMAIL_CODES = frozenset({"WORK", "PRIV", "OTHER"})
#: What the delivery's key looks like: ``lc-{installation}-{lead}-{credential}[-{n}]``.
KEY = re.compile(r"lc-[^-\s\]]+-([^\s\]]+?)-[^-\s\]]+(?:-\d+)?")


@dataclass(frozen=True, slots=True)
class Field:
    """A custom field. ``choices``: the values of a list, or the enum codes of a phone or an e-mail."""

    id: int
    type: str
    code: str | None = None
    choices: frozenset[str] = frozenset()


LEAD_FIELDS = (
    Field(771001, "text"),
    Field(771002, "text"),
    Field(771003, "numeric"),
    Field(771004, "select", choices=frozenset({"hot", "cold"})),
    *(
        Field(771010 + number, "tracking_data", code)
        for number, code in enumerate(("UTM_SOURCE", "UTM_MEDIUM", "UTM_CAMPAIGN", "UTM_CONTENT", "UTM_TERM"))
    ),
)
CONTACT_FIELDS = (Field(771101, "multitext", "PHONE", PHONE_CODES), Field(771102, "multitext", "EMAIL", EMAIL_CODES))

Problem = dict[str, str]
Problems = Iterator[Problem]

_INTEGERS = frozenset({"price", "created_at", "updated_at", "closed_at", "group_id", "loss_reason_id"})
_OTHERS = frozenset({"name", "pipeline_id", "status_id", "request_id", "custom_fields_values", "_embedded",
                     "tags_to_add", "visitor_uid"})  # fmt: skip
_PEOPLE = frozenset({"responsible_user_id", "created_by", "updated_by"})
_EMBEDDED = frozenset({"tags", "contacts", "companies", "source", "metadata"})
_CONTACT = frozenset({"id", "name", "first_name", "last_name", "responsible_user_id", "custom_fields_values"})


def _choice(path: str) -> Problem:
    return {"code": "NotSupportedChoice", "path": path, "detail": "The value you selected is not a valid choice."}


def _type(path: str, kind: str) -> Problem:
    return {"code": "InvalidType", "path": path, "detail": f"This value should be of type {kind}."}


def _unexpected(body: Mapping[str, Any], known: frozenset[str], path: str = "") -> Problems:
    for key in sorted(body.keys() - known):
        yield {"code": "NotExpected", "path": f"{path}{key}", "detail": "This field was not expected."}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def lead_problems(lead: Any) -> Problems:
    """What is wrong with one element of ``leads/complex``."""
    if not isinstance(lead, dict):
        yield _type("", "object")
        return
    yield from _unexpected(lead, _INTEGERS | _OTHERS | _PEOPLE)
    for key in ("name", "request_id"):
        if not isinstance(lead.get(key, ""), str):
            yield _type(key, "string")
    for key in sorted(_INTEGERS & lead.keys()):
        if not _is_int(lead[key]):
            yield _type(key, "int")
    for key in sorted(_PEOPLE & lead.keys()):
        if lead[key] not in (USERS if key == "responsible_user_id" else USERS | {0}):
            yield _choice(key)
    pipeline = lead.get("pipeline_id", next(iter(PIPELINES)))
    if pipeline not in PIPELINES:
        yield _choice("pipeline_id")
    elif "status_id" in lead and lead["status_id"] not in PIPELINES[pipeline]:
        yield _choice("status_id")
    yield from _value_problems(lead.get("custom_fields_values", []), LEAD_FIELDS, "custom_fields_values")
    yield from _embedded_problems(lead.get("_embedded", {}))


def _embedded_problems(embedded: Any) -> Problems:
    if not isinstance(embedded, dict):
        yield _type("_embedded", "object")
        return
    yield from _unexpected(embedded, _EMBEDDED, "_embedded.")
    for index, tag in enumerate(embedded.get("tags", [])):
        name = tag.get("name") if isinstance(tag, dict) else None
        if not (isinstance(name, str) and name) and not (isinstance(tag, dict) and _is_int(tag.get("id"))):
            yield _type(f"_embedded.tags.{index}.name", "string")
    for kind in ("contacts", "companies"):
        if len(embedded.get(kind, [])) > 1:
            yield {
                "code": "TooMany",
                "path": f"_embedded.{kind}",
                "detail": "This collection should contain 1 element.",
            }
    for index, contact in enumerate(embedded.get("contacts", [])):
        path = f"_embedded.contacts.{index}"
        if not isinstance(contact, dict) or not contact:
            yield _type(path, "object")
            continue
        yield from _unexpected(contact, _CONTACT, f"{path}.")
        for key in ("name", "first_name", "last_name"):
            if not isinstance(contact.get(key, ""), str):
                yield _type(f"{path}.{key}", "string")
        values = contact.get("custom_fields_values", [])
        yield from _value_problems(values, CONTACT_FIELDS, f"{path}.custom_fields_values")


def find_field(entry: Mapping[str, Any], fields: tuple[Field, ...]) -> Field | None:
    """The field that an entry of ``custom_fields_values`` means."""
    by_id, by_code = entry.get("field_id"), entry.get("field_code")
    return next((f for f in fields if f.id == by_id or (f.code is not None and f.code == by_code)), None)


def _value_problems(entries: Any, fields: tuple[Field, ...], path: str) -> Problems:
    if not isinstance(entries, list):
        yield _type(path, "array")
        return
    if len(entries) > MAX_VALUES:
        yield {
            "code": "TooMany",
            "path": path,
            "detail": f"This collection should contain {MAX_VALUES} elements or less.",
        }
    for index, entry in enumerate(entries):
        at = f"{path}.{index}"
        if not isinstance(entry, dict) or len({"field_id", "field_code"} & entry.keys()) != 1:
            yield _type(at, "object")
            continue
        found = find_field(entry, fields)
        if found is None:
            yield _choice(f"{at}.field_{'id' if 'field_id' in entry else 'code'}")
            continue
        values = entry.get("values")
        if not isinstance(values, list) or not values:
            yield _type(f"{at}.values", "array")
            continue
        for number, value in enumerate(values):
            yield from _one_value(value, found, f"{at}.values.{number}")


def _one_value(value: Any, found: Field, path: str) -> Problems:
    text = value.get("value") if isinstance(value, dict) else None
    if found.type == "numeric":
        if not re.fullmatch(r"-?\d+(\.\d+)?", str(text)):
            yield _type(f"{path}.value", "numeric")
    elif not isinstance(text, str) or not text:
        yield _type(f"{path}.value", "string")
    elif found.type == "select" and text not in found.choices:
        yield _choice(f"{path}.value")
    elif found.type == "multitext" and value.get("enum_code", "WORK") not in found.choices:
        yield _choice(f"{path}.enum_code")


def note_problems(note: Any, lead_ids: Callable[[int], bool]) -> Problems:
    """What is wrong with one element of ``leads/notes``."""
    if not isinstance(note, dict):
        yield _type("", "object")
        return
    yield from _unexpected(note, frozenset({"entity_id", "note_type", "params", "request_id", "created_by"}))
    if not _is_int(note.get("entity_id")) or not lead_ids(note["entity_id"]):
        yield _choice("entity_id")
    if note.get("note_type") != "common":
        yield _choice("note_type")
    params = note.get("params")
    if not isinstance(params, dict) or not isinstance(params.get("text"), str) or not params["text"]:
        yield _type("params.text", "string")


def key_of(item: Any) -> str:
    """The delivery's key in a lead or a note of a request; the ``request_id`` only if nothing is marked."""
    if not isinstance(item, dict):
        return ""
    texts = [str(item.get("name") or ""), str((item.get("params") or {}).get("text") or "")]
    entries = item.get("custom_fields_values") or []
    texts += [str(v.get("value")) for entry in entries for v in entry.get("values") or [] if entry.get("field_id")]
    for text in texts:
        marked = [match[0] for match in KEY.finditer(text)]
        if marked:
            return marked[-1]
    return str(item.get("request_id") or "")


def lead_of(key: str) -> str:
    """The id of leadctl's lead in a key."""
    match = KEY.fullmatch(key)
    return match[1] if match else key


@dataclass
class TokenOffice:
    """The OAuth side of one integration. An old refresh token works until the pair that replaced it is first used;
    ``strict``: it is revoked at once."""

    client_id: str = "5c1b2f0e-sandbox"
    client_secret: str = "sandbox-client-secret"  # noqa: S105 made up
    redirect_uri: str = "https://example.com/oauth"
    life: float = 86_400.0
    strict: bool = False
    refresh_token: str = field(default_factory=lambda: f"refresh-{uuid.uuid4().hex}")
    access_token: str = field(default_factory=lambda: f"access-{uuid.uuid4().hex}")
    refreshed: int = 0
    _previous: str | None = None
    _alive: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._alive[self.access_token] = time.time() + self.life

    def admit(self, access_token: str) -> bool:
        """Whether a request with this token is let in; the first use of a new pair ends the old one."""
        if self._alive.get(access_token, 0.0) <= time.time():
            return False
        if access_token == self.access_token:
            self._previous = None
        return True

    def expire(self) -> None:
        """Every access token issued so far is over."""
        self._alive.clear()

    def refresh(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """A new pair, or None: refused."""
        wanted = {"client_id": self.client_id, "client_secret": self.client_secret, "redirect_uri": self.redirect_uri}
        token = body.get("refresh_token")
        known = token == self.refresh_token or (token is not None and token == self._previous)
        if any(body.get(key) != value for key, value in wanted.items()) or not known:
            return None
        self._previous = None if self.strict else str(token)
        self.access_token, self.refresh_token = f"access-{uuid.uuid4().hex}", f"refresh-{uuid.uuid4().hex}"
        self._alive[self.access_token] = time.time() + self.life
        self.refreshed += 1
        return {
            "token_type": "Bearer",
            "expires_in": int(self.life),
            "server_time": int(time.time()),
            "access_token": self.access_token,
            "refresh_token": self.refresh_token,
        }
