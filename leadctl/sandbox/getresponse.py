"""GetResponse: an account whose API queues contacts and answers 202; an address is in a list once."""

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from aiohttp import web

from leadctl.sandbox._getresponse_base import TAGS, Base, Contact, Refused, invalid, obj
from leadctl.sandbox.judge import Creation, Faults, Judge, SlidingWindow
from leadctl.sandbox.vendor import HttpVendor

API_KEY = "5andb0xgetresp0nse0key1example2a"
OWNER = "owner@example.com"
MAX_BATCH = 1000
MAX_IN_FLIGHT = 10
#: ``lc-{installation}-{lead}-{credential}[-{n}]``
_KEY = re.compile(r"lc-[^-]+-(.+?)-[^-]+(?:-\d+)?")
#: Status, description and message of a code.
CODES: Mapping[int, tuple[int, str, str]] = {
    1: (500, "Internal error", "Internal error, please try again later"),
    1000: (400, "General error of validation process, more details should be in context section",
           "Validation error, see context section for more information"),
    1001: (400, "Related resource not found", "Resource by given id cannot be found"),
    1002: (400, "Resource state forbids that kind of action", "Cannot add contact that is blocked"),
    1003: (400, "Wrong format of a parameter", "Value has a wrong format"),
    1004: (400, "Array is too short or too long", "Too many items"),
    1005: (400, "Empty value", "Value must not be empty"),
    1006: (400, "Wrong type of a parameter", "Value has a wrong type"),
    1007: (400, "Wrong length of a parameter", "Value is too long"),
    1008: (409, "There is another resource with the same value of unique property",
           "Property value is already taken"),
    1013: (404, "The requested resource was not found", "Resource not found"),
    1014: (401, "Problem during authentication process, check headers!",
           "Unable to authenticate request. Check credentials or authentication method details"),
    1015: (429, "Too many request to API, quota reached, please wait till next quota window",
           "You have reached your requests limit for this time window, please wait..."),
    1016: (403, "Temporary block", "Access to API is blocked for a while"),
    1017: (403, "Permanent block", "Access to API is blocked"),
    1019: (503, "Maintenance", "Service unavailable, please try again later"),
    1021: (400, "Wrong headers", "Check the headers of the request"),
    1023: (403, "No permission", "No permission for this account"),
    1024: (404, "Domain not found", "There is no such domain"),
    1027: (400, "Limit of contacts", "Contact limit of the plan is reached"),
}  # fmt: skip
#: What the faults of the judge are here.
FAULT_CODES = {"rate_limit": 1015, "unauthorized": 1014, "server_error": 1, "reject": 1002, "error_body": 1019}

#: The request, and its JSON body → status and JSON of the answer.
Method = Callable[[web.Request, Any], tuple[int, Any]]


class GetResponseVendor(HttpVendor):
    """One account. The switches may be set from any thread while it runs."""

    name = "getresponse"
    #: Where the first request succeeds after all, all that is known is that it was accepted.
    endings: ClassVar[Mapping[str, tuple[str, str]]] = {
        **dict.fromkeys(("rate_limit", "broken_answer", "half_batch"), ("accepted", "accepted")),
        **dict.fromkeys(("server_error", "bad_gateway", "reset_before"), ("accepted", "unknown")),
        "error_body": ("accepted", "failed"),
    }

    def __init__(self, judge: Judge, faults: Faults, *, scale: float = 1.0) -> None:
        super().__init__(judge, faults, scale=scale)
        self.base = Base()
        #: Of GetResponse MAX: the domain that ``X-Domain`` must name.
        self.domain: str | None = None
        #: A wrong key is answered with 401 here, with 403 there.
        self.wrong_key_status = 401
        #: A code that every request with the right key is answered with.
        self.failing: int | None = None
        self._second = SlidingWindow(80, 1.0, scale)
        self._frame = SlidingWindow(30_000, 600.0, scale)
        self._batches = (SlidingWindow(1, 1.0, scale), SlidingWindow(80, 600.0, scale))
        self._in_flight = 0
        self._stored: set[str] = set()

    def credential(self) -> Mapping[str, Any]:
        return {"base_url": f"{self.url}/v3", "api_key": API_KEY, "campaign_id": "p86zQ"}

    def settings(self) -> Mapping[str, Any]:
        return {"double_optin": False, "fields": {"budget": "{{ lead.answers.budget }}"}}

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        contact = "/v3/contacts/{id}"
        read, write = self._read, self._write
        return [
            read("GET", "/v3/accounts", lambda _, __: (200, {"accountId": "VfEj6", "email": OWNER})),
            read("GET", "/v3/campaigns", lambda _, __: (200, [self._list(token) for token in self.base.lists])),
            read("GET", "/v3/campaigns/{id}", self._campaign),
            read("GET", "/v3/custom-fields", self._custom_fields),
            read("POST", "/v3/custom-fields", self._make_field),
            read("GET", "/v3/tags", lambda _, __: (200, [{"tagId": key, "name": name} for key, name in TAGS.items()])),
            read("GET", "/v3/contacts", self._contacts),
            write("/v3/contacts", self._add),
            write("/v3/contacts/batch", self._add_many),
            read("GET", contact, lambda request, _: (200, self._details(self._one(request)))),
            read("DELETE", contact, self._remove),
            write(contact, self._replace),
            write(f"{contact}/custom-fields", self._upsert),
            read("POST", f"{contact}/tags", self._tag),
            read("POST", "/v3/search-contacts/contacts", self._search),
            web.route("*", "/{tail:.*}", self._gate(_nothing)),
        ]

    def refusal(self, kind: str) -> web.Response:
        return self._error(Refused(FAULT_CODES[kind], **self._details_of(FAULT_CODES[kind])))

    # Who is let in

    def _gate(self, handler: Callable[[web.Request, Any], Awaitable[web.StreamResponse]]) -> Callable[..., Any]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            self._in_flight += 1
            try:
                return await handler(request, await self._admitted(request))
            except Refused as refused:
                return self._error(refused)
            finally:
                self._in_flight -= 1

        return guarded

    async def _admitted(self, request: web.Request) -> Any:
        """The body of a request that is let in. Raises Refused."""
        given = request.headers.get("X-Auth-Token", "")
        if given != f"api-key {API_KEY}":
            raise Refused(1014, authenticationType="auth_token", sentToken=given)
        domain = request.headers.get("X-Domain")
        if (domain is None) != (self.domain is None):
            raise Refused(1021, header="X-Domain")
        if domain != self.domain:
            raise Refused(1024, domain=domain)
        windows = [self._second, self._frame, *(self._batches if request.path.endswith("/contacts/batch") else ())]
        if self._in_flight > MAX_IN_FLIGHT or any(window.admit() for window in windows):
            raise Refused(1015, **self._details_of(1015))
        if self.failing is not None:
            raise Refused(self.failing)
        if request.method != "POST":
            return None
        if request.content_type != "application/json":
            raise Refused(1021, header="Content-Type")
        try:
            return json.loads(await request.read())
        except ValueError:
            raise invalid("body", "Not a JSON document") from None

    def _read(self, verb: str, path: str, method: Method) -> web.AbstractRouteDef:
        async def handler(request: web.Request, body: Any) -> web.StreamResponse:
            standing = self.faults.standing(self.name)
            execute = self._executed(request, method, body)
            if standing in (None, "reject", "half_batch"):  # these are of what is made
                return await execute(None)
            return await self.with_faults(request, [], execute)

        return web.route(verb, path, self._gate(handler))

    def _write(self, path: str, method: Method) -> web.AbstractRouteDef:
        async def handler(request: web.Request, body: Any) -> web.StreamResponse:
            return await self.with_faults(request, _leads(body), self._executed(request, method, body))

        return web.post(path, self._gate(handler))

    def _executed(
        self, request: web.Request, method: Method, body: Any
    ) -> Callable[[str | None], Awaitable[web.Response]]:
        async def execute(kind: str | None) -> web.Response:
            if kind == "half_batch" and isinstance(body, dict) and "contacts" in body:
                body["contacts"] = body["contacts"][: len(body["contacts"]) // 2]
            try:
                status, answer = method(request, body)
            except Refused as refused:
                return self._error(refused)
            if answer is None:
                return web.Response(status=status, headers=self._rates())
            return web.json_response(answer, status=status, headers=self._rates())

        return execute

    # Making

    def _add(self, request: web.Request, body: Any) -> tuple[int, Any]:
        del request
        item = dict(obj(body))
        token = self.base.check_list(obj(item.pop("campaign", {}), "campaign").get("campaignId"))
        tags = [str(obj(tag, "tags").get("tagId")) for tag in item.get("tags", [])]
        self.base.check(item)
        self._queue(token, item, self.base.check_tags(tags))
        return 202, None

    def _add_many(self, request: web.Request, body: Any) -> tuple[int, Any]:
        """All or none: what the vendor does with a mixed batch is not documented."""
        del request
        items = obj(body).get("contacts")
        token = self.base.check_list(obj(body).get("campaignId"))
        if not isinstance(items, list) or not 1 <= len(items) <= MAX_BATCH:
            raise invalid("contacts", f"Expected 1 to {MAX_BATCH} contacts", 1004)
        for item in items:
            self.base.check(obj(item, "contacts"))
            if (there := self.base.find(item["email"], token)) and there.is_shown:
                raise Refused(1008, value=item["email"])
        for item in items:
            self._queue(token, item, self.base.check_tags(obj(item.get("tags", {}), "tags").get("ids", [])))
        return 202, None

    def _queue(self, token: str, item: Mapping[str, Any], tags: Sequence[str]) -> None:
        contact, new = self.base.add(token, item, tags)
        sent = self.base.check_values(item.get("customFieldValues", []))
        key = _text(sent, "kL6Nh")
        if contact is not None and (new or (key and key in self._stored)):  # merged with another's: nothing is made
            self._judge(contact, sent)

    def _upsert(self, request: web.Request, body: Any) -> tuple[int, Any]:
        contact = self._one(request)
        sent = self.base.check_values(obj(body).get("customFieldValues"))
        if not sent:
            raise invalid("customFieldValues", "Expected at least one", 1004)
        contact.customs |= sent
        self._judge(contact, sent)
        return 200, self._details(contact)["customFieldValues"]

    def _replace(self, request: web.Request, body: Any) -> tuple[int, Any]:
        """What is given replaces all that was there."""
        contact, change = self._one(request), obj(body)
        if "customFieldValues" in change:
            contact.customs = self.base.check_values(change["customFieldValues"])
        contact.name = str(change.get("name", contact.name))
        return 200, self._details(contact)

    def _judge(self, contact: Contact, sent: Mapping[str, Sequence[str]]) -> None:
        """A first storing under a key is a creation; without a key every storing is."""
        key = _text(sent, "kL6Nh")
        lead = _lead_of(sent) or contact.email
        twin = bool(key) and key in self._stored
        self._stored.add(key)
        detail = f"{contact.name} {contact.email}".strip()
        self.judge.created(Creation(self.name, lead, key, contact.contact_id, detail, twin=twin))

    def _tag(self, request: web.Request, body: Any) -> tuple[int, Any]:
        contact = self._one(request)
        tags = obj(body).get("tags")
        ids = [str(obj(tag, "tags").get("tagId")) for tag in tags] if isinstance(tags, list) else tags
        contact.tags = list(dict.fromkeys([*contact.tags, *self.base.check_tags(ids)]))
        return 200, {"tags": [{"tagId": tag} for tag in contact.tags]}

    def _make_field(self, request: web.Request, body: Any) -> tuple[int, Any]:
        del request
        return 201, {"customFieldId": self.base.make_field(obj(body)), **obj(body)}

    def _remove(self, request: web.Request, body: Any) -> tuple[int, Any]:
        del body
        self.base.remove(request.match_info["id"])
        return 204, None

    def confirm(self, email: str, token: str) -> None:
        """The person follows the link of the letter."""
        contact = self.base.find(email, token)
        if contact is None:
            raise KeyError(email)
        contact.confirmed = True

    # Showing

    def _one(self, request: web.Request) -> Contact:
        return self.base.one(request.match_info["id"])

    def _campaign(self, request: web.Request, body: Any) -> tuple[int, Any]:
        del body
        token = request.match_info["id"]
        if token not in self.base.lists:
            raise Refused(1013, campaignId=token)
        return 200, self._list(token)

    def _list(self, token: str) -> dict[str, Any]:
        name, opt_in = self.base.lists[token]
        return {"campaignId": token, "name": name, "isDefault": "false",
                "optinTypes": {"email": "single", "api": opt_in, "import": "single", "webform": opt_in}}  # fmt: skip

    def _custom_fields(self, request: web.Request, body: Any) -> tuple[int, Any]:
        del body
        size, number = (int(request.query.get(key, usual)) for key, usual in (("perPage", "100"), ("page", "1")))
        wanted = request.query.get("query[name]", "")
        fields = [shown for shown in self.base.shown_fields() if wanted in shown["name"]]
        return 200, fields[(number - 1) * size : number * size]

    def _contacts(self, request: web.Request, body: Any) -> tuple[int, Any]:
        del body
        query = {
            match[1]: text for name, text in request.query.items() if (match := re.fullmatch(r"query\[(.*)\]", name))
        }
        exact = "exactMatch" in request.query.get("additionalFlags", "").split(",")
        return 200, [self._brief(contact) for contact in self.base.search(query, exact=exact)]

    def _search(self, request: web.Request, body: Any) -> tuple[int, Any]:
        """Of all the conditions that there are, only the kinds of subscribers."""
        del request
        kinds = obj(body).get("subscribersType")
        if not isinstance(kinds, list) or not set(kinds) <= {"subscribed", "undelivered", "removed", "unconfirmed"}:
            raise invalid("subscribersType", "Not one of the known values")
        there = self.base.contacts.values()
        wanted = [c for c in there if ("subscribed" if c.confirmed else "unconfirmed") in kinds]
        return 200, [self._brief(contact) for contact in wanted]

    def _brief(self, contact: Contact) -> dict[str, Any]:
        name, _ = self.base.lists[contact.campaign]
        return {"contactId": contact.contact_id, "name": contact.name or None, "email": contact.email,
                "campaign": {"campaignId": contact.campaign, "name": name}, "origin": "api", "dayOfCycle": None,
                "createdOn": "2026-03-02T07:30:49+0000"}  # fmt: skip

    def _details(self, contact: Contact) -> dict[str, Any]:
        customs = [
            {"customFieldId": identity, "name": self.base.fields[identity][0], "value": values, "values": values}
            for identity, values in contact.customs.items()
        ]
        tags = [{"tagId": tag, "name": TAGS[tag]} for tag in contact.tags]
        return {**self._brief(contact), "customFieldValues": customs, "tags": tags}

    # Errors

    def _rates(self, *, spent: bool = False) -> dict[str, str]:
        """The frame of ten minutes; of a second, where that is spent: both are seen."""
        told = ("80", "0", f"{self._wait()} seconds") if spent else ("30000", "29999", "432 seconds")
        return dict(zip(("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"), told, strict=True))

    def _wait(self) -> int:
        return math.ceil(1 / self.scale)

    def _details_of(self, code: int) -> dict[str, Any]:
        if code == 1015:
            return {"currentLimit": 80, "timeToReset": f"{self._wait()} seconds"}
        return {"authenticationType": "auth_token"} if code == 1014 else {}

    def _error(self, refused: Refused) -> web.Response:
        status, description, message = CODES[refused.code]
        status = self.wrong_key_status if refused.code == 1014 else status
        body = {
            "httpStatus": status, "code": refused.code, "codeDescription": description, "message": message,
            "moreInfo": f"https://apidocs.getresponse.com/en/v3/errors/{refused.code}", "context": refused.context,
            "uuid": "b89a0d53-67f6-4269-b207-223b42b6bfbd",
        }  # fmt: skip
        headers = self._rates(spent=status == 429)
        if status == 429:
            headers["Retry-After"] = str(1 if self.scale == 1 else round(1 / self.scale, 3))
        return web.json_response(body, status=status, headers=headers)


async def _nothing(request: web.Request, body: Any) -> web.StreamResponse:
    del request, body
    raise Refused(1013)


def _text(values: Mapping[str, Sequence[str]], identity: str) -> str:
    return next(iter(values.get(identity, ())), "")


def _lead_of(values: Mapping[str, Sequence[str]]) -> str:
    """The lead's id: in a field of its own, or in the key; empty where neither is there."""
    match = _KEY.fullmatch(_text(values, "kL6Nh"))
    return _text(values, "z9Kgt") or (match[1] if match else "")


def _leads(body: Any) -> list[str]:
    """The leads that a request carries, whether or not it is well formed."""
    whole = body if isinstance(body, dict) else {}
    items = whole["contacts"] if isinstance(whole.get("contacts"), list) else [whole]
    found: list[str] = []
    for item in items:
        customs = item.get("customFieldValues") if isinstance(item, dict) else None
        entries = [entry for entry in customs if isinstance(entry, dict)] if isinstance(customs, list) else []
        values = {str(e.get("customFieldId")): e["value"] for e in entries if isinstance(e.get("value"), list)}
        found.append(_lead_of(values) or str(item.get("email") if isinstance(item, dict) else ""))
    return found
