"""An application that lives beside leadctl on the same server: it writes while leadctl reads, holds locks, and gives an
account that may only read. Nothing of it is lost, and no vendor is waited for in a transaction."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from leadctl.sandbox._amocrm_rules import TokenOffice
from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.server import Sandbox
from tests.support.servers import Server, connected, on_servers, query, server_of
from tests.support.world import World, wait_until

CHANNELS = ("webhooks", "amocrm")
#: A lock of the application is given up after a second, and asked for again.
SOON = "from leadctl.store import engines\nengines.BUSY_TIMEOUT = 1.0\n"


@pytest.fixture
def amocrm(box: Sandbox) -> AmoCrmVendor:
    """With a pair that no other test knows."""
    vendor = box.vendor("amocrm")
    assert isinstance(vendor, AmoCrmVendor)
    vendor.oauth = TokenOffice()
    return vendor


class Watched(TokenOffice):
    """Something happens while the request for a new pair is in flight."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self._act = act

    def refresh(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        self._act()
        return super().refresh(body)


def set_key(world: World, key: str, cursor: Any) -> None:
    """As an application does it: read under a lock, and write the whole."""
    assert world.server is not None
    cursor.execute("SELECT data FROM credentials WHERE id = 11 FOR UPDATE")
    ((data,),) = cursor.fetchall()
    kept = data if isinstance(data, dict) else json.loads(data)
    cursor.execute("UPDATE credentials SET data = %s WHERE id = 11", (json.dumps({**kept, key: "theirs"}),))


def pair(data: Mapping[str, Any]) -> tuple[str, str]:
    return data["access_token"], data["refresh_token"]


@on_servers
def test_what_the_application_changes_during_a_refresh_is_kept(world: World, amocrm: AmoCrmVendor) -> None:
    """Between our look at the row and our write; and it still holds its lock when we come to write."""
    assert world.server is not None
    server, seen, let_go = world.server, [], threading.Event()
    (lead,) = world.new_leads()
    with connected(world.url) as connection, closing(connection.cursor()) as cursor:

        def write() -> None:
            seen.extend(server.open_transactions(world.url))
            cursor.execute("BEGIN")
            set_key(world, "note", cursor)
            threading.Timer(1.5, commit).start()

        def commit() -> None:
            let_go.set()
            connection.commit()

        amocrm.oauth = Watched(write)
        world.add_credential(11, "amocrm", {**amocrm.oauth_credential(), "kept": [1, None]}, amocrm.settings())
        amocrm.oauth.expire()
        done = world.run("resend", lead, "--json", patch=SOON)
        assert let_go.is_set(), "it was waited for"
    assert (done.code, done.outcomes) == (0, {11: "delivered"}), done.err
    data = world.data_of(11)
    assert (data["note"], data["kept"]) == ("theirs", [1, None])
    assert pair(data) == (amocrm.oauth.access_token, amocrm.oauth.refresh_token)
    assert amocrm.oauth.refreshed == 1
    assert seen == [], "a transaction is open while the vendor is waited for"
    assert amocrm.judge.by_lead("amocrm")[str(lead)] == 1


@on_servers
def test_no_transaction_is_open_while_a_vendor_is_waited_for(world: World, box: Sandbox) -> None:
    world.connect(box, CHANNELS)
    (lead,) = world.new_leads()
    for channel in CHANNELS:
        box.faults.script(channel, lead, ["timeout"])
    process = world.start("resend", lead, LEADCTL_LIMITS__SCALE="20")
    try:
        wait_until(lambda: all(box.judge.by_lead(channel)[str(lead)] for channel in CHANNELS))
        assert world.server is not None
        for _ in range(10):
            assert world.server.open_transactions(world.url) == []
            time.sleep(0.02)
        # Nobody is in the way of a migration of the application.
        query(world.url, "ALTER TABLE credentials ADD COLUMN later INTEGER")
        query(world.url, "ALTER TABLE leads ADD COLUMN later INTEGER")
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@on_servers
def test_a_table_that_is_locked_for_a_while_is_waited_for(world: World, box: Sandbox) -> None:
    """As a migration does."""
    world.connect(box, ["webhooks"])
    (lead,) = world.new_leads()
    assert world.server is not None
    with connected(world.url) as connection, closing(connection.cursor()) as cursor:
        if world.server.kind == "postgresql":
            cursor.execute("BEGIN")
            cursor.execute("LOCK TABLE leads IN ACCESS EXCLUSIVE MODE")
        else:
            cursor.execute("LOCK TABLES leads WRITE")
        process = world.start("resend", lead, "--json", patch=SOON)
        time.sleep(2.5)
        assert process.poll() is None
        cursor.execute("COMMIT" if world.server.kind == "postgresql" else "UNLOCK TABLES")
        done = world.finish(process)
    assert (done.code, done.outcomes) == (0, {11: "delivered"}), done.err


@contextmanager
def writing(world: World, last: int) -> Iterator[list[int]]:
    """An application at work: new leads, changed leads, another name for a credential, all the time. How often."""
    rounds: list[int] = []
    over = threading.Event()

    def work() -> None:
        with connected(world.url) as connection, closing(connection.cursor()) as cursor:
            while not over.is_set():
                number = 1_000_000 + last * 10_000 + len(rounds)
                cursor.execute("BEGIN")
                cursor.execute("INSERT INTO leads (id, external_entity_id, name) VALUES (%s, 2, 'new')", (number,))
                cursor.execute("UPDATE leads SET comment = %s WHERE id = %s", (f"c{number}", last))
                cursor.execute("UPDATE credentials SET name = %s WHERE id = 11", (f"n{number}",))
                set_key(world, "round", cursor)
                cursor.execute("COMMIT")
                rounds.append(number)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        over.set()
        thread.join()


@on_servers
def test_the_application_writes_all_the_time(world: World, box: Sandbox, amocrm: AmoCrmVendor) -> None:
    world.add_credential(11, "amocrm", amocrm.oauth_credential(), amocrm.settings())
    receiver = box.vendor("webhooks")
    world.add_credential(12, "webhooks", receiver.credential(), receiver.settings())
    amocrm.oauth.expire()
    leads = world.new_leads(60)
    with writing(world, leads[-1]) as rounds:
        done = world.run("bulk-resend", "--entity", 1, "--yes", "--json")
    assert done.code == 0, done.err
    assert (done.json["outcomes"]["delivered"], amocrm.oauth.refreshed) == (120, 1)
    for channel in CHANNELS:
        there = box.judge.by_lead(channel)
        assert {lead: there[str(lead)] for lead in leads} == dict.fromkeys(leads, 1)
    data = world.data_of(11)
    assert (pair(data), data["round"]) == ((amocrm.oauth.access_token, amocrm.oauth.refresh_token), "theirs")
    assert world.rows("SELECT name FROM credentials WHERE id = 11") == [(f"n{rounds[-1]}",)]
    assert world.rows("SELECT COUNT(*) FROM leads WHERE external_entity_id = 2") == [(len(rounds),)]
    assert len(rounds) > 10


# --- leads and credentials that may only be read ---------------------------------------------------------------------


@pytest.fixture(params=[("postgresql", "sqlite"), ("mariadb", "sqlite"), ("postgresql", "mariadb")], ids="-".join)
def apart(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Leads on an account that may only read; the ledger is elsewhere."""
    source, ledger = (server_of(request, kind) for kind in request.param)
    assert source is not None
    world = World(tmp_path, scale=100, server=source)
    elsewhere = ledger.new_database() if ledger else f"sqlite:///{tmp_path}/ledger.db"
    world.env |= {"LEADCTL_DATABASE__URL": source.reader(world.url), "LEADCTL_LEDGER__URL": elsewhere}
    return world


def tables_of(server: Server, url: str) -> list[str]:
    schema = "current_schema()" if server.kind == "postgresql" else "DATABASE()"
    return [name for (name,) in query(
        url, f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema} ORDER BY 1"
    )]  # fmt: skip


def test_everything_works_with_a_ledger_elsewhere(apart: World, box: Sandbox) -> None:
    apart.connect(box, CHANNELS)
    leads = apart.new_leads(5)
    planned = apart.run("plan", *leads, "--json")
    assert (planned.code, planned.err.count("error")) == (0, 0)
    doctor = apart.run("doctor", "--json")
    assert doctor.code == 0, doctor.out
    assert apart.run("resend", leads[0], "--json").outcomes == {11: "delivered", 12: "delivered"}
    box.faults.script("amocrm", leads[1], ["timeout"])
    done = apart.run("bulk-resend", *leads, "--yes", "--json")
    assert done.code == 0, done.err
    assert (done.json["outcomes"]["delivered"], done.json["outcomes"]["already_delivered"]) == (8, 2)
    for channel in CHANNELS:
        assert [box.judge.by_lead(channel)[str(lead)] for lead in leads] == [1] * 5
    shown = apart.run("runs", "show", done.json["run_id"], "--json")
    assert shown.json["outcomes"] == done.json["outcomes"]
    assert apart.server is not None
    assert tables_of(apart.server, apart.url) == ["credentials", "entity_credentials", "leads", "project_credentials"]


def test_what_needs_writing_back_says_so_before_the_request(apart: World, amocrm: AmoCrmVendor) -> None:
    apart.add_credential(11, "amocrm", amocrm.oauth_credential(), amocrm.settings())
    amocrm.oauth.expire()
    before = apart.data_of(11)
    leads = apart.new_leads(2)
    done = apart.run("bulk-resend", *leads, "--yes", "--json")
    (error,) = {(error["code"], error["message"]) for error in done.json["errors"]}
    assert (done.code, error[0], set(done.outcomes.values())) == (4, "credential_refused", {"unprocessed"}), done.err
    for part in ("cannot be written", "not refreshed", "UPDATE"):
        assert part in error[1]
    assert (amocrm.oauth.refreshed, apart.data_of(11)) == (0, before)
    apart.env.pop("LEADCTL_DATABASE__URL")
    done = apart.run("bulk-resend", *leads, "--yes", "--json")
    assert (done.code, amocrm.oauth.refreshed) == (0, 1), done.err
    assert pair(apart.data_of(11)) == (amocrm.oauth.access_token, amocrm.oauth.refresh_token)


def test_without_a_place_for_the_ledger_it_can_plan_and_says_what_is_missing(apart: World, box: Sandbox) -> None:
    apart.env.pop("LEADCTL_LEDGER__URL")
    apart.connect(box, ["webhooks"])
    (lead,) = apart.new_leads()
    assert apart.run("plan", lead, "--json").code == 0
    refused = apart.run("resend", lead, "--json")
    assert (refused.code, refused.json["code"]) == (2, "usage")
    assert "cannot be written" in refused.json["message"]
    assert "[ledger] url" in refused.json["hint"]
    assert box.judge.by_lead("webhooks")[str(lead)] == 0
