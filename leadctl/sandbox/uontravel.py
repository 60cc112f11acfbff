"""U-ON.Travel: an account behind a key in the path; 10 requests a second, errors in three shapes."""

import hmac
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox import _uontravel_base as base
from leadctl.sandbox.judge import Creation, Faults, Judge, SlidingWindow
from leadctl.sandbox.vendor import HttpVendor

API_KEY = "sandbox0Key1Of2Uon3"
PAGE = 100
#: Faults of what a request wants to make: questions do not meet them.
OF_WRITES = frozenset({"reject", "error_body", "half_batch"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Reading = Callable[[web.Request], "web.Response | Awaitable[web.Response]"]


class UonTravelVendor(HttpVendor):
    """One account. The switches may be set from any thread while it runs."""

    name = "uontravel"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {"half_batch": ("delivered", "delivered")}

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        #: The boxes of the key in the cabinet.
        self.may_get = True
        self.may_post = True
        #: Whether the caller's address is missing in the key's white list: every connection is cut.
        self.locked_out = False
        #: Seconds until lists show a new lead.
        self.lag = 0.0
        #: Whether lists go by the day of arrival, not by the date that a lead claims.
        self.by_arrival = False
        #: Whether the number of a lead is kept and shown.
        self.keeps_number = True
        #: Whether "nothing found" comes as HTTP 200.
        self.empty_is_200 = False
        #: A plus is stored as a space, even where it was encoded.
        self.plus_is_lost = True
        #: Cyrillic letters are stored as question marks.
        self.cyrillic_is_lost = False
        #: Leads on a page.
        self.page = PAGE
        self.base = base.Base()
        self._window = SlidingWindow(10, 1.0, scale)

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": self.url, "api_key": API_KEY, "source": "sandbox"}

    def settings(self) -> Mapping[str, Any]:
        return {"fields": {"r_u_id": "2", "199888": "{{ lead.answers.budget }}"}}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        readings: Mapping[str, Reading] = {
            "manager.json": lambda _: self._listing("users", "u_id", "u_email", base.MANAGERS),
            "status_lead.json": lambda _: self._listing("records", "id", "name", base.STATUSES),
            "company-office.json": lambda _: self._listing("records", "id", "name", base.OFFICES),
            "company.json": lambda _: self._listing("records", "id", "name", base.COMPANIES),
            "source.json": lambda _: self._listing("records", "id", "name", {1: "site"}),
            "extended_field/{page:\\d+}.json": self._extended,
            "lead/{id:\\d+}.json": self._lead,
            "leads/{from}/{to}/{page:\\d+}.json": self._leads,
            "leads/{from}/{to}/{source:\\d+}/{page:\\d+}.json": self._leads,
            "leads/updated/{from}/{to}/{page:\\d+}.json": self._updated,
            "lead-by-client/{id:\\d+}/{page:\\d+}.json": self._by_client,
            "user/phone/{phone}.json": lambda request: self._people(0, request.match_info["phone"]),
        }
        return [
            *(web.get(f"/{{key}}/{path}", self._gate(self._reading(handler))) for path, handler in readings.items()),
            web.post("/{key}/lead/create.json", self._gate(self._create)),
            web.post("/{key}/lead/search.json", self._gate(self._reading(self._search))),
            web.post("/{key}/user/email.json", self._gate(self._reading(self._by_email))),
            web.route("*", "/{key}/{tail:.*}", self._gate(self._nothing)),
            web.route("*", "/{tail:.*}", self._nothing),
        ]

    # Who is let in

    def _gate(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self.locked_out:
                return self._cut(request)
            if not hmac.compare_digest(request.match_info["key"].encode(), API_KEY.encode()):
                return self.refusal("unauthorized")
            if self._window.admit():
                return self.refusal("rate_limit")
            if not (self.may_post if request.method == "POST" else self.may_get):
                return _error(403, f"{request.method} is not allowed for this key")
            return await handler(request)

        return guarded

    def _reading(self, handler: Reading) -> Handler:
        """A question meets only the faults that are switched on for everything."""

        async def read(request: web.Request) -> web.StreamResponse:
            async def execute(kind: str | None) -> web.Response:
                del kind
                found = handler(request)
                return found if isinstance(found, web.Response) else await found

            if self.faults.standing(self.name) in {None, *OF_WRITES}:
                return await execute(None)
            return await self.with_faults(request, [], execute)

        return read

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        """``lead/update`` is one of those, too. The text names the path, and so the key."""
        return _error(404, f'No route found for "{request.method} {request.path}"')

    # Writing

    async def _create(self, request: web.Request) -> web.StreamResponse:
        form = base.read_form(request.content_type, await request.read())
        key = base.key_of(form or {})

        async def execute(kind: str | None) -> web.Response:
            del kind  # one lead is never half of a batch
            if form is None:
                return _error(404, "Parameter u_phone is wrong")
            wrong = base.wrong_parameter(form)
            if wrong is not None:
                return _error(404, f"Parameter {wrong} is wrong")
            stored = {name: self._stored(text) for name, text in form.items()}
            number = self.base.add(stored, visible_after=self.lag, keeps_number=self.keeps_number)
            self.judge.created(
                Creation(self.name, base.lead_of(key), key, str(number), stored.get("note", ""), twin=False)
            )
            return web.json_response({"result": 200, "id": str(number), "comment": ""})

        return await self.with_faults(request, [base.lead_of(key)], execute)

    def _stored(self, text: str) -> str:
        if self.plus_is_lost:
            text = text.replace("+", " ")
        if self.cyrillic_is_lost:
            text = "".join("?" if "\u0400" <= char <= "\u04ff" else char for char in text)
        return text

    # Reading

    def _listing(self, kind: str, identity: str, name: str, things: Mapping[int, str]) -> web.Response:
        """A directory; only that of the managers says ``result``."""
        more = {"result": 200} if kind == "users" else {}
        return web.json_response({kind: [{identity: number, name: text} for number, text in things.items()], **more})

    def _extended(self, request: web.Request) -> web.Response:
        fields = [{"id": number, "section": at, "name": name} for number, (at, name) in base.EXTENDED.items()]
        return self._paged("records", fields, request.match_info["page"])

    def _lead(self, request: web.Request) -> web.Response:
        lead = self.base.leads.get(int(request.match_info["id"]))
        return self._empty() if lead is None else web.json_response({"result": 200, "lead": [lead.body]})

    def _leads(self, request: web.Request) -> web.Response:
        source = request.match_info.get("source")
        leads = self.base.visible() if source in (None, "1") else []
        days = _days(request.match_info)
        if days is None:
            return _error(404, "Parameter date_from is wrong")
        dated = [(lead, lead.arrived if self.by_arrival else lead.dated) for lead in leads]
        return self._shown([lead for lead, at in dated if days[0] <= at.date() <= days[1]], request.match_info["page"])

    def _updated(self, request: web.Request) -> web.Response:
        days = _days(request.match_info)
        if days is None:
            return _error(404, "Parameter date_from is wrong")
        leads = [lead for lead in self.base.visible() if days[0] <= lead.arrived.date() <= days[1]]
        return self._shown(leads, request.match_info["page"])

    def _by_client(self, request: web.Request) -> web.Response:
        client = int(request.match_info["id"])
        leads = [lead for lead in self.base.visible() if lead.body["client_id"] == client]
        return self._shown(leads, request.match_info["page"])

    async def _search(self, request: web.Request) -> web.Response:
        """There is no filter by phone or by number; what it does not know, it ignores."""
        form = base.read_form(request.content_type, await request.read()) or {}
        since, until = form.get("date_create_from", "1990-01-01"), form.get("date_create_to", "2999-12-31")
        managers = {name for name in form.get("manager_ids", "").split(",") if name}
        leads = [
            lead
            for lead in self.base.visible()
            if since <= f"{lead.arrived:%Y-%m-%d}" <= until and (not managers or lead.body["manager_id"] in managers)
        ]
        return self._shown(leads, form.get("page", "1"))

    async def _by_email(self, request: web.Request) -> web.Response:
        form = base.read_form(request.content_type, await request.read()) or {}
        return self._people(1, (form.get("email") or form.get("u_email") or "").lower())

    def _people(self, way: int, wanted: str) -> web.Response:
        found = [{"u_id": number} for number, ways in list(self.base.people.items()) if ways[way] == wanted]
        return web.json_response({"users": found, "result": 200}) if found and wanted else self._empty()

    def _shown(self, leads: Sequence[base.StoredLead], page: str) -> web.Response:
        """The newest first."""
        return self._paged("leads", [lead.body for lead in reversed(leads)], page)

    def _paged(self, kind: str, items: Sequence[Mapping[str, Any]], page: str) -> web.Response:
        number = int(page) if page.isdecimal() else 0
        shown = items[(number - 1) * self.page : number * self.page] if number else []
        if not shown:
            return self._empty()
        return web.json_response({"result": 200, kind: shown, "pages_all": -(-len(items) // self.page)})

    # What is refused

    def _empty(self) -> web.Response:
        status = 200 if self.empty_is_200 else 404
        return web.json_response({"result": 404, "message": "Records not found"}, status=status)

    def refusal(self, kind: str) -> web.Response:
        if kind == "rate_limit":
            return web.Response(status=429, text="Too Many Requests")
        if kind == "unauthorized":
            return _error(403, "API key is wrong")
        if kind == "reject":
            return web.Response(status=404, text="Parameter u_email is wrong", content_type="text/html")
        if kind == "error_body":
            return web.json_response({"result": "500", "message": "Server error"})
        return web.Response(status=500, text="500 Server error")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)


def _days(found: Mapping[str, str]) -> tuple[date, date] | None:
    try:
        return date.fromisoformat(found["from"]), date.fromisoformat(found["to"])
    except ValueError:
        return None
