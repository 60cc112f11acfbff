"""The refresh of a rotating token: by one process, written before it is used, never at the price of a lead."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from leadctl.channelkit.auth import MARGIN, BearerAuth, OAuthClient, OAuthConfig, Tokens, unix_time
from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.http import Answer, HttpRequest
from leadctl.channelkit.network import NetworkGuard
from leadctl.domain.errors import Ambiguous, DeliveryError, LimitReached, Throttled, Transient, Unusable
from leadctl.domain.events import Event, TokenRefreshed
from leadctl.domain.model import CredentialId
from tests.support.channels import NOW, FakeClock, MemoryCredentials

TOKEN_URL = "https://acme.amocrm.ru/oauth2/access_token"
CLIENT = OAuthClient(TOKEN_URL, "client-1", "client-secret-1", "https://example.com/oauth")
REVOKED = {"hint": "Token has been revoked", "title": "Некорректный запрос", "status": 401}
REQUEST = HttpRequest.json("POST", "https://acme.amocrm.ru/api/v4/leads/complex", [{"name": "x"}])


def answer(status: int, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, headers or {}, b"" if body is None else json.dumps(body).encode())


def pair(number: int, **more: Any) -> Answer:
    body = {"token_type": "Bearer", "expires_in": 86400, "access_token": f"access-{number}",
            "refresh_token": f"refresh-{number}"}  # fmt: skip
    return answer(200, {**body, **more})


class LockedCredentials(MemoryCredentials):
    """Rows whose lease excludes, as the store's does, and that remember what was done to them."""

    def __init__(self, rows: dict[CredentialId, dict[str, Any]], *, read_only: bool = False) -> None:
        super().__init__(rows, read_only=read_only)
        self.log: list[str] = []
        self.steal: dict[str, Any] | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def lease(self, credential_id: CredentialId) -> AsyncIterator[None]:
        async with self._lock:
            self.log.append("lease")
            yield

    async def swap(self, credential_id: CredentialId, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
        if self.steal is not None:
            self.rows[credential_id].update(self.steal)
        written = await super().swap(credential_id, old, new)
        self.log.append(f"swap {written}")
        return written


class World:
    """A vendor that lets these access tokens in, and answers refreshes from a script."""

    def __init__(self, *refreshes: Answer | DeliveryError, valid: tuple[str, ...] = ("access-2",)) -> None:
        self.refreshes = deque(refreshes)
        self.valid = set(valid)
        self.asked: list[dict[str, Any]] = []
        self.used: list[str] = []
        self.log: list[str] | None = None
        self.events: list[Event] = []
        self.clock = FakeClock()
        self.meanwhile: Callable[[], None] = lambda: None

    async def exchange(self, request: HttpRequest, timeout: float | None) -> Answer:  # noqa: ASYNC109
        await asyncio.sleep(0)
        if request.url == TOKEN_URL:
            self.asked.append(json.loads(request.content))
            scripted = self.refreshes.popleft()
            self.meanwhile()
            if isinstance(scripted, DeliveryError):
                raise scripted
            return scripted
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.used.append(token)
        if self.log is not None:
            self.log.append(f"use {token}")
        return answer(200, []) if token in self.valid else answer(401, {"title": "Unauthorized", "status": 401})

    def auth(
        self, credentials: MemoryCredentials, tokens: Tokens | None = None, client: OAuthClient | None = CLIENT
    ) -> tuple[BearerAuth, Toolbox]:
        toolbox = Toolbox(7, NetworkGuard(), self.clock, credentials, self.events.append)
        return BearerAuth("acme", toolbox, self.exchange, tokens or Tokens("access-1", "refresh-1"), client), toolbox


def rows(**more: Any) -> dict[CredentialId, dict[str, Any]]:
    return {7: {"access_token": "access-1", "refresh_token": "refresh-1", "other": "kept", **more}}


def seconds(delta: float) -> float:
    return NOW.timestamp() + delta


def send(world: World, credentials: MemoryCredentials, tokens: Tokens | None = None) -> Answer:
    auth, _ = world.auth(credentials, tokens)
    return asyncio.run(auth.send(REQUEST))


def test_a_long_lived_token_is_never_refreshed() -> None:
    world = World()
    auth, _ = world.auth(MemoryCredentials(rows()), Tokens("access-1"), client=None)
    assert asyncio.run(auth.send(REQUEST)).status == 401
    assert world.used == ["access-1"]
    assert world.asked == []


def test_a_good_token_is_only_used() -> None:
    world = World(valid=("access-1",))
    assert send(world, MemoryCredentials(rows()), Tokens("access-1", "refresh-1", seconds(MARGIN + 1))).status == 200
    assert world.asked == []


@pytest.mark.parametrize("expires_at", [None, seconds(MARGIN - 1), seconds(-5000)])
def test_a_spent_token_is_refreshed_and_written_before_it_is_used(expires_at: float | None) -> None:
    world, credentials = World(pair(2)), LockedCredentials(rows())
    world.log = credentials.log
    auth, toolbox = world.auth(credentials, Tokens("access-1", "refresh-1", expires_at))
    assert asyncio.run(auth.send(REQUEST)).status == 200
    assert world.asked == [{
        "client_id": "client-1", "client_secret": "client-secret-1", "grant_type": "refresh_token",
        "refresh_token": "refresh-1", "redirect_uri": "https://example.com/oauth",
    }]  # fmt: skip
    refused_first = ["use access-1"] if expires_at is None else []
    assert credentials.log == [*refused_first, "lease", "swap True", "use access-2"]
    assert credentials.rows[7] == {"access_token": "access-2", "refresh_token": "refresh-2", "other": "kept",
                                   "expires_at": int(seconds(86400))}  # fmt: skip
    assert world.events == [TokenRefreshed("acme", 7)]
    assert toolbox.secrets.hide("access-2 refresh-2") == "*** ***"


def test_a_token_that_is_refused_after_a_refresh_is_not_refreshed_again() -> None:
    world = World(pair(2), valid=())
    assert send(world, LockedCredentials(rows())).status == 401
    assert (world.used, len(world.asked)) == (["access-1", "access-2"], 1)


def test_what_another_process_refreshed_is_used() -> None:
    world = World()
    credentials = LockedCredentials(rows(access_token="access-2", refresh_token="refresh-2"))
    assert send(world, credentials).status == 200
    assert world.asked == []
    assert world.events == []


def test_what_another_process_refreshed_too_long_ago_is_refreshed() -> None:
    world = World(pair(3), valid=("access-3",))
    credentials = LockedCredentials(rows(access_token="access-2", refresh_token="refresh-2", expires_at=seconds(-1)))
    assert send(world, credentials).status == 200
    assert [body["refresh_token"] for body in world.asked] == ["refresh-2"]


def test_a_foreign_token_that_is_refused_too_is_refreshed() -> None:
    world = World(pair(3), valid=("access-3",))
    credentials = LockedCredentials(rows(access_token="access-2", refresh_token="refresh-2"))
    assert send(world, credentials).status == 200
    assert world.used == ["access-1", "access-2", "access-3"]


def test_two_channels_of_one_credential_refresh_once() -> None:
    world, credentials = World(pair(2)), LockedCredentials(rows())

    async def run() -> list[Answer]:
        auths = [world.auth(credentials)[0] for _ in range(2)]
        return await asyncio.gather(*(auth.send(REQUEST) for auth in auths * 3))

    assert {found.status for found in asyncio.run(run())} == {200}
    assert len(world.asked) == 1
    assert credentials.log.count("swap True") == 1


@pytest.mark.parametrize("expires_at", [None, seconds(-1)])
def test_without_the_right_to_write_nothing_is_refreshed(expires_at: float | None) -> None:
    world = World(pair(2))
    with pytest.raises(Unusable, match="cannot be written"):
        send(world, MemoryCredentials(rows(), read_only=True), Tokens("access-1", "refresh-1", expires_at))
    with pytest.raises(Unusable, match="cannot be written"):
        send(world, MemoryCredentials({}), Tokens("access-1", "refresh-1", expires_at))
    assert world.asked == []


def test_without_the_right_to_write_a_token_is_used_to_its_end_and_the_applications_after_it() -> None:
    world = World(valid=("access-1", "access-2"))
    credentials = MemoryCredentials(rows(), read_only=True)
    assert send(world, credentials, Tokens("access-1", "refresh-1", seconds(30))).status == 200
    credentials.rows[7].update(access_token="access-2", refresh_token="refresh-2", expires_at=seconds(9000))
    assert send(world, credentials, Tokens("access-1", "refresh-1", seconds(-1))).status == 200
    assert world.used == ["access-1", "access-2"]
    assert world.asked == []


LOST = [Ambiguous("no answer"), Transient("refused"), answer(500, {"title": "x"}), answer(502), answer(200, [1]),
        answer(200, {"access_token": "access-2"}), Answer(200, {}, b'{"access_tok', complete=False)]  # fmt: skip


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_answer_is_asked_for_once_more_with_the_same_token(lost: Answer | DeliveryError) -> None:
    world = World(lost, pair(2))
    assert send(world, LockedCredentials(rows())).status == 200
    assert [body["refresh_token"] for body in world.asked] == ["refresh-1", "refresh-1"]


@pytest.mark.parametrize("lost", LOST)
def test_two_lost_answers_leave_the_row_and_say_that_nothing_was_sent(lost: Answer | DeliveryError) -> None:
    world, credentials = World(lost, lost), LockedCredentials(rows())
    with pytest.raises(Transient, match="no lead was sent"):
        send(world, credentials)
    assert credentials.rows == rows()


def test_a_token_that_still_lives_is_used_while_it_cannot_be_refreshed() -> None:
    world = World(answer(503), answer(503), valid=("access-1",))
    assert send(world, LockedCredentials(rows()), Tokens("access-1", "refresh-1", seconds(30))).status == 200
    world = World(answer(503), answer(503), valid=("access-1",))
    with pytest.raises(Transient):
        send(world, LockedCredentials(rows()), Tokens("access-1", "refresh-1", seconds(-1)))
    assert world.used == []


@pytest.mark.parametrize(
    ("refused", "expected"),
    [
        (answer(403, "<html>"), LimitReached),
        (answer(429, {"retry_after": 300}), Throttled),
        (answer(404), Unusable),
        (answer(402), Unusable),
        (answer(302), Unusable),
    ],
)
def test_other_answers_of_the_token_endpoint_keep_the_tokens(refused: Answer, expected: type[DeliveryError]) -> None:
    world, credentials = World(refused), LockedCredentials(rows())
    with pytest.raises(expected) as caught:
        send(world, credentials)
    assert caught.value.http_status == refused.status
    assert getattr(caught.value, "retry_after", None) == (300 if refused.status == 429 else None)
    assert credentials.rows == rows()
    assert len(world.asked) == 1


@pytest.mark.parametrize("status", [400, 401])
def test_revoked_is_believed_after_ten_seconds(status: int) -> None:
    world = World(answer(status, REVOKED))
    with pytest.raises(Unusable, match=r"Token has been revoked.*authorise the integration again"):
        send(world, LockedCredentials(rows()))
    assert world.clock.elapsed == 10


def test_revoked_is_not_believed_where_the_application_has_just_refreshed() -> None:
    world, credentials = World(answer(401, REVOKED)), LockedCredentials(rows())

    class Clock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.elapsed == 3:
                credentials.rows[7].update(access_token="access-2", refresh_token="refresh-2")

    world.clock = Clock()
    assert send(world, credentials).status == 200
    assert world.clock.elapsed == 3
    assert len(world.asked) == 1


def test_a_row_that_the_application_wrote_meanwhile_wins() -> None:
    world, credentials = World(pair(2), valid=("access-9",)), LockedCredentials(rows())
    credentials.steal = {"access_token": "access-9", "refresh_token": "refresh-9"}
    assert send(world, credentials).status == 200
    assert credentials.log[-1] == "swap False"
    assert credentials.rows[7]["access_token"] == "access-9"
    assert world.used == ["access-1", "access-9"]


def test_a_row_that_was_written_during_the_refresh_is_not_overwritten() -> None:
    world, credentials = World(pair(2), valid=("access-9",)), LockedCredentials(rows())
    world.meanwhile = lambda: credentials.rows[7].update(access_token="access-9", refresh_token="refresh-9")
    assert send(world, credentials).status == 200
    assert credentials.rows[7]["refresh_token"] == "refresh-9"
    assert world.used == ["access-1", "access-9"]


def test_a_row_that_lost_its_tokens_meanwhile_sends_nothing() -> None:
    world, credentials = World(pair(2)), LockedCredentials(rows())
    credentials.steal = {"access_token": None}
    with pytest.raises(Transient, match="nothing was sent"):
        send(world, credentials)
    assert world.used == ["access-1"]


def test_a_row_that_was_deleted_during_the_refresh_sends_nothing() -> None:
    world, credentials = World(pair(2)), LockedCredentials(rows())
    world.meanwhile = credentials.rows.clear
    with pytest.raises(Transient, match="nothing was sent"):
        send(world, credentials)
    assert world.used == ["access-1"]


def test_spaces_around_the_rows_token_do_not_cost_the_new_pair() -> None:
    world, credentials = World(pair(2)), LockedCredentials(rows(access_token=" access-1\n"))
    assert send(world, credentials).status == 200
    assert credentials.rows[7]["access_token"] == "access-2"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1_700_000_000, int(seconds(86400))),
        ("1700000000", str(int(seconds(86400)))),
        ("2025-01-01T00:00:00.000000Z", "2026-03-02T10:00:00Z"),
        ("2025-01-01T00:00:00+00:00", "2026-03-02T10:00:00+00:00"),
        ("2025-01-01 00:00:00", "2026-03-02 10:00:00"),
        (None, int(seconds(86400))),
    ],
)
def test_the_expiry_keeps_the_form_that_the_application_reads(old: object, new: object) -> None:
    credentials = LockedCredentials(rows(expires_at=old))
    send(World(pair(2)), credentials)
    assert credentials.rows[7]["expires_at"] == new
    assert unix_time(new) == seconds(86400)


def test_an_answer_without_a_life_span_clears_the_old_one() -> None:
    credentials = LockedCredentials(rows(expires_at=1))
    send(World(pair(2, expires_in=None)), credentials)
    assert credentials.rows[7]["expires_at"] is None


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        (NOW.timestamp(), 0), (str(int(NOW.timestamp())), 0), (NOW.isoformat(), 0), ("2026-03-01 10:00:00", 0),
        ("2026-03-01T13:00:00+03:00", 0), ("2026-03-01T10:00:01.000000Z", 1),
    ],
)  # fmt: skip
def test_moments_in_all_their_forms(value: object, offset: int) -> None:
    assert unix_time(value) == (NOW + timedelta(seconds=offset)).timestamp()


@pytest.mark.parametrize("value", ["soon", "", True, None, [1]])
def test_what_is_no_moment_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Unix seconds or an ISO date"):
        unix_time(value)


FULL = {"access_token": "access-1", "refresh_token": "refresh-1", "client_id": 12, "client_secret": "secret-1",
        "redirect_uri": "https://example.com"}  # fmt: skip


def test_the_config_knows_both_modes() -> None:
    assert OAuthConfig.model_validate({"access_token": "access-1"}).oauth_client(TOKEN_URL) is None
    assert OAuthConfig.model_validate({"access_token": "a-1", "refresh_token": ""}).oauth_client(TOKEN_URL) is None
    config = OAuthConfig.model_validate({**FULL, "access_token": " access-1\n", "expires_at": "2026-03-01T10:00:00Z"})
    assert config.tokens() == Tokens("access-1", "refresh-1", NOW.timestamp())
    assert config.oauth_client(TOKEN_URL) == OAuthClient(TOKEN_URL, "12", "secret-1", "https://example.com")


@pytest.mark.parametrize("missing", ["client_id", "client_secret", "redirect_uri"])
def test_a_refresh_token_needs_its_client(missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}\n.*is needed with refresh_token"):
        OAuthConfig.model_validate({key: value for key, value in FULL.items() if key != missing})


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "жетон"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="visible ASCII"):
        OAuthConfig.model_validate({"access_token": token})
