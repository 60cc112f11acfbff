"""SendPulse: an account with address books and a CRM; tokens that end, and 10 requests a second."""

import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox import _sendpulse_crm as crm
from leadctl.sandbox._sendpulse_books import Books, Broken, Refused, leads_of
from leadctl.sandbox.judge import Creation, Faults, Judge, SlidingWindow
from leadctl.sandbox.vendor import HttpVendor

API_KEY = "sp_apikey_5andb0x_0123456789abcdef"
CLIENT_ID = "5andb0x0c11ent0id"
CLIENT_SECRET = "5andb0x0c11ent05ecret"  # noqa: S105 made up
BOOK = 88123
BROKEN_PAGE = "<html><head><title>500 Internal Server Error</title></head></html>"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Path parameters that are numbers, and the body.
Method = Callable[[tuple[int, ...], Any], Any]


class SendPulseVendor(HttpVendor):
    """One account. The switches may be set from any thread while it runs."""

    name = "sendpulse"
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {
        "error_body": ("rejected", "rejected"),  # the code counts, whatever the status
        "half_batch": ("delivered", "delivered"),  # a book takes all or nothing
    }

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.books = Books({BOOK: "Leads", 88124: "Partners"})
        self.crm = crm.CrmStore()
        #: Seconds that a token lives.
        self.token_life = 3600
        self.logins = 0
        #: What every request is refused with (a plan that has run out).
        self.refuse_all: Refused | None = None
        self._tokens: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._second = SlidingWindow(10, 1.0, scale)
        self._minute = SlidingWindow(1000, 60.0, scale)

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": self.url, "api_key": API_KEY, "address_book_id": BOOK}

    def client_credential(self) -> Mapping[str, Any]:
        """The same account, by the pair that is exchanged for tokens."""
        login = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        return {"base_url": self.url, **login, "address_book_id": BOOK}

    def crm_settings(self) -> Mapping[str, Any]:
        """``settings`` of a credential that makes deals."""
        places = {"pipeline_id": 10, "step_id": 11, "responsible_id": 123}
        return {"crm": places, "fields": {"7": "{{ lead.answers.budget }}"}}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        base, books, store = "/crm/v1", "/addressbooks/{a:\\d+}", self.crm
        read, write = self._reading, self._writing
        return [
            web.post("/oauth/access_token", self._limited(self._log_in)),
            read("GET", "/user/info", lambda _, __: {"id": crm.OWNER, "email": "owner@example.com", "name": "Owner"}),
            read("GET", books, lambda ids, _: self.books.shown(ids[0])),
            web.get(f"{books}/emails/{{email}}", self._gate(self._subscriber)),
            web.get(f"{books}/variables/{{name}}/{{value}}", self._gate(self._by_variable)),
            write(f"{books}/emails", self._add),
            read("POST", f"{books}/emails/variable", lambda ids, body: self.books.change(ids[0], body)),
            read("PUT", f"{books}/phone", lambda ids, body: self.books.phone(ids[0], body)),
            read("GET", f"{base}/users", lambda _, __: _data(crm.users())),
            read("GET", f"{base}/pipelines", lambda _, __: _data(crm.pipelines())),
            read("GET", f"{base}/pipelines/{{a:\\d+}}/attributes", lambda ids, _: _data(crm.attributes_of(ids[0]))),
            read("POST", f"{base}/contacts/get-list", lambda _, body: _data(store.by_phone(_object(body)))),
            read("POST", f"{base}/contacts/get-list-by-email", lambda _, body: _data(store.by_email(_object(body)))),
            write(f"{base}/contacts/create", self._create_contact),
            read("GET", f"{base}/contacts/external/{{a:\\d+}}", lambda ids, _: _data(store.external(str(ids[0])))),
            read("GET", f"{base}/contacts/{{a:\\d+}}", lambda ids, _: _data(store.contact(ids[0]))),
            read("GET", f"{base}/contacts/{{a:\\d+}}/deals", lambda ids, _: _data(store.deals_of(ids[0]))),
            write(f"{base}/contacts/{{a:\\d+}}/phones", _inside(store.add_phone)),
            write(f"{base}/contacts/{{a:\\d+}}/emails", _inside(store.add_emails)),
            read("POST", f"{base}/deals/get-list", lambda _, body: store.deals_like(_object(body))),
            write(f"{base}/deals", self._create_deal),
            read("GET", f"{base}/deals/{{a:\\d+}}/comments", lambda ids, _: _data(self._comments(ids[0]))),
            write(f"{base}/deals/{{a:\\d+}}/comments", self._create_comment),
            web.route("*", "/{tail:.*}", self._gate(self._nothing)),
        ]  # fmt: skip

    def refusal(self, kind: str) -> web.Response:
        match kind:
            case "rate_limit":
                return _error(Refused(429, 2020202020, "Too many requests per second"))
            case "unauthorized":
                return _error(Refused(401, 401, "Unauthorized!"))
            case "server_error":
                return web.Response(status=500, text=BROKEN_PAGE, content_type="text/html")
        message = {"message": "Argument email is invalid", "error_code": 422}
        return web.json_response(message, status=422 if kind == "reject" else 200)

    # Who is let in

    def _limited(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._second.admit():
                return self.refusal("rate_limit")
            if self._minute.admit():
                return web.json_response({"message": "Too Many Requests"}, status=429)
            return await handler(request)

        return guarded

    def _gate(self, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if token != API_KEY and self._tokens.get(token, 0.0) <= time.monotonic():
                return self.refusal("unauthorized")
            if self.refuse_all is not None:
                return _error(self.refuse_all)
            return await handler(request)

        return self._limited(guarded)

    def _reading(self, verb: str, path: str, method: Method) -> web.AbstractRouteDef:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = await _json(request)
            standing = self.faults.standing(self.name)
            if standing in (None, "reject", "error_body", "half_batch"):  # these are of what is made
                return self._answer(request, method, body)
            return await self.with_faults(request, [], self._executed(request, method, body))

        return web.route(verb, path, self._gate(handler))

    def _writing(self, path: str, method: Method) -> web.AbstractRouteDef:
        async def handler(request: web.Request) -> web.StreamResponse:
            body = await _json(request)
            leads = _leads(body)
            if not leads and not self.faults.standing(self.name):
                return self._answer(request, method, body)
            return await self.with_faults(request, leads, self._executed(request, method, body))

        return web.post(path, self._gate(handler))

    def _executed(
        self, request: web.Request, method: Method, body: Any
    ) -> Callable[[str | None], Awaitable[web.Response]]:
        async def execute(kind: str | None) -> web.Response:
            del kind  # nothing here is half of a batch
            return self._answer(request, method, body)

        return execute

    def _answer(self, request: web.Request, method: Method, body: Any) -> web.Response:
        ids = tuple(int(value) for value in request.match_info.values())
        try:
            return web.json_response(method(ids, body))
        except Refused as refused:
            in_crm = request.path.startswith("/crm/") and refused.code is None
            return _missing(refused) if in_crm else _error(refused)
        except Broken:
            return self.refusal("server_error")

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        given = body if isinstance(body, dict) else {}
        if given.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type", "message": "Wrong grant"}, status=400)
        if (given.get("client_id"), given.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            text = "Client authentication failed"
            return web.json_response(
                {"error": "invalid_client", "error_description": text, "message": text}, status=401
            )
        self.logins += 1
        token = f"sandbox-token-{next(self._numbers):06}"
        self._tokens[token] = time.monotonic() + self.token_life
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": self.token_life})

    def end_tokens(self) -> None:
        """All tokens that were given end now."""
        self._tokens.clear()

    # What is made and shown

    def _add(self, ids: tuple[int, ...], body: Any) -> Any:
        for subscriber, twin in self.books.add(ids[0], body):
            values = subscriber.variables
            lead, key = str(values.get("lead_id", "")), str(values.get("leadctl_key", ""))
            self.judge.created(Creation(self.name, lead, key, str(subscriber.number), subscriber.email, twin=twin))
        return {"result": True}

    def _create_contact(self, ids: tuple[int, ...], body: Any) -> Any:
        del ids
        contact = self.crm.create_contact(_object(body))
        number, name = contact["externalContactId"], contact["firstName"]
        self.judge.created(Creation(f"{self.name}:contact", number, number, str(contact["id"]), name))
        return _data(contact)

    def _create_deal(self, ids: tuple[int, ...], body: Any) -> Any:
        del ids
        deal = self.crm.create_deal(_object(body))
        name = deal["name"]
        self.judge.created(Creation(self.name, crm.lead_in(name), crm.key_in(name), str(deal["id"]), name))
        return _data({key: value for key, value in deal.items() if key != "contact"})

    def _create_comment(self, ids: tuple[int, ...], body: Any) -> Any:
        comment = self.crm.add_comment(ids[0], _object(body))
        text = comment["eventData"]["text"]
        made = Creation(f"{self.name}:comment", crm.lead_in(text), crm.key_in(text), str(comment["id"]), text)
        self.judge.created(made)
        return _data(comment)

    def _comments(self, deal: int) -> list[dict[str, Any]]:
        self.crm.deal(deal)
        return self.crm.comments[deal]

    async def _subscriber(self, request: web.Request) -> web.StreamResponse:
        book, email = int(request.match_info["a"]), request.match_info["email"]
        try:
            return web.json_response(self.books.one(book, email).shown(book))
        except Refused as refused:
            return _error(refused)

    async def _by_variable(self, request: web.Request) -> web.StreamResponse:
        book, name, value = (request.match_info[key] for key in ("a", "name", "value"))
        try:
            return web.json_response(self.books.by_variable(int(book), name, value))
        except Refused as refused:
            return _error(refused)

    async def _nothing(self, request: web.Request) -> web.StreamResponse:
        del request
        return _error(Refused(404, None, "Not found"))


async def _json(request: web.Request) -> Any:
    try:
        return json.loads(await request.read() or b"null")
    except ValueError:
        return None


def _object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise Refused(422, 422, "The body must be an object")
    return body


def _leads(body: Any) -> Sequence[str]:
    """The leads that a request would make something of: of a book, a deal, or a comment."""
    named = body if isinstance(body, dict) else {}
    found = [lead for key in ("name", "message") if (lead := crm.lead_in(named.get(key, "")))]
    return found or leads_of(body)


def _data(value: Any) -> dict[str, Any]:
    return {"data": value}


def _inside(method: Callable[[int, Mapping[str, Any]], Any]) -> Method:
    return lambda ids, body: _data(method(ids[0], _object(body)))


def _error(refused: Refused) -> web.Response:
    code = {} if refused.code is None else {"error_code": refused.code}
    return web.json_response({"message": refused.message, **code}, status=refused.status)


def _missing(refused: Refused) -> web.Response:
    return web.json_response({"data": {"code": refused.status, "message": refused.message}}, status=refused.status)
