"""UniSender's API: forms in, HTTP 200 out, upserts by e-mail and phone, imports with a log, limits by the minute."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox._unisender_base import STATUSES, Base, Contact, Refused, check_tags, check_ways
from leadctl.sandbox._unisender_form import Php, array, listed, parse_form
from leadctl.sandbox.judge import Creation, Faults, Judge, SlidingWindow
from leadctl.sandbox.vendor import HttpVendor

API_KEY = "6sandbox0unisender1api2key3example"
MAX_ROWS = 500
#: Before every text of an error.
MARK = "OB13012016"
#: ``lc-{installation}-{lead}-{credential}[-{n}]``
_KEY = re.compile(r"lc-[^-]+-(.+?)-[^-]+(?:-\d+)?")
_COLUMN = re.compile(r"(email|phone)(_status|_availability|_subscribe_times|_(unsubscribed_|excluded_)?list_ids)?")

Handler = Callable[[Php], Any]

#: What the faults of the judge are here: code and text.
FAULTS_SAID: Mapping[str, tuple[str, str]] = {
    "rate_limit": ("api_call_limit_exceeded_for_api_key", "Too many calls"),
    "unauthorized": ("invalid_api_key", "Can't find user by provided login"),
    "reject": ("invalid_arg", "A value is wrong"),
    "error_body": ("unspecified", "Something went wrong"),
}


class UniSenderVendor(HttpVendor):
    """One account. The switches may be set from any thread while it runs."""

    name = "unisender"
    #: The error of ``error_body`` has a code that refuses; and one lead is no batch.
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {
        "error_body": ("rejected", "rejected"),
        "half_batch": ("delivered", "delivered"),
    }

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.base = Base()
        #: A code that every call is answered with; its text.
        self.failing: tuple[str, str] | None = None
        #: Whether the log of an import names the rows that it has stored, too.
        self.log_warns = False
        self._windows = {
            scope: SlidingWindow(1200, 60.0, scale) for scope in ("api_call_limit_exceeded_for_api_key",
                                                                  "api_call_limit_exceeded_for_ip")
        }  # fmt: skip
        self._subscribes = SlidingWindow(300, 60.0, scale)
        self._exports = SlidingWindow(20, 60.0, scale)
        self._stored: set[str] = set()
        self._tasks: dict[str, str] = {}

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": self.url, "api_key": API_KEY, "list_ids": [134, 135]}

    def settings(self) -> Mapping[str, Any]:
        return {"fields": {"budget": "{{ lead.answers.budget }}"}}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [
            web.route("*", "/{lang:ru|en}/api/{method:[A-Za-z/]+}", self._call),
            web.get("/files/{task}.csv", self._file),
        ]

    def refusal(self, kind: str) -> web.Response:
        if kind in FAULTS_SAID:
            return _error(*FAULTS_SAID[kind])
        return web.Response(
            status=500, text="<html><h1>500 Internal Server Error</h1></html>", content_type="text/html"
        )

    # Who is let in

    async def _call(self, request: web.Request) -> web.StreamResponse:
        form = parse_form(await request.text())
        storing = {"subscribe": self._subscribe, "importContacts": self._import}.get(request.match_info["method"])
        items = _items(form)

        async def execute(kind: str | None) -> web.Response:
            try:
                handler = self._admitted(request, form)
                if kind == "half_batch" and "data" in form:
                    rows = array(form["data"])
                    form["data"] = dict(list(rows.items())[: len(rows) // 2])
                return web.json_response({"result": handler(form)})
            except Refused as error:
                return _error(error.code, error.text)

        if storing is None and self.faults.standing(self.name) is None:
            return await execute(None)
        return await self.with_faults(request, [_lead_of(item) for item in items] if storing else [], execute)

    def _admitted(self, request: web.Request, form: Php) -> Handler:
        """The method that is called. Raises Refused."""
        query = parse_form(request.query_string)
        if query and form:
            raise Refused("unspecified", "Call to a member function getMessage() on boolean")
        if form and request.content_type != "application/x-www-form-urlencoded":
            raise Refused("invalid_arg", "Parameters must be a form")
        form.update(query)
        if form.get("api_key") != API_KEY:
            raise Refused("invalid_api_key", "Can't find user by provided api_key")
        if form.get("format", "json") != "json":
            raise Refused("invalid_arg", "format must be json")
        for code, window in self._windows.items():
            if window.admit():
                raise Refused(code, "Too many calls")
        if self.failing is not None:
            raise Refused(*self.failing)
        handler = self._methods().get(request.match_info["method"])
        if handler is None:
            raise Refused("unknown_method", "Unknown method")
        return handler

    def _methods(self) -> Mapping[str, Handler]:
        return {
            "subscribe": self._subscribe,
            "importContacts": self._import,
            "getContact": self._get_contact,
            "isContactInLists": self._is_in_lists,
            "getLists": lambda form: [{"id": int(code), "title": title} for code, title in self.base.lists.items()],
            "getFields": lambda form: list(self.base.shown()),
            "createField": self._create_field,
            "async/exportContacts": self._export,
            "async/getTaskResult": self._task,
        }

    # Writing

    def _subscribe(self, form: Php) -> Any:
        if self._subscribes.admit():
            raise Refused("api_call_limit_exceeded_for_api_key", "Too many calls of subscribe")
        fields = {name: str(value) for name, value in array(form.get("fields")).items()}
        email, phone = fields.pop("email", ""), fields.pop("phone", "")
        codes, tags = listed(form.get("list_ids")), listed(form.get("tags"))
        double_optin, overwrite = form.get("double_optin", "0"), form.get("overwrite", "0")
        if double_optin not in ("0", "3", "4") or overwrite not in ("0", "1", "2"):
            raise Refused("invalid_arg", "double_optin is 0, 3 or 4, overwrite is 0, 1 or 2")
        check_ways(email, phone)
        check_tags(tags)
        self.base.check_lists(codes, letter=double_optin != "3")
        self.base.check_fields(list(fields))
        contact = self.base.subscribe((email, phone), codes, fields, tags, (double_optin, overwrite))
        self._judge(contact, {**fields, "email": email, "phone": phone})
        return {"person_id": contact.person_id}

    def _import(self, form: Php) -> Any:
        names = [str(name) for name in array(form.get("field_names")).values()]
        rows = list(array(form.get("data")).values())
        if not {"email", "phone"} & set(names) or len(set(names)) != len(names):
            raise Refused("invalid_arg", "field_names must have email or phone, and none of them twice")
        if len(rows) > MAX_ROWS:
            raise Refused("invalid_arg", f"At most {MAX_ROWS} contacts")
        if any(len(array(row)) != len(names) for row in rows):
            raise Refused("invalid_arg", "Every row of data must have a value for every field name")
        custom = [name for name in names if not _COLUMN.fullmatch(name) and name not in ("tags", "delete")]
        self.base.check_fields(custom)
        counts, log = {"inserted": 0, "updated": 0, "deleted": 0, "new_emails": 0, "invalid": 0}, []
        seen: set[str] = set()
        for index, cells in enumerate(rows):
            row = dict(zip(names, map(str, cells.values()), strict=True))
            address = (row.get("email") or row.get("phone") or str(index)).lower()
            if address in seen:
                continue  # a duplicate is neither counted nor named
            seen.add(address)
            try:
                self._import_row(row, form, counts)
            except Refused as error:
                counts["invalid"] += 1
                log.append({"index": index, "code": error.code, "message": f"{MARK} [{error.text}]"})
                continue
            if self.log_warns:
                log.append({"index": index, "code": "availability", "message": "The address was not seen before"})
        return {"total": len(rows), **counts, "log": log}

    def _import_row(self, row: Mapping[str, str], form: Php, counts: dict[str, int]) -> None:
        if row.get("delete") == "1":
            if gone := self.base.find(row.get("email", ""), row.get("phone", "")):
                self.base.remove(gone)
                counts["deleted"] += 1
            return
        if row.get("email_status") and row["email_status"] not in STATUSES:
            raise Refused("invalid_status", "email_status is not known")
        check_tags(listed(row.get("tags")))
        lists = {way: listed(row.get(f"{way}_list_ids")) for way in ("email", "phone") if row.get(way)}
        new = self.base.import_row(row, lists, overwrite_lists=form.get("overwrite_lists") == "1")
        counts["inserted" if new else "updated"] += 1
        counts["new_emails"] += new and bool(row.get("email"))
        contact = self.base.find(row.get("email", ""), row.get("phone", ""))
        assert contact is not None  # noqa: S101 it was stored just now
        self._judge(contact, row)

    def _judge(self, contact: Contact, sent: Mapping[str, str]) -> None:
        """A first storing under a key is a creation; without a key every storing is."""
        key = sent.get("leadctl_key", "")
        twin = bool(key) and key in self._stored
        self._stored.add(key)
        detail = " ".join(text for text in (sent.get("Name", ""), contact.email, contact.phone) if text)
        self.judge.created(Creation(self.name, _lead_of(sent), key, str(contact.person_id), detail, twin=twin))

    # Reading

    def _get_contact(self, form: Php) -> Any:
        contact = self.base.find(str(form.get("email", "")), "")
        if contact is None:
            raise Refused("invalid_arg", "The contact is not found")
        email = {"email": contact.email, "added_at": contact.added_at, "status": contact.status,
                 "availability": "available", "rating": None}  # fmt: skip
        result: dict[str, Any] = {"email": email}
        if form.get("include_lists") == "1":
            result["lists"] = [
                {"id": int(code), "status": status, "added_at": contact.added_at}
                for code, status in contact.lists.items()
            ]
        if form.get("include_fields") == "1":
            result["fields"] = contact.fields
        return result

    def _is_in_lists(self, form: Php) -> bool:
        contact = self.base.find(str(form.get("email", "")), "")
        there = [contact is not None and code in contact.lists for code in listed(form.get("list_ids"))]
        if form.get("condition") not in ("or", "and"):
            raise Refused("invalid_arg", "condition is or, or and")
        return any(there) if form["condition"] == "or" else bool(there) and all(there)

    def _create_field(self, form: Php) -> Any:
        name, kind = str(form.get("name", "")), form.get("type")
        if not re.fullmatch(r"[A-Za-z]\w*", name) or kind not in ("string", "text", "number", "date", "bool"):
            raise Refused("invalid_arg", "name or type is wrong")
        if name in self.base.field_names:
            raise Refused("invalid_arg", "There is such a field already")
        self.base.field_names.append(name)
        return {"id": len(self.base.field_names)}

    def _export(self, form: Php) -> Any:
        if self._exports.admit():
            raise Refused("api_call_limit_exceeded_for_api_key", "Too many calls of exportContacts")
        names = [str(name) for name in array(form.get("field_names")).values()] or ["email"]
        lines = [",".join(names)]
        for contact in self.base.contacts.values():
            ways = {"email": contact.email, "phone": contact.phone}
            if all(form.get(way, text) == text for way, text in ways.items()):
                lines.append(",".join({**contact.fields, **ways}.get(name, "") for name in names))
        uuid = f"task-{len(self._tasks) + 1}"
        self._tasks[uuid] = "\n".join(lines)
        return {"task_uuid": uuid, "status": "new"}

    def _task(self, form: Php) -> Any:
        uuid = str(form.get("task_uuid", ""))
        if uuid not in self._tasks:
            raise Refused("invalid_arg", "There is no such task")
        return {"task_uuid": uuid, "status": "completed", "file_to_download": f"{self.url}/files/{uuid}.csv"}

    async def _file(self, request: web.Request) -> web.Response:
        return web.Response(text=self._tasks.get(request.match_info["task"], ""), content_type="text/csv")


def _items(form: Php) -> Sequence[Mapping[str, str]]:
    """The fields of each contact that a request carries."""
    names = [str(name) for name in array(form.get("field_names")).values()]
    rows = [dict(zip(names, array(row).values(), strict=False)) for row in array(form.get("data")).values()]
    return rows or [array(form.get("fields"))]


def _lead_of(fields: Mapping[str, str]) -> str:
    """The id of the lead: its own field, or out of the key; else the address."""
    match = _KEY.fullmatch(fields.get("leadctl_key", ""))
    return fields.get("lead_id") or (match[1] if match else fields.get("email") or fields.get("phone", ""))


def _error(code: str, text: str) -> web.Response:
    return web.json_response({"error": f"{MARK} [{text}]", "code": code})
