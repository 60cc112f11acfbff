"""Two workers on two machines, as far as the network can tell, and one of them cut off."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url

from leadctl.sandbox.server import running_sandbox
from leadctl.store.engines import parse_url, server_engine
from leadctl.store.leases import ServerLeases
from tests.fleet.fleets import Company
from tests.support.needs import leave_out
from tests.support.servers import Server, query, require_postgresql, running_postgresql
from tests.support.world import World, wait_until

#: The machine that has the database and the vendors; the workers' have the next ones.
HOME = "10.213.87.1"
NET = "10.213.87.0/24"
CUT = 20.0
#: 100 deliveries a second, whatever this machine can do: a run of 600 leads lasts longer than :data:`CUT`.
SCALE = 2.0
_numbers = itertools.count()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@contextmanager
def network(names: list[str]) -> Iterator[None]:
    """A bridge with a namespace for each name, and a link ``NAME-l`` to each."""
    bridge = f"lcb{os.getpid() % 100_000}"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{HOME}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names, 2):
            _ip("netns", "add", name)
            _ip("link", "add", f"{name}-l", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"{name}-l", "master", bridge, "up")
            _ip("-n", name, "addr", "add", HOME.replace(".87.1", f".87.{number}") + "/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True, timeout=20)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Names of two network namespaces that reach :data:`HOME`, which only an administrator can make."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        leave_out("network namespaces need root and iproute2 (apt-get install iproute2)")
    # A link goes some time after its namespace: every test has names of its own.
    names = [f"lc{os.getpid() % 100_000}{letter}{next(_numbers)}" for letter in "ab"]
    try:
        with network(names):
            yield names
    except subprocess.CalledProcessError as error:
        leave_out(f"no network namespaces here: {error.stderr.decode(errors='replace').strip()}")


@pytest.fixture
def company(tmp_path: Path, machines: list[str]) -> Iterator[Company]:
    """It is reached over the network."""
    del machines
    require_postgresql()
    with (
        running_postgresql(f"listen_addresses=127.0.0.1,{HOME}") as url,
        running_sandbox(["amocrm", *["webhooks"] * 4], scale=SCALE, host=HOME) as box,
    ):
        server = Server("postgresql", make_url(url).port or 0)
        world = World(tmp_path / "world", scale=SCALE, server=server)
        world.write_config("[limits.amocrm]\nrate = 2\n", allow=f'["{NET}"]')
        ((rules,),) = query(world.url, "SHOW hba_file")
        with Path(rules).open("a") as file:
            file.write(f"host all all {NET} trust\n")
        query(world.url, "SELECT pg_reload_conf()")
        made = Company(world, box)
        made.connect()
        assert world.run("queue", "init").code == 0
        try:
            yield made
        finally:
            made.close()


def test_a_worker_that_is_cut_off(company: Company, machines: list[str]) -> None:
    company.world.new_leads(600)
    away = company.world.path(
        "away.toml", (company.world.folder / "leadctl.toml").read_text().replace("127.0.0.1", HOME)
    )
    away.chmod(0o600)
    run = company.queue("--chunk", "0.2s")["run_id"]
    first, second = (
        company.work(before=["ip", "netns", "exec", name], LEADCTL_CONFIG=str(away), config=away) for name in machines
    )
    wait_until(lambda: company.done() > 300 and first.records("chunk_started") and second.records("chunk_started"))
    _ip("link", "set", f"{machines[0]}-l", "down")
    cut, before = time.monotonic(), company.done()
    # The other one goes on while it is away, however slow this machine is.
    wait_until(lambda: time.monotonic() - cut > CUT and company.done() > before + 300, 4 * CUT)
    _ip("link", "set", f"{machines[0]}-l", "up")
    # Where it was away for so long that it gave its connections up, the server keeps its leases for three minutes.
    document = company.finish(run, 240)
    assert (document["status"], document["exit_code"]) == ("ok", 0)
    company.assert_once(600)


#: Holds a lease. The server's minutes are seconds here.
HOLDER = """
import sys, time
from leadctl.store import locks
locks._KEPT.update(tcp_keepalives_idle="1", tcp_keepalives_interval="1", tcp_keepalives_count="2")
locks._KEPT.update(tcp_user_timeout="3000")
from leadctl.store.engines import parse_url, server_engine
from leadctl.store.leases import ServerLeases
lease = ServerLeases(server_engine(parse_url(sys.argv[1], "url")), "the ledger").acquire("run-1", {})
print(lease is not None, flush=True)
time.sleep(600)
"""


def test_the_lease_of_a_machine_that_is_away_for_good_ends(company: Company, machines: list[str]) -> None:
    """It says no word at the end: neither its process nor its kernel."""
    url = company.world.url
    command = ["ip", "netns", "exec", machines[0], sys.executable, "-c", HOLDER, url.replace("127.0.0.1", HOME)]
    engine = server_engine(parse_url(url, "url"))
    leases = ServerLeases(engine, "the ledger")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            assert leases.acquire("run-1", {}) is None
            _ip("link", "set", f"{machines[0]}-l", "down")
            wait_until(lambda: leases.acquire("run-1", {}) is not None)
        finally:
            holder.kill()
            leases.close()
            engine.dispose()
