"""Tokens that rotate, over real processes: one refresh for all, written before it is used, and never a lock-out."""

import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest

from leadctl.sandbox._amocrm_rules import TokenOffice
from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.server import Sandbox
from tests.support.servers import everywhere, on_sqlite
from tests.support.world import World, wait_until

PROCESSES = 4
#: What the application keeps beside the pair: leadctl must not lose it.
ELSEWHERE = {"note": "ours", "nested": {"kept": [1, None, "да"]}}
PAIR = ("access_token", "refresh_token")
LONG_AGO = "2026-01-01T00:00:00Z"

#: No process refreshes before all of them have seen that the token is over.
TOGETHER = f"""
import asyncio, os, pathlib
from leadctl.channelkit.auth import BearerAuth
inner = BearerAuth._renew
async def renew(self, *arguments, **named):
    pathlib.Path(f"expired-{{os.getpid()}}").touch()
    async with asyncio.timeout(60):
        while len(list(pathlib.Path().glob("expired-*"))) < {PROCESSES}:
            await asyncio.sleep(0.01)
    return await inner(self, *arguments, **named)
BearerAuth._renew = renew
"""
#: Where ``kill -9`` strikes: before the method named, or when it is done.
KILLED = """
import os, signal
from leadctl.channelkit.auth import BearerAuth
from leadctl.store.credentials import CredentialRows
inner = {method}
async def killed(self, *arguments, **named):
    if not {after}:
        os.kill(os.getpid(), signal.SIGKILL)
    await inner(self, *arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
{method} = killed
"""
BEFORE_THE_REQUEST = KILLED.format(method="BearerAuth._ask", after=False)
ROTATED_AND_NOT_WRITTEN = KILLED.format(method="BearerAuth._ask", after=True)
WRITTEN_AND_NOT_USED = KILLED.format(method="CredentialRows.swap", after=True)
FROZEN = """
import asyncio, os, signal
from leadctl.channelkit.auth import BearerAuth
inner = BearerAuth._write
async def write(self, *arguments):
    await asyncio.sleep(0.3)  # not in the middle of a commit: the ledger would be locked for everybody
    os.kill(os.getpid(), signal.SIGSTOP)
    return await inner(self, *arguments)
BearerAuth._write = write
"""
#: Says that it waits for the lease.
WAITING = """
import pathlib
from leadctl.store.credentials import CredentialRows
inner = CredentialRows.lease
def lease(self, credential_id):
    pathlib.Path("waiting").touch()
    return inner(self, credential_id)
CredentialRows.lease = lease
"""
#: Root passes over file modes; without this one right it does not.
NO_OVERRIDE = """
import ctypes
CAP_DAC_OVERRIDE = 1
libc = ctypes.CDLL(None)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc.capget(header, sets)
sets[0] &= ~(1 << CAP_DAC_OVERRIDE)
libc.capset(header, sets)
"""


@pytest.fixture
def amocrm(box: Sandbox) -> AmoCrmVendor:
    """With a pair that no other test knows."""
    vendor = box.vendor("amocrm")
    assert isinstance(vendor, AmoCrmVendor)
    vendor.oauth = TokenOffice()
    return vendor


def connect(world: World, amocrm: AmoCrmVendor, **more: Any) -> Mapping[str, Any]:
    """Credential 11, whose access token is over."""
    data = {**amocrm.oauth_credential(), **ELSEWHERE, **more}
    world.add_credential(11, "amocrm", data, amocrm.settings())
    amocrm.oauth.expire()
    return data


def row_of(world: World) -> dict[str, Any]:
    return world.data_of(11)


def pair(data: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(data[name] for name in PAIR)


@everywhere
def test_one_refresh_for_four_processes_and_the_pair_is_written_back(world: World, amocrm: AmoCrmVendor) -> None:
    before = connect(world, amocrm, expires_at=LONG_AGO)
    leads = world.new_leads(PROCESSES)
    processes = [world.start("resend", lead, "--log-format", "json", patch=TOGETHER) for lead in leads]
    ended = [world.finish(process) for process in processes]
    assert [done.code for done in ended] == [0] * PROCESSES, [done.err for done in ended]
    assert amocrm.oauth.refreshed == 1
    assert [amocrm.judge.by_lead("amocrm")[str(lead)] for lead in leads] == [1] * PROCESSES

    after = row_of(world)
    assert pair(after) == (amocrm.oauth.access_token, amocrm.oauth.refresh_token)
    moved = (*PAIR, "expires_at")
    assert {k: v for k, v in after.items() if k not in moved} == {k: v for k, v in before.items() if k not in moved}
    assert after["expires_at"].endswith("Z"), "as the application writes it"
    assert after["expires_at"] > LONG_AGO
    events = [record["event"] for done in ended for record in done.records]
    assert events.count("token_refreshed") == 1
    said = "".join(done.out + done.err for done in ended)
    assert not [secret for secret in (*pair(before), *pair(after)) if secret in said]


@everywhere
@pytest.mark.parametrize(
    ("patch", "refreshes"),
    [(BEFORE_THE_REQUEST, (0, 1)), (ROTATED_AND_NOT_WRITTEN, (1, 2)), (WRITTEN_AND_NOT_USED, (1, 1))],
    ids=["before the request", "rotated and not written", "written and not used"],
)
def test_killed_at_any_point_of_a_refresh_the_next_command_delivers(
    world: World, amocrm: AmoCrmVendor, patch: str, refreshes: tuple[int, int]
) -> None:
    before = connect(world, amocrm)
    (lead,) = world.new_leads()
    assert world.run("resend", lead, patch=patch).code == -9
    killed, healed = refreshes
    assert amocrm.oauth.refreshed == killed
    written = patch is WRITTEN_AND_NOT_USED
    assert pair(row_of(world)) == (pair(amocrm.oauth_credential()) if written else pair(before))

    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (0, {11: "delivered"}), done.err
    assert amocrm.oauth.refreshed == healed
    assert amocrm.judge.by_lead("amocrm")[str(lead)] == 1
    assert row_of(world) == {**before, **row_of(world)}, "nothing of the application's is lost"
    assert pair(row_of(world)) == (amocrm.oauth.access_token, amocrm.oauth.refresh_token)


def test_an_answer_that_is_lost_is_asked_for_once_more_with_the_old_token(
    world: World, box: Sandbox, amocrm: AmoCrmVendor
) -> None:
    class Office(TokenOffice):
        """Its first answer is lost on the way: the pair has rotated."""

        def refresh(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
            box.faults.clear()
            return super().refresh(body)

    amocrm.oauth = Office()
    connect(world, amocrm, expires_at=1)
    (lead,) = world.new_leads()
    box.faults.always("amocrm", "reset")
    done = world.run("resend", lead, "--json")
    assert (done.code, done.outcomes) == (0, {11: "delivered"}), done.err
    assert amocrm.oauth.refreshed == 2
    assert pair(row_of(world)) == (amocrm.oauth.access_token, amocrm.oauth.refresh_token)
    assert row_of(world)["expires_at"] > 1_700_000_000


def test_where_the_old_one_ends_at_once_a_kill_is_told_and_a_new_authorisation_goes_on(
    world: World, amocrm: AmoCrmVendor
) -> None:
    amocrm.oauth.strict = True
    before = connect(world, amocrm)
    (lead,) = world.new_leads()
    assert world.run("resend", lead, patch=ROTATED_AND_NOT_WRITTEN).code == -9
    done = world.run("resend", lead, "--json")
    (error,) = done.json["errors"]
    assert (done.code, error["code"], error["vendor_code"]) == (4, "credential_refused", "refresh_refused")
    assert "authorise the integration again" in error["message"]
    assert row_of(world) == before, "a refusal writes nothing"

    world.set_data(11, amocrm.oauth_credential())
    assert world.run("resend", lead).code == 0
    assert amocrm.judge.by_lead("amocrm")[str(lead)] == 1


@on_sqlite
def test_what_cannot_be_written_back_is_not_refreshed(world: World, amocrm: AmoCrmVendor) -> None:
    before = connect(world, amocrm)
    (lead,) = world.new_leads()
    world.db_path.chmod(0o444)
    done = world.run("resend", lead, "--json", patch=NO_OVERRIDE)
    (error,) = done.json["errors"]
    assert (done.code, done.outcomes, error["code"]) == (4, {11: "unprocessed"}, "credential_refused"), done.err
    for part in ("cannot be written", "not refreshed", "UPDATE"):
        assert part in error["message"]
    assert (amocrm.oauth.refreshed, row_of(world)) == (0, before)

    world.db_path.chmod(0o644)
    assert world.run("resend", lead).code == 0
    assert amocrm.oauth.refreshed == 1


@on_sqlite
def test_a_token_that_lives_is_used_although_it_cannot_be_refreshed(world: World, amocrm: AmoCrmVendor) -> None:
    """It has less than two minutes, and nobody can write the next one."""
    world.add_credential(11, "amocrm", amocrm.oauth_credential(1), amocrm.settings())
    world.execute(
        "UPDATE credentials SET data = json_set(data, '$.expires_at', CAST(strftime('%s', 'now') AS INTEGER) + 60)"
    )
    world.execute("CREATE TRIGGER keep_out BEFORE UPDATE ON credentials BEGIN SELECT RAISE(ABORT, 'no'); END")
    (lead,) = world.new_leads()
    assert world.run("resend", lead).code == 0
    assert amocrm.oauth.refreshed == 0


@everywhere
def test_revoked_and_the_application_writes_a_new_pair_within_ten_seconds(world: World, amocrm: AmoCrmVendor) -> None:
    connect(world, amocrm, refresh_token="revoked-0123456789")
    (lead,) = world.new_leads()
    requests = amocrm.judge.requests("amocrm")
    process = world.start("resend", lead, "--json", LEADCTL_LIMITS__SCALE="5")
    wait_until(lambda: amocrm.judge.requests("amocrm") >= requests + 2)  # a 401, and the refusal of the refresh
    fresh = amocrm.oauth.refresh({**amocrm.oauth_credential(), "refresh_token": amocrm.oauth.refresh_token})
    assert fresh is not None
    world.set_data(11, amocrm.oauth_credential())
    done = world.finish(process)
    assert (done.code, done.outcomes) == (0, {11: "delivered"}), done.err
    assert amocrm.oauth.refreshed == 1, "only the application refreshed"
    assert amocrm.judge.by_lead("amocrm")[str(lead)] == 1


def test_a_signal_ends_the_wait_for_another_refresh_at_once(world: World, amocrm: AmoCrmVendor) -> None:
    connect(world, amocrm)
    leads = world.new_leads(2)
    # Waiting for the end of the drain would take longer than a test may.
    world.write_config("[limits]\nscale = 1\n[send]\ndrain = 3600\n")
    processes = [world.start("resend", leads[0], patch=FROZEN)]
    try:
        wait_until(lambda: amocrm.oauth.refreshed)
        waiting = world.start("resend", leads[1], "--json", patch=WAITING)
        processes.append(waiting)
        wait_until((world.folder / "waiting").exists)
        time.sleep(0.3)
        waiting.send_signal(signal.SIGTERM)
        stopped = world.finish(waiting)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    (error,) = stopped.json["errors"]
    assert (stopped.code, stopped.outcomes, error["code"]) == (143, {11: "unprocessed"}, "run_stopped")
    assert amocrm.judge.by_lead("amocrm")[str(leads[1])] == 0


@everywhere
def test_a_frozen_refresh_is_not_waited_for_without_end_nor_done_twice(world: World, amocrm: AmoCrmVendor) -> None:
    connect(world, amocrm)
    leads = world.new_leads(2)
    frozen = world.start("resend", leads[0], patch=FROZEN)
    try:
        wait_until(lambda: amocrm.oauth.refreshed)
        other = world.run("resend", leads[1], "--json", LEADCTL_LIMITS__SCALE="400")
        frozen.send_signal(signal.SIGCONT)
        assert world.finish(frozen).code == 0
    finally:
        frozen.kill()
    (error,) = other.json["errors"]
    assert (other.code, other.outcomes, error["code"]) == (5, {11: "unprocessed"}, "limit_reached"), other.err
    assert "another process" in error["message"]
    assert world.run("resend", leads[1]).code == 0
    assert amocrm.oauth.refreshed == 1
    assert [amocrm.judge.by_lead("amocrm")[str(lead)] for lead in leads] == [1, 1]
