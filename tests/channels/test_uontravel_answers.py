"""U-ON.Travel: what its answers mean, and how it is asked."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from leadctl.channels.uontravel import MAX_PAGES, PAUSE
from leadctl.domain.errors import Ambiguous, DeliveryError, Rejected, Throttled, Transient, Unusable
from leadctl.domain.model import RESTORED, Absent, CannotTell, Delivery, Done, Finding, Found, Receipt
from leadctl.testing.checks import everything_of
from tests.channels.test_uontravel import KEY, uon
from tests.support.channels import NOW, FakeClock, make_delivery, make_lead

OURS = "lc-abc123-42-7"
SENT = {"sent": str(int(NOW.timestamp()))}
Handler = Callable[[httpx.Request], httpx.Response]


def said(status: int, body: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
    if isinstance(body, str):
        return httpx.Response(status, text=body, headers=headers)
    return httpx.Response(status, json=body, headers=headers)


def answered(answer: httpx.Response | Exception, settings: Mapping[str, Any] | None = None) -> Receipt:
    """What a send makes of this answer."""

    def vendor(request: httpx.Request) -> httpx.Response:
        del request
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run() -> Receipt:
        channel = uon(settings, handler=vendor)
        try:
            return (await channel.send(channel.steps[0], [make_delivery()])).receipts[OURS]
        except DeliveryError as error:
            return error
        finally:
            await channel.close()

    return asyncio.run(run())


def message(text: str) -> dict[str, Any]:
    return {"error": {"message": text}}


@pytest.mark.parametrize(
    "body",
    [{"result": 200, "id": "12345"}, {"result": "200", "id": 12345}, {"result": 200, "id": "12345", "comment": "x"}],
)
def test_a_success_names_the_lead(body: Mapping[str, Any]) -> None:
    assert answered(said(200, body)) == Done("12345")


ROWS: list[tuple[int, Any, type[DeliveryError], str]] = [
    # the sheet's table
    (403, message("API key is wrong"), Unusable, "API key is wrong"),
    (403, message("POST is not allowed"), Unusable, "POST?"),
    (403, "Forbidden", Unusable, "api_key"),
    (404, "Parameter u_email is wrong", Rejected, "u_email"),
    (404, message("Parameter u_phone is wrong"), Rejected, "u_phone"),
    (404, {"result": 404, "message": "Parameter u_phone is wrong"}, Rejected, "u_phone"),
    (404, "Client is not found", Rejected, "Client is not found"),
    (404, {"result": 404}, Rejected, "no explanation"),
    (404, "No route found", Unusable, "base_url"),
    (404, message('No route found for "POST /x"'), Unusable, "base_url"),
    (404, {"result": 404, "message": "No route found"}, Unusable, "base_url"),
    (404, "<html><body>404</body></html>", Unusable, "base_url"),
    (422, "", Rejected, "no explanation"),
    (429, "", Throttled, "too many requests"),
    (500, "500 Server error", Ambiguous, "500 Server error"),
    (502, "<html>Bad Gateway</html>", Ambiguous, "502"),
    (503, {"result": 404, "message": "x"}, Ambiguous, "503"),
    (504, "", Ambiguous, "504"),
    # HTTP 2xx, whose result is not 200
    (200, {"result": 403, "message": "API key is wrong"}, Unusable, "API key is wrong"),
    (200, {"result": "404", "message": "Parameter u_phone is wrong"}, Rejected, "u_phone"),
    (200, {"result": 404, "message": "No route found"}, Unusable, "base_url"),
    (200, {"result": 422, "message": "bad"}, Rejected, "bad"),
    (200, {"result": "429"}, Throttled, "too many requests"),
    (200, {"result": 500, "message": "Server error"}, Ambiguous, "Server error"),
    (200, {"result": "wait"}, Ambiguous, "wait"),
    # what says neither yes nor no
    (200, {"id": "12345"}, Ambiguous, "neither"),
    (200, {"result": 200}, Ambiguous, "names no lead"),
    (200, {"result": 200, "id": None}, Ambiguous, "names no lead"),
    (200, {"result": 200, "id": "x"}, Ambiguous, "names no lead"),
    (200, message("API key is wrong"), Ambiguous, "neither"),
    (200, [], Ambiguous, "neither"),
    (200, "ok", Ambiguous, "not JSON"),
    (204, "", Ambiguous, "not JSON"),
    (404, {"result": 200, "id": "12345"}, Ambiguous, "neither"),
    (408, "", Ambiguous, "neither"),
    (409, "", Ambiguous, "neither"),
    # what stands before the vendor
    (301, "", Unusable, "base_url"),
    (400, "", Rejected, "no explanation"),
    (401, "", Unusable, "key"),
    (402, "", Unusable, "not paid"),
    (405, "", Unusable, "base_url"),
    (407, "", Unusable, "proxy"),
    (410, "", Unusable, "method"),
    (413, "", Rejected, "too long"),
    (415, "", Unusable, "body"),
]


@pytest.mark.parametrize(("status", "body", "kind", "words"), ROWS)
def test_error_table(status: int, body: Any, kind: type[DeliveryError], words: str) -> None:
    receipt = answered(said(status, body))
    assert type(receipt) is kind
    assert words in receipt.message
    assert receipt.http_status == status
    assert receipt.request_digest


def test_a_refused_parameter_is_named() -> None:
    receipt = answered(said(404, "Parameter u_email is wrong"))
    assert isinstance(receipt, Rejected)
    assert (receipt.path, receipt.vendor_code) == ("u_email", "404")


@pytest.mark.parametrize(
    ("name", "template", "kind"),
    [("r_u_id", "9", Unusable), ("r_u_id", "{{ lead.answers.manager }}", Rejected), ("budget", "9", Rejected),
     ("extended_fields[7]", "x", Unusable)],
)  # fmt: skip
def test_a_fixed_value_of_the_settings_is_their_fault(name: str, template: str, kind: type[DeliveryError]) -> None:
    refused = name if name != "budget" else "u_phone"
    receipt = answered(said(404, f"Parameter {refused} is wrong"), {"fields": {name: template}})
    assert type(receipt) is kind
    assert receipt.path == refused


def test_too_fast_pauses_the_key_and_names_no_time() -> None:
    receipt = answered(said(429, ""))
    assert isinstance(receipt, Throttled)
    assert receipt.retry_after is None
    assert receipt.scope == uon().buckets()[0].scope
    named = answered(said(429, "", {"Retry-After": "7"}))
    assert isinstance(named, Throttled)
    assert named.retry_after == 7.0


@pytest.mark.parametrize("status", [200, 403, 404, 500])
def test_the_key_is_never_shown(status: int) -> None:
    path = f"/{KEY}/lead/create.json"
    bodies: list[Any] = [f"failed: POST {path}", message(f"No route found for {path}"), {"result": 9, "message": path}]
    for body in bodies:
        receipt = answered(said(status, body))
        assert isinstance(receipt, DeliveryError)
        assert KEY not in everything_of(receipt)
        assert "***" in receipt.answer


def test_silence_may_be_the_white_list() -> None:
    receipt = answered(httpx.ReadError(f"lost /{KEY}/"))
    assert isinstance(receipt, (Ambiguous, Transient))
    assert "white list" in receipt.message
    assert KEY not in everything_of(receipt)


# Asking


def lead(number: int, *, mark: str = "", **changes: Any) -> dict[str, Any]:
    return {"id": str(number), "id_internal": mark, "notes": "", "dat": "2026-03-01 13:00:00", **changes}


class Lists:
    """An account that shows these leads for every span of days; ``calls`` are the paths without the key."""

    def __init__(self, leads: Sequence[Mapping[str, Any]], *, size: int = 100, pages_all: bool = True) -> None:
        self.leads = leads
        self.size = size
        self.pages_all = pages_all
        self.calls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(f"/{KEY}/")
        assert (request.method, request.content) == ("GET", b"")
        self.calls.append(path)
        number = int(path.removesuffix(".json").rpartition("/")[2])
        shown = self.leads[(number - 1) * self.size : number * self.size]
        if not shown:
            return said(404, {"result": 404, "message": "Records not found"})
        more = {"pages_all": -(-len(self.leads) // self.size)} if self.pages_all else {}
        return said(200, {"result": 200, "leads": shown, **more})


def found(vendor: Handler, delivery: Delivery | None = None, clock: FakeClock | None = None) -> Finding:
    async def run() -> Finding:
        channel = uon(handler=vendor, clock=clock)
        wanted = delivery or make_delivery(context=SENT)
        try:
            return (await channel.find(channel.steps[0], [wanted]))[wanted.key]
        finally:
            await channel.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "shown",
    [
        lead(9, mark=OURS),
        lead(9, mark=f" {OURS} "),
        lead(9, notes=f"Перезвоните\n\nНомер: 42 [{OURS}]"),
        lead(9, notes=f"<p>&#91;lc-abc123-1-7&#93; &laquo;x&raquo; &#91;{OURS}&#93;</p>"),
        lead(9, mark=OURS[:9], notes=f"[{OURS}]"),
        lead(9, mark=OURS, notes=None),
        {**lead(9, mark=OURS), "id": 9},
    ],
)
def test_the_number_or_the_note_is_enough(shown: Mapping[str, Any]) -> None:
    assert found(Lists([lead(8, mark="lc-abc123-41-7"), shown])) == Found("9")


@pytest.mark.parametrize(
    "shown",
    [
        lead(9, mark=f"{OURS}-1"),
        lead(9, mark="42"),
        lead(9, mark="lc-abc123-4-7"),
        lead(9, notes=OURS),
        lead(9, notes=f"[{OURS}-1]"),
        lead(9, notes=f"says: [{OURS}]\n\nНомер: 43 [lc-abc123-43-7]", mark="lc-abc123-43-7"),
        lead(9, id_internal=None, notes=None),
    ],
)
def test_keys_are_compared_exactly(shown: Mapping[str, Any]) -> None:
    assert found(Lists([shown])) == Absent()


def test_two_of_one_key_are_told() -> None:
    assert found(Lists([lead(12, mark=OURS), lead(9, notes=f"[{OURS}]")])) == Found("9", duplicates=("12",))


@pytest.mark.parametrize("pages_all", [True, False])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 250])
def test_every_page_is_read(count: int, pages_all: bool) -> None:
    leads = [lead(number) for number in range(1, count + 1)]
    vendor = Lists(leads, pages_all=pages_all)
    assert found(vendor) == Absent()
    wanted = Lists([*leads, lead(999, mark=OURS)], pages_all=pages_all)
    assert found(wanted) == Found("999")
    days = "leads/2026-02-28/2026-03-02"
    assert vendor.calls == [f"{days}/{number}.json" for number in range(1, len(vendor.calls) + 1)]


def test_short_pages_are_no_end() -> None:
    vendor = Lists([lead(number, mark=OURS if number == 60 else "") for number in range(1, 61)], size=20)
    assert found(vendor) == Found("60")
    assert len(vendor.calls) == 3


def test_a_full_page_is_no_end_whatever_the_number_of_pages() -> None:
    leads = [lead(number, mark=OURS if number == 101 else "") for number in range(1, 102)]

    def vendor(request: httpx.Request) -> httpx.Response:
        shown = leads[100:] if request.url.path.endswith("/2.json") else leads[:100]
        return said(200, {"result": 200, "leads": shown, "pages_all": 1})

    assert found(vendor) == Found("101")


def test_an_object_is_a_list_too() -> None:
    assert found(lambda _: said(200, {"leads": {"0": lead(1), "2": lead(9, mark=OURS)}, "pages_all": "1"})) == Found(
        "9"
    )


def test_the_day_of_the_send_and_the_leads_own_are_read() -> None:
    vendor = Lists([])
    old = make_lead(created_at=NOW - timedelta(days=400))
    assert found(vendor, make_delivery(old, context=SENT)) == Absent()
    assert vendor.calls == ["leads/2025-01-24/2025-01-26/1.json", "leads/2026-02-28/2026-03-02/1.json"]
    near = Lists([])
    found(near, make_delivery(make_lead(created_at=NOW - timedelta(days=3)), context=SENT))
    assert near.calls == ["leads/2026-02-25/2026-03-02/1.json"]
    undated = Lists([])
    found(undated, make_delivery(make_lead(created_at=None), context=SENT))
    assert undated.calls == ["leads/2026-02-28/2026-03-02/1.json"]


@pytest.mark.parametrize("context", [{}, {**SENT, RESTORED: "1"}])
def test_an_unknown_time_of_the_send_may_be_any_until_now(context: Mapping[str, str]) -> None:
    vendor = Lists([])
    found(vendor, make_delivery(context=context), FakeClock(NOW + timedelta(days=10)))
    assert vendor.calls == ["leads/2026-02-28/2026-03-12/1.json"]


def test_a_later_run_reads_the_days_of_the_send() -> None:
    vendor = Lists([])
    found(vendor, make_delivery(context=SENT), FakeClock(NOW + timedelta(days=10)))
    assert vendor.calls == ["leads/2026-02-28/2026-03-02/1.json"]


def test_pages_are_asked_for_slowly_and_not_for_ever() -> None:
    clock = FakeClock()
    vendor = Lists([lead(number) for number in range(1, 301)])
    found(vendor, clock=clock)
    assert clock.sleeps == [PAUSE] * (len(vendor.calls) - 1)
    calls: list[httpx.Request] = []

    def endless(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return said(200, {"result": 200, "leads": [lead(1)], "pages_all": 10_000})

    finding = found(endless)
    assert isinstance(finding, CannotTell)
    assert finding.final
    assert len(calls) == MAX_PAGES


NOTHING = [
    said(404, {"result": 404, "message": "Records not found"}),
    said(404, {"result": "404"}),
    said(200, {"result": 404}),
    said(200, {"result": 200, "leads": []}),
    said(200, {"leads": []}),
]


@pytest.mark.parametrize("answer", NOTHING)
def test_nothing_found_is_an_absence(answer: httpx.Response) -> None:
    assert found(lambda _: answer) == Absent()


FAILING: list[tuple[int, Any, type[DeliveryError]]] = [
    (500, "500 Server error", Transient),
    (502, "", Transient),
    (200, "", Transient),
    (200, "ok", Transient),
    (200, [], Transient),
    (200, {}, Transient),
    (200, {"result": 200}, Transient),
    (200, {"result": 200, "leads": None}, Transient),
    (200, {"result": 200, "leads": "x"}, Transient),
    (200, {"result": 200, "leads": [1]}, Transient),
    (200, {"result": 200, "leads": [{"id": None}]}, Transient),
    (200, {"result": 500, "leads": []}, Transient),
    (200, {"result": "x", "leads": []}, Transient),
    (500, {"result": 404}, Transient),
    (429, "", Throttled),
    (200, {"result": 429}, Throttled),
    (403, message("API key is wrong"), Unusable),
    (404, "No route found", Unusable),
    (404, message("No route found"), Unusable),
    (404, {"result": 404, "message": "No route found"}, Unusable),
    (404, {"result": 404, "message": "Parameter date_from is wrong"}, Unusable),
    (404, "", Unusable),
    (301, "", Unusable),
]


@pytest.mark.parametrize(("status", "body", "kind"), FAILING)
def test_no_absence_is_read_out_of_a_failure(status: int, body: Any, kind: type[DeliveryError]) -> None:
    with pytest.raises(DeliveryError) as caught:
        found(lambda _: said(status, body))
    assert type(caught.value) is kind
    assert caught.value.http_status == status


def test_a_page_that_fails_leaves_the_rest_in_doubt() -> None:
    old = make_delivery(make_lead(created_at=NOW - timedelta(days=400)), context=SENT)

    def half(request: httpx.Request) -> httpx.Response:
        if "2025" in request.url.path:
            return said(200, {"result": 200, "leads": [lead(9, mark=OURS)], "pages_all": 1})
        return said(500, "500 Server error")

    assert found(half, old) == Found("9")
    other = replace(old, key="lc-abc123-42-8")
    assert isinstance(found(half, other), CannotTell)


@pytest.mark.parametrize("broken", ["2025", "2026"])
@pytest.mark.parametrize("nothing", NOTHING)
def test_empty_days_prove_nothing_for_days_that_fail(nothing: httpx.Response, broken: str) -> None:
    old = make_delivery(make_lead(created_at=NOW - timedelta(days=400)), context=SENT)
    with pytest.raises(Transient):
        found(lambda request: said(500, "x") if f"leads/{broken}" in request.url.path else nothing, old)


def test_empty_days_prove_nothing_for_days_that_are_too_many() -> None:
    old = make_delivery(make_lead(created_at=NOW - timedelta(days=400)), context=SENT)

    def endless(request: httpx.Request) -> httpx.Response:
        return NOTHING[0] if "leads/2025" in request.url.path else said(200, {"leads": [lead(1)], "pages_all": 10_000})

    assert isinstance(found(endless, old), CannotTell)


# The check


def checked(answer: httpx.Response, settings: Mapping[str, Any] | None = None) -> str:
    def vendor(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("GET", f"/{KEY}/manager.json")
        return answer

    async def run() -> str:
        channel = uon(settings, handler=vendor)
        try:
            return await channel.check()
        finally:
            await channel.close()

    return asyncio.run(run())


MANAGERS = {"users": [{"u_id": 2, "u_email": "olga@example.com"}, {"u_id": "3"}], "result": 200}


def test_check_counts_the_managers() -> None:
    said_of = checked(said(200, MANAGERS), {"fields": {"r_u_id": 3}})
    assert said_of.startswith("api.u-on.ru: an account of 2 managers")
    assert "olga" not in said_of


def test_check_sees_a_manager_that_is_not_there() -> None:
    with pytest.raises(Unusable, match="no manager 4"):
        checked(said(200, MANAGERS), {"fields": {"r_u_id": 4}})
    checked(said(200, MANAGERS), {"fields": {"r_u_id": "{{ lead.answers.manager }}"}})


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, message("API key is wrong"), Unusable),
        (404, "No route found", Unusable),
        (429, "", Throttled),
        (500, "500 Server error", Transient),
    ],
)
def test_check_says_what_is_wrong(status: int, body: Any, kind: type[DeliveryError]) -> None:
    with pytest.raises(kind):
        checked(said(status, body))
