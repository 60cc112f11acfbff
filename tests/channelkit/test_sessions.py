"""Tokens of a login: one login for all who wait, and a refused token that is renewed once."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.http import Answer, HttpRequest
from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.sessions import Session, SessionAuth, Sessions
from leadctl.domain.errors import Ambiguous, DeliveryError, Throttled, Transient, Unusable
from tests.support.channels import FakeClock, MemoryCredentials

REQUEST = HttpRequest.json("POST", "https://vendor.test/leads", {"name": "Anna"}, {"X-Own": "1"})
LIFE = 3600.0


class Vendor:
    """Gives ``token-1``, ``token-2`` … and accepts only the latest; logins meet ``failures`` first."""

    def __init__(self, failures: Sequence[DeliveryError] = (), *, refuses: bool = False) -> None:
        self.clock = FakeClock()
        self.failures = list(failures)
        self.refuses = refuses
        self.logins = 0
        #: What each request carried, and how long it might take.
        self.seen: list[tuple[Mapping[str, str], float | None]] = []

    async def login(self) -> Session:
        self.logins += 1
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        return Session(f"token-{self.logins}", self.now() + LIFE)

    async def exchange(self, request: HttpRequest, timeout: float | None) -> Answer:  # noqa: ASYNC109 as the kit's
        self.seen.append((request.headers, timeout))
        accepted = not self.refuses and request.headers["token"] == f"token-{self.logins}"
        return Answer(200 if accepted else 401, {}, request.content)

    def now(self) -> float:
        return self.clock.now().timestamp()

    def tokens(self) -> list[str]:
        return [headers["token"] for headers, _ in self.seen]


def toolbox_of(vendor: Vendor, sessions: Sessions | None = None) -> Toolbox:
    return Toolbox(7, NetworkGuard(()), vendor.clock, MemoryCredentials(), sessions=sessions or Sessions())


def auth_of(
    vendor: Vendor, toolbox: Toolbox | None = None, account: tuple[str, ...] = ("anna", "secret")
) -> SessionAuth:
    return SessionAuth(
        toolbox or toolbox_of(vendor),
        vendor.exchange,
        account,
        vendor.login,
        headers=lambda token: {"token": token},
        refused=lambda answer: answer.status == 401,
    )


async def together(count: int, call: Callable[[], Awaitable[str]]) -> list[str]:
    return await asyncio.gather(*(call() for _ in range(count)))


# Sessions


def test_many_who_wait_share_one_login() -> None:
    vendor, sessions = Vendor(), Sessions()
    tokens = asyncio.run(together(20, lambda: sessions.token("anna", vendor.now, vendor.login)))
    assert tokens == ["token-1"] * 20
    assert vendor.logins == 1


def test_each_account_has_its_own_session() -> None:
    vendor, sessions = Vendor(), Sessions()

    async def run() -> list[str]:
        return [await sessions.token(name, vendor.now, vendor.login) for name in ("anna", "bob", "anna")]

    assert asyncio.run(run()) == ["token-1", "token-2", "token-1"]


def test_a_session_ends_at_its_time() -> None:
    vendor, sessions = Vendor(), Sessions()

    async def run() -> list[str]:
        tokens = []
        for elapsed in (0.0, LIFE - 1, LIFE, 2 * LIFE - 1):
            vendor.clock.elapsed = elapsed
            tokens.append(await sessions.token("anna", vendor.now, vendor.login))
        return tokens

    assert asyncio.run(run()) == ["token-1", "token-1", "token-2", "token-2"]


def test_forgetting_an_old_token_keeps_a_newer_one() -> None:
    vendor, sessions = Vendor(), Sessions()

    async def run() -> list[str]:
        tokens = []
        for refused in ("never seen", "token-1", "token-1", "token-2"):
            tokens.append(await sessions.token("anna", vendor.now, vendor.login))
            sessions.forget("anna", refused)
            sessions.forget("nobody", refused)
        return tokens

    assert asyncio.run(run()) == ["token-1", "token-1", "token-2", "token-2"]


def test_a_failed_login_leaves_the_next_one_to_try() -> None:
    vendor, sessions = Vendor([Throttled("too fast")]), Sessions()

    async def run() -> list[str | BaseException]:
        calls = [sessions.token("anna", vendor.now, vendor.login) for _ in range(3)]
        return await asyncio.gather(*calls, return_exceptions=True)

    failed, *others = asyncio.run(run())
    assert isinstance(failed, Throttled)
    assert others == ["token-2", "token-2"]


def test_a_cancelled_login_does_not_hold_the_others() -> None:
    vendor, sessions = Vendor(), Sessions()

    async def never() -> Session:
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> str:
        stuck = asyncio.create_task(sessions.token("anna", vendor.now, never))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(sessions.token("anna", vendor.now, vendor.login))
        await asyncio.sleep(0)
        assert not waiting.done()
        stuck.cancel()
        return await waiting

    assert asyncio.run(run()) == "token-1"


def test_sessions_outlive_an_event_loop() -> None:
    vendor, sessions = Vendor(), Sessions()
    for expected in ("token-1", "token-1", "token-2"):
        tokens = asyncio.run(together(5, lambda: sessions.token("anna", vendor.now, vendor.login)))
        assert tokens == [expected] * 5
        vendor.clock.elapsed += LIFE / 2


def test_a_session_does_not_show_its_token() -> None:
    assert "canary" not in repr(Session("canary-token", 1.0))


# SessionAuth


def test_a_request_carries_the_token_beside_its_own_headers() -> None:
    vendor = Vendor()
    toolbox = toolbox_of(vendor)
    answer = asyncio.run(auth_of(vendor, toolbox).send(REQUEST, 5.0))
    assert (answer.status, answer.body) == (200, REQUEST.content)
    assert vendor.seen == [({"Content-Type": "application/json", "X-Own": "1", "token": "token-1"}, 5.0)]
    assert toolbox.secrets.hide("token-1") == "***"


def test_channels_of_one_account_share_its_session() -> None:
    vendor, sessions = Vendor(), Sessions()

    async def run() -> None:
        for account in (("anna", "secret"), ("anna", "secret"), ("anna", "other")):
            await auth_of(vendor, toolbox_of(vendor, sessions), account).send(REQUEST)

    asyncio.run(run())
    assert vendor.tokens() == ["token-1", "token-1", "token-2"]


def test_a_refused_token_is_fetched_anew_and_the_request_repeated() -> None:
    vendor = Vendor()
    auth = auth_of(vendor)

    async def run() -> list[int]:
        await auth.send(REQUEST)
        vendor.logins += 1  # somebody else has logged in: our token is over
        return [(await auth.send(REQUEST)).status, (await auth.send(REQUEST)).status]

    assert asyncio.run(run()) == [200, 200]
    assert vendor.tokens() == ["token-1", "token-1", "token-3", "token-3"]


def test_a_second_refusal_stands() -> None:
    vendor = Vendor(refuses=True)
    assert asyncio.run(auth_of(vendor).send(REQUEST)).status == 401
    assert vendor.tokens() == ["token-1", "token-2"]


def test_many_whose_token_is_refused_share_the_next_login() -> None:
    vendor = Vendor()
    auth = auth_of(vendor)

    async def run() -> list[int]:
        await auth.send(REQUEST)
        vendor.logins += 1
        return [answer.status for answer in await asyncio.gather(*(auth.send(REQUEST) for _ in range(10)))]

    assert asyncio.run(run()) == [200] * 10
    assert vendor.logins == 3, "ours, somebody else's, and one for all ten"


@pytest.mark.parametrize(("allowed", "status", "requests"), [(True, 200, 2), (False, 401, 1)])
def test_a_repeat_may_be_forbidden(allowed: bool, status: int, requests: int) -> None:
    vendor = Vendor()
    auth = auth_of(vendor)
    asked: list[int] = []

    async def may_repeat() -> bool:
        asked.append(len(vendor.seen))
        return allowed

    async def run() -> int:
        await auth.send(REQUEST, may_repeat=may_repeat)
        assert asked == [], "nothing was refused"
        vendor.logins += 1
        return (await auth.send(REQUEST, may_repeat=may_repeat)).status

    assert asyncio.run(run()) == status
    assert len(vendor.seen) == 1 + requests
    assert asked == [2], "asked after the refusal, before the repeat"


def test_a_login_in_doubt_has_sent_no_lead() -> None:
    vendor = Vendor([Ambiguous("no answer within 30 s")])
    with pytest.raises(Transient, match=r"no token was given \(no answer within 30 s\); no lead was sent"):
        asyncio.run(auth_of(vendor).send(REQUEST))
    assert vendor.seen == []


@pytest.mark.parametrize("error", [Unusable("wrong password"), Throttled("too fast"), Transient("refused")])
def test_a_login_that_is_refused_is_told_as_it_is(error: DeliveryError) -> None:
    vendor = Vendor([error])
    with pytest.raises(type(error)) as caught:
        asyncio.run(auth_of(vendor).send(REQUEST))
    assert caught.value is error
    assert (vendor.logins, vendor.seen) == (1, [])


def test_a_renewal_that_fails_ends_the_request() -> None:
    vendor = Vendor()
    auth = auth_of(vendor)

    async def run() -> None:
        await auth.send(REQUEST)
        vendor.refuses = True
        vendor.failures.append(Unusable("the password was changed"))
        await auth.send(REQUEST)

    with pytest.raises(Unusable, match="password was changed"):
        asyncio.run(run())
    assert vendor.tokens() == ["token-1", "token-1"]
