"""LPTracker: an account with projects, contacts, leads and comments; 3 requests a second, errors under HTTP 200."""

import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox import _lptracker_rules as rules
from leadctl.sandbox.judge import Creation, Faults, Judge, SlidingWindow
from leadctl.sandbox.vendor import HttpVendor

LOGIN = "sandbox@example.com"
PASSWORD = "sandbox-password"  # noqa: S105 made up
PROJECT = 41823
MAX_PAGE = 200
#: Faults of what a request wants to make: questions do not meet them.
OF_WRITES = frozenset({"reject", "error_body", "half_batch"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class StoredLead:
    """A lead; lists show it, and comments find it, from ``visible_at`` (monotonic seconds) on."""

    body: dict[str, Any]
    project: int
    created_at: float
    visible_at: float
    comments: list[dict[str, Any]] = field(default_factory=list)


class Refused(Exception):
    """An error of the vendor: its code and message."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LpTrackerVendor(HttpVendor):
    """One account. The switches may be set from any thread while it runs."""

    name = "lptracker"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {
        "unauthorized": ("delivered", "parked"),  # one refusal is answered with a new login
        "half_batch": ("delivered", "delivered"),
    }

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        #: Seconds until comments and lists see a new lead, and searches a new contact.
        self.lag = 0.0
        #: Whether too many requests are told by the HTTP status, not in the body.
        self.status_503 = False
        #: Whether lists come without the envelope, as the documentation shows them.
        self.bare_lists = False
        #: Seconds without use after which a token dies.
        self.idle = 86_400.0
        self.logins = 0
        #: Ids of leads whose people were phoned.
        self.calls: list[int] = []
        self.tokens: dict[str, float] = {}
        self.contacts: dict[int, dict[str, Any]] = {}
        self.leads: dict[int, StoredLead] = {}
        self._seen: dict[int, float] = {}
        self._ids = itertools.count(77_972_070)
        self._window = SlidingWindow(3, 1.0, scale)

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": self.url, "login": LOGIN, "password": PASSWORD, "project_id": PROJECT, "service": "sandbox"}

    def settings(self) -> Mapping[str, Any]:
        return {"funnel": 1230456, "owner": 7301, "fields": {"Бюджет": "{{ lead.answers.budget }}"}}

    def comments(self) -> list[dict[str, Any]]:
        """Every comment of the account."""
        return [comment for lead in list(self.leads.values()) for comment in lead.comments]

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [
            web.post("/login", self._limited(self._log_in)),
            web.post("/logout", self._gate(self._log_out)),
            web.get("/projects", self._reading(lambda _: [_project(number) for number in rules.PROJECTS])),
            web.get("/project/{id:\\d+}", self._reading(lambda r: _project(_known(r)))),
            web.get("/project/{id:\\d+}/customs", self._reading(lambda r: list(rules.CUSTOMS[_known(r)]))),
            web.get("/project/{id:\\d+}/fields", self._reading(lambda r: _fields(_known(r)))),
            web.get("/project/{id:\\d+}/funnel", self._reading(lambda r: _named(rules.FUNNELS[_known(r)]))),
            web.get("/staff", self._reading(lambda _: _named(rules.STAFF))),
            web.get("/contact/search", self._reading(self._search)),
            web.post("/contact", self._gate(self._create_contact)),
            web.get("/contact/{id:\\d+}", self._reading(self._contact)),
            web.get("/contact/{id:\\d+}/leads", self._reading(self._leads_of)),
            web.post("/lead", self._gate(self._create_lead)),
            web.get("/lead/{id:\\d+}", self._reading(lambda r: self._shown(self._lead(r)))),
            web.get("/lead/{id:\\d+}/list", self._reading(self._list)),
            web.post("/lead/{id:\\d+}/comment", self._gate(self._create_comment)),
            web.get("/lead/{id:\\d+}/comments", self._reading(lambda r: self._lead(r).comments)),
            web.route("*", "/{tail:.*}", self._gate(self._nothing)),
        ]

    # Who is let in

    def _limited(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            return self.refusal("rate_limit") if self._window.admit() else await handler(request)

        return guarded

    def _gate(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            token, now = request.headers.get("token", ""), time.monotonic()
            if now - self.tokens.get(token, -self.idle) >= self.idle:
                return self.refusal("unauthorized")
            self.tokens[token] = now
            return await handler(request)

        return self._limited(guarded)

    def _reading(self, handler: Callable[[web.Request], Any]) -> Handler:
        """A question meets only the faults that are switched on for everything."""

        async def read(request: web.Request) -> web.StreamResponse:
            async def execute(kind: str | None) -> web.Response:
                del kind
                found = _answered(lambda: handler(request))
                return found if isinstance(found, web.Response) else self._told(found)

            if self.faults.standing(self.name) in {None, *OF_WRITES}:
                return await execute(None)
            return await self.with_faults(request, [], execute)

        return self._gate(read)

    def _told(self, found: Any) -> web.Response:
        return web.json_response(found) if self.bare_lists and isinstance(found, list) else _success(found)

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        async def execute(kind: str | None) -> web.Response:
            del kind
            body = await _json(request)
            if not isinstance(body, dict) or {"login", "password", "service", "version"} - body.keys():
                return _error(400, "login, password, service and version are required")
            if body["version"] != "1.0" or not isinstance(body["service"], str) or not body["service"]:
                return _error(400, "Invalid version or service")
            if (body["login"], body["password"]) != (LOGIN, PASSWORD):
                return _error(401, "Invalid login or password")
            token = uuid.uuid4().hex
            self.logins += 1
            self.tokens[token] = time.monotonic()
            return _success({"token": token})

        if self.faults.standing(self.name) in {None, "unauthorized", *OF_WRITES}:
            return await execute(None)
        return await self.with_faults(request, [], execute)

    async def _log_out(self, request: web.Request) -> web.StreamResponse:
        del self.tokens[request.headers["token"]]
        return _success([])

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        del request
        return _error(404, "Unknown route")

    # Writing

    async def _create_contact(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        return await self._making(request, rules.leads_by_email(body), lambda: self._new_contact(body))

    async def _create_lead(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        key = rules.key_of(body.get("name")) if isinstance(body, dict) else ""
        return await self._making(request, [rules.lead_of(key)], lambda: self._new_lead(body, key))

    async def _create_comment(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        text = body.get("text") if isinstance(body, dict) else None
        lead = rules.lead_of(rules.key_of(text))
        return await self._making(request, [lead], lambda: self._new_comment(request, text))

    async def _making(
        self, request: web.Request, leads: Sequence[str], make: Callable[[], Mapping[str, Any]]
    ) -> web.StreamResponse:
        async def execute(kind: str | None) -> web.Response:
            del kind  # one lead is never half of a batch
            made = _answered(make)
            return made if isinstance(made, web.Response) else _success(made)

        return await self.with_faults(request, leads, execute)

    def _new_contact(self, body: Any) -> Mapping[str, Any]:
        _refuse_if(rules.contact_problems(body))
        identity = next(self._ids)
        details = [
            {"id": str(next(self._ids)), "type": item["type"],
             "data": rules.digits(item["data"]) if item["type"] == "phone" else item["data"]}
            for item in body["details"]
        ]  # fmt: skip
        fields = [
            {"id": number, "name": rules.CONTACT_FIELDS[int(number)], "type": "string", "value": value}
            for number, value in body.get("fields", {}).items()
        ]
        known = {"name": "", "profession": "", **body}
        self.contacts[identity] = {**known, "id": identity, "details": details, "fields": fields}
        self._seen[identity] = time.monotonic() + self.lag
        return self.contacts[identity]

    def _new_lead(self, body: Any, key: str) -> Mapping[str, Any]:
        _refuse_if(rules.lead_problems(body, self._project_of))
        project = rules.project_at(body, self._project_of)
        assert project is not None  # noqa: S101 checked before anything is stored
        # A nested contact is always a new one.
        contact = self._new_contact(body["contact"])["id"] if "contact" in body else body["contact_id"]
        identity, now = next(self._ids), time.time()
        stored = {
            "id": identity,
            "contact_id": contact,
            "custom": [],
            **{k: v for k, v in body.items() if k != "contact"},
        }
        stored["custom"] = [
            {"id": custom["id"], "type": custom["type"], "name": custom["name"], "value": value}
            for custom in rules.CUSTOMS[project]
            for number, value in body.get("custom", {}).items()
            if str(custom["id"]) == number
        ]
        stored["created_at"] = datetime.fromtimestamp(now, UTC).strftime("%d.%m.%Y %H:%M")
        self.leads[identity] = StoredLead(stored, project, now, time.monotonic() + self.lag)
        if body.get("callback"):
            self.calls.append(identity)
        self.judge.created(Creation(self.name, rules.lead_of(key), key, str(identity), str(body.get("name") or "")))
        return self._shown(self.leads[identity])

    def _new_comment(self, request: web.Request, text: object) -> Mapping[str, Any]:
        lead = self.leads.get(int(request.match_info["id"]))
        if lead is None or lead.visible_at > time.monotonic():
            raise Refused(400, "Invalid lead id")
        if not isinstance(text, str) or not text.strip():
            raise Refused(400, "Text is required")
        created = datetime.now(UTC).strftime("%d.%m.%Y %H:%M:%S")
        lead.comments.append({"id": next(self._ids), "text": text, "author": {"type": "main"}, "created_at": created})
        return lead.comments[-1]

    def _project_of(self, contact: int) -> int | None:
        return self.contacts[contact]["project_id"] if contact in self.contacts else None

    # Reading

    def _search(self, request: web.Request) -> list[Mapping[str, Any]]:
        """Phones are compared by their digits. Without a filter it is an error, whatever the SDK says."""
        phone, email = request.query.get("phone"), request.query.get("email")
        if not phone and not email:
            raise Refused(400, "phone, email, max_bot_id or max_user_id is required")
        now = time.monotonic()
        wanted = {("phone", rules.digits(phone or "")), ("email", (email or "").lower())}
        return [
            contact
            for contact in self.contacts.values()
            if str(contact["project_id"]) == request.query.get("project_id") and self._seen[contact["id"]] <= now
            if wanted & {(item["type"], item["data"].lower()) for item in contact["details"]}
        ]

    def _contact(self, request: web.Request) -> Mapping[str, Any]:
        contact = self.contacts.get(int(request.match_info["id"]))
        if contact is None:
            raise Refused(404, "Contact not found")
        return contact

    def _lead(self, request: web.Request) -> StoredLead:
        lead = self.leads.get(int(request.match_info["id"]))
        if lead is None:
            raise Refused(404, "Lead not found")
        return lead

    def _visible(self) -> list[StoredLead]:
        now = time.monotonic()
        return [lead for lead in self.leads.values() if lead.visible_at <= now]

    def _leads_of(self, request: web.Request) -> list[Mapping[str, Any]]:
        """Such a list leaves the fields out."""
        contact = self._contact(request)["id"]
        leads = [lead.body for lead in self._visible() if lead.body["contact_id"] == contact]
        return [{key: value for key, value in body.items() if key != "custom"} for body in leads]

    def _list(self, request: web.Request) -> list[Mapping[str, Any]]:
        project = _known(request)
        try:
            offset, limit = (
                int(request.query.get(key, default)) for key, default in (("offset", "0"), ("limit", "20"))
            )
            since = int(request.query.get("filter[created_at_from]", "0"))
        except ValueError:
            raise Refused(400, "Invalid offset, limit or filter") from None
        if offset < 0 or not 1 <= limit <= MAX_PAGE:
            raise Refused(400, "Invalid offset or limit")
        leads = [lead for lead in self._visible() if lead.project == project and lead.created_at >= since]
        newest_first = request.query.get("sort[created_at]") == "3"
        leads.sort(key=lambda lead: int(lead.body["id"]), reverse=newest_first)
        return [self._shown(lead) for lead in leads[offset : offset + limit]]

    def _shown(self, lead: StoredLead) -> Mapping[str, Any]:
        contact = self.contacts[lead.body["contact_id"]]
        return {**lead.body, "contact": {key: contact[key] for key in ("id", "project_id", "name", "details")}}

    # What is refused

    def refusal(self, kind: str) -> web.Response:
        if kind == "rate_limit":
            return _error(503, "Too many requests", status=503 if self.status_503 else 200)
        if kind == "unauthorized":
            return _error(401, "Invalid token")
        if kind == "reject":
            return _error(400, "Invalid lead data")
        if kind == "error_body":
            return web.json_response({"status": "error", "errors": ["Unknown error"]})
        return _error(500, "Internal server error", status=500)


def _answered(make: Callable[[], Any]) -> Any:
    """What it makes or finds, or the vendor's error as a response."""
    try:
        return make()
    except Refused as refused:
        return _error(refused.code, refused.message)


def _refuse_if(problems: Iterable[str]) -> None:
    for problem in problems:
        raise Refused(400, problem)


def _known(request: web.Request) -> int:
    """The project of the path."""
    number = int(request.match_info["id"])
    if number not in rules.PROJECTS:
        raise Refused(404, "Project not found")
    return number


def _project(number: int) -> Mapping[str, Any]:
    return {"id": number, "name": rules.PROJECTS[number], "page": "https://example.com/", "domain": "example.com"}


def _fields(project: int) -> list[Mapping[str, Any]]:
    del project  # the same in each
    return [{"id": number, "name": name, "type": "string"} for number, name in rules.CONTACT_FIELDS.items()]


def _named(things: Mapping[int, str]) -> list[Mapping[str, Any]]:
    return [{"id": number, "name": name} for number, name in things.items()]


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError:
        return None


def _success(result: Any) -> web.Response:
    return web.json_response({"status": "success", "result": result})


def _error(code: int, message: str, *, status: int = 200) -> web.Response:
    body = {"status": "error", "errors": [{"code": code, "message": message}]}
    return web.json_response(body, status=status)
