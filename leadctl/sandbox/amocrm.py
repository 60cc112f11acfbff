"""amoCRM's API v4: leads with contacts, notes, lists, rotating tokens, 7 requests a second and the ban after it."""

import itertools
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from leadctl.sandbox import _amocrm_rules as rules
from leadctl.sandbox.judge import Creation, Faults, Judge, SlidingWindow
from leadctl.sandbox.vendor import HttpVendor

LONG_LIVED = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.sandbox-long-lived"
MAX_LEADS = 50
MAX_NOTES = 250
MAX_PAGE = 250
#: So many refusals within a minute end in a ban.
BAN_AFTER = 30
UNSORTED = 33929746

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class StoredLead:
    """A lead of the account; lists show it from ``visible_at`` (monotonic seconds) on."""

    body: dict[str, Any]
    contact_id: int | None
    ways: frozenset[str]
    visible_at: float
    notes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def id(self) -> int:
        return int(self.body["id"])


class AmoCrmVendor(HttpVendor):
    """One account. The switches may be set from any thread while it runs."""

    name = "amocrm"

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.oauth = rules.TokenOffice()
        #: Seconds until lists show what was created.
        self.index_lag = 0.0
        #: Whether a lead of a known phone or e-mail is merged into the old one.
        self.duplicate_control = False
        #: Whether leads with ``metadata`` land in Unsorted.
        self.unsorted_on = False
        #: Whether a 429 is the gateway's HTML, which names no wait.
        self.html_429 = False
        self.banned = False
        self.leads: dict[int, StoredLead] = {}
        self._ids = itertools.count(9_774_766)
        self._contact_ids = itertools.count(12_117_258)
        self._note_ids = itertools.count(25_100_001)
        self._windows: dict[str, SlidingWindow] = {}
        self._account_window = SlidingWindow(50, 1.0, scale)
        self._refusals: deque[float] = deque()
        self._first_key = ""

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": self.url, "access_token": LONG_LIVED}

    def oauth_credential(self, expires_at: float | None = None) -> Mapping[str, Any]:
        """A credential whose token can be refreshed."""
        data = {
            "base_url": self.url,
            "access_token": self.oauth.access_token,
            "refresh_token": self.oauth.refresh_token,
            "client_id": self.oauth.client_id,
            "client_secret": self.oauth.client_secret,
            "redirect_uri": self.oauth.redirect_uri,
        }
        return data if expires_at is None else {**data, "expires_at": expires_at}

    def settings(self) -> Mapping[str, Any]:
        return {"pipeline_id": 3383152, "status_id": 33929749, "external_id_field_id": 771001}

    def notes(self) -> list[dict[str, Any]]:
        """Every note of the account."""
        return [note for lead in list(self.leads.values()) for note in lead.notes]

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        return [
            web.post("/oauth2/access_token", self._token),
            web.post("/api/v4/leads/complex", self._gate(self._create_leads)),
            web.post("/api/v4/leads/notes", self._gate(self._create_notes)),
            web.get("/api/v4/leads", self._gate(self._reading(self._list_leads))),
            web.get("/api/v4/leads/{id:\\d+}/notes", self._gate(self._reading(self._list_notes))),
            web.get("/api/v4/account", self._gate(self._reading(self._account))),
        ]

    # Who is let in

    def _gate(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if self.banned:
                return _forbidden()
            window = self._windows.setdefault(token, SlidingWindow(7, 1.0, self.scale))
            if window.admit() or self._account_window.admit():
                return self._too_many()
            if token != LONG_LIVED and not self.oauth.admit(token):
                return self.refusal("unauthorized")
            return await handler(request)

        return guarded

    def _too_many(self) -> web.Response:
        now = time.monotonic()
        self._refusals.append(now)
        while self._refusals[0] < now - 60 / self.scale:
            self._refusals.popleft()
        self.banned = len(self._refusals) > BAN_AFTER
        return self.refusal("rate_limit")

    def _reading(self, handler: Callable[[web.Request], web.Response]) -> Handler:
        """A read meets only the faults that are switched on for everything."""

        async def read(request: web.Request) -> web.StreamResponse:
            async def execute(kind: str | None) -> web.Response:
                del kind
                return handler(request)

            if self.faults.standing(self.name):
                return await self.with_faults(request, [], execute)
            return await execute(None)

        return read

    async def _token(self, request: web.Request) -> web.StreamResponse:
        async def execute(kind: str | None) -> web.Response:
            del kind
            body = await _json(request)
            pair = self.oauth.refresh(body) if isinstance(body, dict) else None
            return web.json_response(pair) if pair else _revoked()

        if self.banned:
            return _forbidden()
        if self.faults.standing(self.name) not in (None, "unauthorized", "reject", "error_body"):
            return await self.with_faults(request, [], execute)
        return await execute(None)

    # Writing

    async def _create_leads(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        items = body if isinstance(body, list) else []

        async def execute(kind: str | None) -> web.Response:
            refused = _refused_batch(body, MAX_LEADS, rules.lead_problems)
            if refused is not None:
                return refused
            taken = items[: len(items) // 2] if kind == "half_batch" else items
            return _answer(self._store(taken))

        return await self._under_faults(request, items, execute)

    async def _create_notes(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        items = body if isinstance(body, list) else []

        async def execute(kind: str | None) -> web.Response:
            refused = _refused_batch(body, MAX_NOTES, lambda item: rules.note_problems(item, self.leads.__contains__))
            if refused is not None:
                return refused
            taken = items[: len(items) // 2] if kind == "half_batch" else items
            return _answer({"_links": {}, "_embedded": {"notes": [self._store_note(item) for item in taken]}})

        return await self._under_faults(request, items, execute)

    async def _under_faults(
        self, request: web.Request, items: Sequence[Any], execute: Callable[[str | None], Awaitable[web.Response]]
    ) -> web.StreamResponse:
        keys = [rules.key_of(item) for item in items]
        # Read by refusal() before anything else can run: with_faults does not wait before it refuses.
        self._first_key = str(items[0].get("request_id", "0")) if items and isinstance(items[0], dict) else "0"
        return await self.with_faults(request, [rules.lead_of(key) for key in keys], execute)

    def _store(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Store leads; several that are merged into one old lead share a line of the answer."""
        old = list(self.leads.values()) if self.duplicate_control else []
        answers: dict[int, dict[str, Any]] = {}
        for item in items:
            key, ways = rules.key_of(item), _ways(item)
            twin = next((lead for lead in old if lead.ways & ways), None)
            stored = twin or self._new_lead(item, ways)
            remote_id = str(stored.id)
            self.judge.created(
                Creation(self.name, rules.lead_of(key), key, remote_id, str(item.get("name") or ""), twin is not None)
            )
            line = answers.setdefault(
                stored.id,
                {"id": stored.id, "contact_id": stored.contact_id, "company_id": None, "request_id": []},
            )
            line["request_id"].append(str(item.get("request_id", len(answers) - 1)))
            line["merged"] = twin is not None
        return list(answers.values())

    def _new_lead(self, item: Mapping[str, Any], ways: frozenset[str]) -> StoredLead:
        embedded = item.get("_embedded") or {}
        contacts = embedded.get("contacts") or []
        contact_id = (contacts[0].get("id") or next(self._contact_ids)) if contacts else None
        now = int(time.time())
        body = {
            "id": next(self._ids),
            "name": item.get("name") or "",
            "price": item.get("price", 0),
            "pipeline_id": item.get("pipeline_id", 3383152),
            "status_id": UNSORTED if self.unsorted_on and "metadata" in embedded else item.get("status_id", 33929749),
            "responsible_user_id": item.get("responsible_user_id", 504141),
            "created_at": item.get("created_at", now),
            "updated_at": now,
            "custom_fields_values": [_stored_value(entry) for entry in item.get("custom_fields_values") or []] or None,
            "_embedded": {"tags": embedded.get("tags") or []},
        }
        lead = StoredLead(body, contact_id, ways, time.monotonic() + self.index_lag)
        self.leads[lead.id] = lead
        return lead

    def _store_note(self, item: Mapping[str, Any]) -> dict[str, Any]:
        note = {"id": next(self._note_ids), **item}
        self.leads[item["entity_id"]].notes.append({**note, "visible_at": time.monotonic() + self.index_lag})
        return {key: note[key] for key in ("id", "entity_id", "request_id") if key in note}

    # Reading

    def _account(self, request: web.Request) -> web.Response:
        del request
        return _answer(
            {
                "id": 30_000_001,
                "name": "Sandbox",
                "subdomain": "sandbox",
                "current_user_id": 504141,
                "country": "RU",
                "currency": "RUB",
                "is_unsorted_on": self.unsorted_on,
                "is_api_filter_enabled": False,
            }
        )

    def _list_leads(self, request: web.Request) -> web.Response:
        """Filters are ignored without a word, as on an account that has not paid for them."""
        now = time.monotonic()
        leads = [lead for lead in self.leads.values() if lead.visible_at <= now]
        if query := request.query.get("query"):
            leads = [lead for lead in leads if query in json.dumps(lead.body, ensure_ascii=False) or query in lead.ways]
        for key in ("created_at", "updated_at", "id"):
            if order := request.query.get(f"order[{key}]"):
                leads.sort(key=lambda lead: int(lead.body[key]), reverse=order == "desc")
                break
        with_contacts = "contacts" in request.query.get("with", "").split(",")
        return self._page(request, "leads", [_shown(lead, with_contacts) for lead in leads])

    def _list_notes(self, request: web.Request) -> web.Response:
        lead = self.leads.get(int(request.match_info["id"]))
        if lead is None:
            return _problem(404, "Not Found", "Entity not found")
        now = time.monotonic()
        notes = [
            {key: value for key, value in note.items() if key not in ("visible_at", "request_id")}
            for note in lead.notes
            if note["visible_at"] <= now
        ]
        notes.sort(key=lambda note: int(note["id"]), reverse=request.query.get("order[id]") == "desc")
        return self._page(request, "notes", notes)

    def _page(self, request: web.Request, kind: str, items: Sequence[Mapping[str, Any]]) -> web.Response:
        try:
            number, size = int(request.query.get("page", "1")), int(request.query.get("limit", "50"))
        except ValueError:
            return _problem(400, "Bad Request", "Invalid page or limit")
        if not 1 <= size <= MAX_PAGE:
            return _problem(422, "Unprocessable Entity", f"Limit {MAX_PAGE} per page")
        begin = (max(1, number) - 1) * size
        shown = items[begin : begin + size]
        if not shown:
            return web.Response(status=204)
        links = {"self": {"href": str(request.url)}}
        if begin + size < len(items):
            links["next"] = {"href": str(request.url.update_query({"page": number + 1}))}
        return _answer({"_page": number, "_links": links, "_embedded": {kind: shown}})

    # What is refused

    def refusal(self, kind: str) -> web.Response:
        if kind == "rate_limit":
            return self._rate_limit()
        if kind == "unauthorized":
            return _problem(401, "Unauthorized", "Invalid user name or password")
        if kind == "reject":
            error = {"code": "InvalidType", "path": "name", "detail": "This value should be of type string."}
            return _invalid([{"request_id": self._first_key, "errors": [error]}])
        if kind == "error_body":
            return _answer({"title": "Error", "status": 0, "detail": "Something went wrong"})
        detail = "Our team are probably already fixing it"
        return _problem(500, "ErrInternalServer", detail, trace_id="0a1b2c3d4e5f")

    def _rate_limit(self) -> web.Response:
        if self.html_429:
            return _html(429, "429 Too Many Requests")
        detail = "You have sent too many requests in a given amount of time. Please try again later."
        # The vendor's page shows 300 s; here it is a second, so that a demonstration does not take an hour.
        return _problem(429, "Too Many Requests", detail, retry_after=1 / self.scale)


def _refused_batch(body: Any, most: int, problems: Callable[[Any], Iterable[rules.Problem]]) -> web.Response | None:
    """The refusal of a whole request: nothing of it is stored."""
    if not isinstance(body, list):
        return _problem(400, "Bad Request", "Request body must be an array")
    if not body:
        return _problem(400, "Bad Request", "Request data can not be empty")
    if len(body) > most:
        return _problem(422, "Unprocessable Entity", f"Limit {most} per page")
    named = []
    for index, item in enumerate(body):
        if errors := list(problems(item)):
            request_id = item.get("request_id", str(index)) if isinstance(item, dict) else str(index)
            named.append({"request_id": request_id, "errors": errors})
    return _invalid(named) if named else None


def _ways(item: Mapping[str, Any]) -> frozenset[str]:
    """The phones and addresses of the lead's contact."""
    contacts = (item.get("_embedded") or {}).get("contacts") or []
    entries = [entry for contact in contacts for entry in contact.get("custom_fields_values") or []]
    return frozenset(str(value["value"]) for entry in entries for value in entry["values"])


def _stored_value(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = rules.find_field(entry, rules.LEAD_FIELDS)
    assert found is not None  # noqa: S101 checked before anything is stored
    return {"field_id": found.id, "field_code": found.code, "field_type": found.type, "values": entry["values"]}


def _shown(lead: StoredLead, with_contacts: bool) -> dict[str, Any]:
    embedded = dict(lead.body["_embedded"])
    if with_contacts:
        embedded["contacts"] = [{"id": lead.contact_id, "is_main": True}] if lead.contact_id else []
    return {**lead.body, "_embedded": embedded}


async def _json(request: web.Request) -> Any:
    try:
        return await request.json()
    except ValueError:
        return None


def _answer(body: Any) -> web.Response:
    return web.json_response(body, content_type="application/hal+json")


def _problem(status: int, title: str, detail: str, **more: Any) -> web.Response:
    body = {"title": title, "type": f"https://httpstatus.es/{status}", "status": status, "detail": detail, **more}
    return web.json_response(body, status=status, content_type="application/problem+json")


def _invalid(named: Sequence[Mapping[str, Any]]) -> web.Response:
    return _problem(400, "Bad Request", "Request validation failed", **{"validation-errors": named})


def _revoked() -> web.Response:
    body = {
        "hint": "Token has been revoked",
        "title": "Некорректный запрос",
        "type": "https://developers.amocrm.ru/v3/errors/OAuthProblemJson",
        "status": 401,
        "detail": "В запросе отсутствует ряд параметров или параметры невалидны",
    }
    return web.json_response(body, status=401, content_type="application/problem+json")


def _html(status: int, title: str) -> web.Response:
    text = f"<html><head><title>{title}</title></head><body><center>nginx</center></body></html>"
    return web.Response(status=status, text=text, content_type="text/html")


def _forbidden() -> web.Response:
    return _html(403, "403 Forbidden")
