"""Bitrix24, as strict as the vendor: REST by webhook, batches, limits, CRM items without any idempotency."""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox._bitrix24_batch import (
    Called,
    Killed,
    LeakyBucket,
    OperatingTime,
    RestError,
    commands_of,
    parse_str,
    php_array,
    run_batch,
)
from leadctl.sandbox.judge import Creation, Faults, Judge
from leadctl.sandbox.vendor import HttpVendor

OWNER = 1
CODE = "s4ndb0xw3bh00kc0d3"
LEAD, DEAL, CONTACT = 1, 2, 3
PAGE = 50

_BASE = "id createdTime createdBy assignedById opened comments sourceId sourceDescription originatorId originId"
_UTM = "utmSource utmMedium utmCampaign utmContent utmTerm"
_COMMON = f"{_BASE} {_UTM}"
#: Names that ``fields`` and filters know; anything else in ``fields`` is dropped without a word.
KNOWN: Mapping[int, frozenset[str]] = {
    LEAD: frozenset(f"{_COMMON} title name lastName secondName companyTitle post stageId opportunity fm".split()),
    DEAL: frozenset(f"{_COMMON} title stageId categoryId contactId contactIds leadId opportunity".split()),
    CONTACT: frozenset(f"{_COMMON} name lastName secondName post typeId fm".split()),
}  # fmt: skip
_READ_ONLY = frozenset({"id", "createdTime", "createdBy"})
_FILTER = re.compile(r"(!@|!=%|!%=|!%|!=|>=|<=|=%|%=|[=@!><%])?(.+)", re.DOTALL)
_EMAIL = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+\.[^\s@<>,;]+")
_KEY = re.compile(r"lc-[^-]+-(.+?)-(?:\d+|file:[0-9a-f]{12})(?:-\d+)?")
_LEGACY_ADD = {"crm.lead.add": LEAD, "crm.deal.add": DEAL, "crm.contact.add": CONTACT}
_GATEWAY_TIMEOUT = "<html><head><title>504 Gateway Time-out</title></head><body>nginx</body></html>"


class Bitrix24Vendor(HttpVendor):
    """One portal with one webhook. The attributes below are switches for tests."""

    name = "bitrix24"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {"error_body": ("rejected", "rejected")}

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.items: dict[int, dict[int, dict[str, Any]]] = {LEAD: {}, DEAL: {}, CONTACT: {}}
        #: Custom fields by their original names.
        self.custom_fields = {"UF_CRM_BUDGET", "UF_CRM_1747309879"}
        self.required: dict[int, set[str]] = {LEAD: set(), DEAL: set(), CONTACT: set()}
        self.scopes = ["crm", "user_basic"]
        #: ``all``, ``own`` (only what is assigned to the webhook's owner), or ``none``.
        self.read_right = "all"
        self.may_add = True
        self.user_active = True
        self.simple_mode = False
        #: A portal that was renamed: its new address.
        self.moved_to: str | None = None
        #: What every request is refused with (``OVERLOAD_LIMIT``, a lapsed plan, …).
        self.refuse_all: RestError | None = None
        #: Server time of one add. It is only counted, against the two limits below; nothing waits for it.
        self.add_seconds = 0.2
        self.cap_seconds = 60.0
        self.operating_allowance = 480.0
        #: The bodies of the batches that were run.
        self.batches: list[Mapping[str, Any]] = []
        self._rate = LeakyBucket(50, 2 * scale)
        self._operating = OperatingTime(scale)
        self._elapsed = 0.0
        self._keys: tuple[str, ...] = ()
        self._methods: dict[str, Callable[[dict[str, Any]], Called]] = {
            "profile": self._profile,
            "scope": lambda params: Called(list(self.scopes)),
            "crm.settings.mode.get": lambda params: Called(2 if self.simple_mode else 1),
            "crm.item.add": self._item_add,
            "crm.item.list": self._item_list,
            "crm.item.fields": self._item_fields,
            "crm.lead.list": self._lead_list,
            "crm.status.list": self._status_list,
            **dict.fromkeys(_LEGACY_ADD, self._legacy_add),
        }

    def credential(self) -> Mapping[str, Any]:
        return {"webhook_url": f"{self.url}/rest/{OWNER}/{CODE}/"}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [web.route("*", "/rest/{tail:.*}", self._handle)]

    def refusal(self, kind: str) -> web.Response:
        if kind == "rate_limit":
            return _failure(RestError("QUERY_LIMIT_EXCEEDED", "Too many requests", 503))
        if kind == "server_error":
            return _failure(RestError("INTERNAL_SERVER_ERROR", "Internal server error", 500))
        if kind == "unauthorized":
            return _failure(RestError("INVALID_CREDENTIALS", "Invalid request credentials", 401))
        if kind == "reject":
            error = RestError("CRM_FIELD_ERROR_VALUE_NOT_VALID", 'Invalid value of the field "sourceId"')
        else:
            error = RestError("", "The required field 'Lead Name' is missing.<br />")
        errors = {key: error.body() for key in self._keys}
        empty: dict[str, Any] = {"result": {}, "result_total": {}, "result_next": {}, "result_time": {}}
        return _success(Called({**empty, "result_error": errors}), time.time())

    # The way in

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.moved_to is not None:
            return web.Response(
                status=302, headers={"Location": f"{self.moved_to}{request.path}"}, text="<html></html>"
            )
        if not self._rate.admit():
            return self.refusal("rate_limit")
        try:
            params = await _parameters(request)
            method = self._admitted(request.match_info["tail"], params)
            leads = self._leads(method, params)
        except RestError as error:
            return _failure(error)

        async def execute(kind: str | None) -> web.Response:
            return self._execute(method, params, half=kind == "half_batch")

        if leads or self.faults.standing(self.name):
            return await self.with_faults(request, leads, execute)
        return await execute(None)

    def _admitted(self, tail: str, params: dict[str, Any]) -> str:
        """The method's name, in lower case, if the webhook may call it."""
        if self.refuse_all is not None:
            raise self.refuse_all
        parts = tail.strip("/").split("/")
        method = parts[-1].lower().removesuffix(".json")
        if method != "batch" and method not in self._methods:
            raise RestError("ERROR_METHOD_NOT_FOUND", "Method not found!", 404)
        if len(parts) == 1:
            if params.get("auth") != CODE:
                raise RestError("NO_AUTH_FOUND", "Wrong authorization data", 401)
        elif len(parts) != 3:
            raise RestError("ERROR_METHOD_NOT_FOUND", "Method not found!", 404)
        elif parts[:2] != [str(OWNER), CODE]:
            raise RestError("INVALID_CREDENTIALS", "Invalid request credentials", 401)
        return method

    def _leads(self, method: str, params: dict[str, Any]) -> list[str]:
        """The leads that a request would make something of."""
        commands = commands_of(params) if method == "batch" else {}
        self._keys = tuple(commands)
        calls = [command.partition("?")[::2] for command in commands.values() if isinstance(command, str)]
        made = [parse_str(query) for name, query in calls if name.lower().endswith(".add")]
        made += [params] if method.endswith(".add") else []
        fields = [call["fields"] for call in made if isinstance(call.get("fields"), dict)]
        return [_lead_of(str(values.get("originId") or values.get("ORIGIN_ID") or "")) for values in fields]

    def _execute(self, method: str, params: dict[str, Any], *, half: bool) -> web.Response:
        started = time.time()
        self._elapsed = 0.0
        try:
            if method == "batch":
                self.batches.append(params)
                skip = (len(commands_of(params)) + 1) // 2 if half else 0
                return _success(run_batch(params, self._call, skip), started)
            return _success(self._call(method, params), started)
        except RestError as error:
            return _failure(error)
        except Killed:
            return web.Response(status=504, text=_GATEWAY_TIMEOUT, content_type="text/html")

    def _call(self, name: str, params: dict[str, Any]) -> Called:
        method = name.lower().removesuffix(".json")
        if method not in self._methods:
            raise RestError("ERROR_METHOD_NOT_FOUND", "Method not found!", 404)
        if method.startswith("crm.") and "crm" not in self.scopes:
            text = "The request requires higher privileges than provided by the webhook token"
            raise RestError("insufficient_scope", text, 401)
        if self._operating.used(method) > self.operating_allowance:
            raise RestError("OPERATION_TIME_LIMIT", "Method is blocked due to operation time limit.", 429)
        started = time.time()
        seconds = self.add_seconds if method.endswith(".add") else 0.0
        called = self._methods[method]({**params, "method": method})
        self._operating.add(method, seconds)
        self._elapsed += seconds
        if self._elapsed > self.cap_seconds:
            raise Killed
        timing = _timing(started, seconds) | {
            "operating_reset_at": self._operating.reset_at(method), "operating": self._operating.used(method),
        }  # fmt: skip
        return Called(called.result, timing, called.total, called.next)

    # Methods

    def _profile(self, params: dict[str, Any]) -> Called:
        del params
        profile = {"ID": str(OWNER), "ADMIN": True, "NAME": "Olga", "LAST_NAME": "Sandbox", "TIME_ZONE": "UTC"}
        return Called(profile if self.user_active else {})

    def _status_list(self, params: dict[str, Any]) -> Called:
        values = {"STATUS": ["NEW", "IN_PROCESS", "CONVERTED", "JUNK"], "SOURCE": ["CALL", "WEB", "OTHER"]}
        wanted = params.get("filter") or {}
        rows = [
            {"ENTITY_ID": entity, "STATUS_ID": status, "NAME": status.title()}
            for entity, statuses in values.items() for status in statuses
            if wanted.get("ENTITY_ID") in (None, entity)
        ]  # fmt: skip
        return Called(rows, total=len(rows))

    def _item_fields(self, params: dict[str, Any]) -> Called:
        kind = _entity_type(params)
        names = sorted(KNOWN[kind]) + [_camel(name) for name in sorted(self.custom_fields)]
        return Called({"fields": {name: {"isRequired": name in self.required[kind]} for name in names}})

    def _item_add(self, params: dict[str, Any]) -> Called:
        fields = params.get("fields")
        if not isinstance(fields, dict):
            raise RestError("100", "Could not find value for parameter {fields}")
        original = params.get("useOriginalUfNames") == "Y"
        custom = {name if original else _camel(name) for name in self.custom_fields}
        item = self._make(_entity_type(params), fields, custom)
        return Called({"item": item})

    def _legacy_add(self, params: dict[str, Any]) -> Called:
        kind = _LEGACY_ADD[params["method"]]
        fields = params.get("fields")
        if not isinstance(fields, dict):
            raise RestError("", "Parameter 'fields' must be array.")
        values: dict[str, Any] = {_camel(name) if not name.startswith("UF_") else name: v for name, v in fields.items()}
        values["stageId"] = values.pop("statusId", values.get("stageId"))
        values["fm"] = [
            {"typeId": name, "valueType": entry.get("VALUE_TYPE", "WORK"), "value": entry.get("VALUE")}
            for name in ("PHONE", "EMAIL")
            for entry in _entries(fields.get(name))
            if isinstance(entry, dict)  # a phone that is a plain string is lost
        ]
        return Called(self._make(kind, values, self.custom_fields)["id"])

    def _make(self, kind: int, fields: dict[str, Any], custom: Iterable[str]) -> dict[str, Any]:
        """Check, store and judge one item."""
        if not self.may_add:
            raise RestError("ACCESS_DENIED", "Access denied")
        known = (KNOWN[kind] - _READ_ONLY) | set(custom)
        values = {name: _scalar(value) for name, value in fields.items() if name in known and value not in (None, "")}
        missing = [name for name in sorted(self.required[kind]) if name not in values]
        if kind == CONTACT and not ({"name", "lastName"} & set(values)):
            missing.append("name")
        if missing:
            raise RestError("CRM_FIELD_ERROR_REQUIRED", f'The "{missing[0]}" field is required')
        if "fm" in KNOWN[kind]:
            values["fm"] = _multifields(fields.get("fm"))
        if kind == DEAL:
            values |= self._deal_links(fields)
        number = sum(map(len, self.items.values())) + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stage = f"C{values['categoryId']}:NEW" if values.get("categoryId") else "NEW"
        own = {"id": number, "createdTime": now, "createdBy": OWNER, "assignedById": OWNER, "stageId": stage}
        names: dict[str, Any] = dict.fromkeys(sorted(known))
        item = {**names, **own, **values, "assignedById": _intval(values.get("assignedById") or OWNER)}
        self.items[kind][number] = item
        self._judge(kind, item)
        if kind == LEAD and self.simple_mode and item["name"]:
            self._convert(item)
        return item

    def _deal_links(self, fields: dict[str, Any]) -> dict[str, Any]:
        links = [_intval(link) for link in _entries(fields.get("contactIds"))]
        for link in links:
            if link not in self.items[CONTACT]:
                raise RestError("CRM_FIELD_ERROR_VALUE_NOT_VALID", 'Invalid value of the field "contactIds"')
        first = links[0] if links else None
        return {"contactIds": links, "contactId": first, "categoryId": _intval(fields.get("categoryId") or 0)}

    def _judge(self, kind: int, item: dict[str, Any]) -> None:
        vendor = f"{self.name}:contact" if kind == CONTACT else self.name
        key = item["originId"] or ""
        detail = str(item.get("title") or item.get("name"))
        self.judge.created(Creation(vendor, _lead_of(key), key, str(item["id"]), detail))

    def _convert(self, lead: dict[str, Any]) -> None:
        """A portal without leads makes a deal of each lead; that deal is the same creation, not a second."""
        lead["stageId"] = "CONVERTED"
        number = sum(map(len, self.items.values())) + 1
        deal = {name: lead.get(name) for name in KNOWN[DEAL]}
        marker = {"originatorId": None, "originId": None}
        self.items[DEAL][number] = {**deal, **marker, "id": number, "leadId": lead["id"], "stageId": "NEW"}

    def _item_list(self, params: dict[str, Any]) -> Called:
        kind = _entity_type(params)
        rows = self._selected(kind, params.get("filter"), strict=True)
        select = set(_entries(params.get("select")))
        rows, called = _page(rows, params)
        shown = [{k: v for k, v in row.items() if not select or "*" in select or k in select} for row in rows]
        return Called({"items": shown}, total=called.total, next=called.next)

    def _lead_list(self, params: dict[str, Any]) -> Called:
        conditions = params.get("filter") or {}
        legacy = {re.sub(r"[A-Z_]+$", lambda m: _camel(m[0]), str(name)): value for name, value in conditions.items()}
        rows, called = _page(self._selected(LEAD, legacy, strict=False), params)
        shown = [{"ID": str(row["id"]), "TITLE": row["title"], "ORIGIN_ID": row["originId"]} for row in rows]
        return Called(shown, total=called.total, next=called.next)

    def _selected(self, kind: int, conditions: Any, *, strict: bool) -> list[dict[str, Any]]:
        if self.read_right == "none":
            readable = []
        else:
            own = self.read_right == "own"
            readable = [row for row in self.items[kind].values() if not own or row["assignedById"] == OWNER]
        known = KNOWN[kind] | {_camel(name) for name in self.custom_fields}
        for name, wanted in (conditions or {}).items():
            match = _FILTER.fullmatch(str(name))
            if match is None or match[2] not in known:
                if strict:
                    text = f"Invalid filter: field '{match[2] if match else name}' is not allowed in filter"
                    raise RestError("INVALID_ARG_VALUE", text)
                continue  # the legacy list drops what it does not know, and answers with strangers
            readable = [row for row in readable if _fits(match[1] or "=", row.get(match[2]), wanted)]
        return readable


async def _parameters(request: web.Request) -> dict[str, Any]:
    """Query and body; PHP's brackets in both, unless the body is JSON."""
    params = parse_str(request.rel_url.raw_query_string)
    body = await request.text()
    if request.content_type == "application/json" and body:
        try:
            found = await request.json()
        except ValueError:
            found = None
        return params | (found if isinstance(found, dict) else {})
    return params | parse_str(body)


def _success(called: Called, started: float) -> web.Response:
    body: dict[str, Any] = {"result": php_array(called.result)}
    body |= {name: value for name, value in (("next", called.next), ("total", called.total)) if value is not None}
    return web.json_response({**body, "time": called.time or _timing(started, time.time() - started)})


def _failure(error: RestError) -> web.Response:
    return web.json_response(error.body(), status=error.status)


def _timing(started: float, duration: float) -> dict[str, Any]:
    finish = time.time()
    dates = {
        name: datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
        for name, at in (("date_start", started), ("date_finish", finish))
    }
    return {"start": started, "finish": finish, "duration": duration, "processing": duration, **dates}


def _lead_of(key: str) -> str:
    match = _KEY.fullmatch(key)
    return match[1] if match else ""


def _camel(name: str) -> str:
    """``UTM_SOURCE`` → ``utmSource``, ``UF_CRM_17`` → ``ufCrm_17``."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name.lower())


def _entity_type(params: Mapping[str, Any]) -> int:
    kind = _intval(params.get("entityTypeId") or 0)
    if kind not in KNOWN:
        raise RestError("NOT_FOUND", "SPA not found")
    return kind


def _entries(value: Any) -> list[Any]:
    """The values of a PHP array; nothing of a scalar."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _scalar(value: Any) -> Any:
    return "Array" if isinstance(value, (dict, list)) else value


def _intval(value: Any) -> int:
    """PHP's cast: an array that is not empty is 1, a text is its leading digits."""
    if isinstance(value, (dict, list)):
        return 1 if value else 0
    match = re.match(r"\s*-?\d+", str(value))
    return int(match[0]) if match else 0


def _multifields(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, (dict, list)):
        raise RestError("100", f"Expected iterable value for multiple field, but got `{type(value).__name__}` instead")
    kept: list[dict[str, Any]] = []
    for entry in _entries(value):
        text = entry.get("value") if isinstance(entry, dict) else None
        if not text or entry.get("typeId") not in ("PHONE", "EMAIL", "WEB", "IM"):
            continue
        if entry["typeId"] == "EMAIL" and not _EMAIL.fullmatch(text):
            raise RestError("ERROR_CORE", 'The field "E-mail" contains an invalid address')
        kept.append({"id": len(kept) + 1, "valueType": "WORK", **entry})
    return kept


def _page(rows: list[dict[str, Any]], params: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Called]:
    order = {str(name).lower(): str(way).upper() for name, way in (params.get("order") or {}).items()}
    rows = sorted(rows, key=lambda row: int(row["id"]), reverse=order.get("id") == "DESC")
    start = _intval(params.get("start") or 0)
    if start < 0:
        return rows[:PAGE], Called(None, total=0)
    more = start + PAGE if len(rows) > start + PAGE else None
    return rows[start : start + PAGE], Called(None, total=len(rows), next=more)


def _fits(operation: str, value: Any, wanted: Any) -> bool:
    """One condition of a filter; texts are compared without case, as the database does it."""
    text = str(value if value is not None else "").lower()
    if operation in ("@", "!@"):
        return (text in [str(item).lower() for item in _entries(wanted)]) == (operation == "@")
    if operation in (">", ">=", "<", "<="):
        number, bound = _intval(value or 0), _intval(wanted)
        return {">": number > bound, ">=": number >= bound, "<": number < bound, "<=": number <= bound}[operation]
    if "%" in operation:
        return (str(wanted).strip("%").lower() in text) != operation.startswith("!")
    return (text == str(wanted).lower()) != operation.startswith("!")
