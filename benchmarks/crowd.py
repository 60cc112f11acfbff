"""Rows 6 and 10: fifty destinations at once, all of them well, and three of them not."""

import json
import signal
import sqlite3
import statistics
import subprocess
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.measuring import LEADCTL, ROOT, Ratio, Row, Sizes, at_least, environment, in_turn
from benchmarks.sending import receiver
from benchmarks.world import World, build

DESTINATIONS = 50
LATENCY = 0.1
#: Seconds after which a run that does not come to its end is stopped.
PATIENCE = 40.0
#: The addresses that are not well: nobody listens at the first.
DEAD, SLOW, THROTTLED = "127.0.0.90", "127.0.0.2", "127.0.0.3"
_CONFIG = "[limits.webhooks]\nrate = 1000\n[send]\ndrain = 1\n"


def _world(folder: Path, url: str, leads: int, *, ill: bool) -> World:
    """Every lead goes to all destinations."""
    from leadctl.channels import channel_class

    spec = channel_class("webhooks").spec
    hosts = [f"127.0.0.{number}" for number in range(1, DESTINATIONS + 1)]
    if ill:
        hosts[0] = DEAD
    urls = [url.replace("127.0.0.1", host) for host in hosts]
    credentials = [("webhooks", {**spec.example_data, "url": each}, spec.example_settings) for each in urls]
    world = build(folder, leads, credentials, _CONFIG)
    with closing(sqlite3.connect(world.database)) as connection, connection:
        connection.execute("UPDATE leads SET external_entity_id = 1, external_project_id = 1")
        connection.execute("DELETE FROM entity_credentials")
        connection.execute("DELETE FROM project_credentials")
        connection.execute(
            "INSERT INTO entity_credentials (external_entity_id, credentials_id) SELECT 1, id FROM credentials"
        )
    return world


def _account(url: str, query: str = "") -> dict[str, Any]:
    with urllib.request.urlopen(url + query, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _sent(world: World, url: str, wanted: int, *, ill: bool) -> dict[str, Any]:
    """A run until so many events have arrived at the destinations that are well; what arrived there."""
    world.forget()
    _account(url, f"?slow={SLOW}&throttled={THROTTLED}" if ill else "")
    command = [LEADCTL, "--config", str(world.config), "bulk-resend", "--entity", "1", "--yes", "--quiet"]
    began = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(ROOT), cwd=world.folder
    )
    arrived = 0
    while arrived < wanted and process.poll() is None and time.monotonic() - began < PATIENCE:
        time.sleep(0.2)
        arrived = _delivered(world)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.wait(30)
    return _account(url)


def _delivered(world: World) -> int:
    """By the credentials that are well: those of the first three are not counted."""
    statement = (
        "SELECT count(*) FROM leadctl_targets WHERE state = 'delivered' AND credential_id NOT IN ('1', '2', '3')"
    )
    try:
        with closing(sqlite3.connect(f"file:{world.ledger}?mode=ro", uri=True, timeout=5)) as ledger:
            return int(ledger.execute(statement).fetchone()[0])
    except sqlite3.OperationalError:  # not there yet
        return 0


def _rate(found: dict[str, Any], leads: int) -> float:
    """Events a second at the 47 that are well in both runs. Raises RuntimeError if one of them is missing."""
    well = [entry for host, entry in found["hosts"].items() if host not in ("127.0.0.1", DEAD, SLOW, THROTTLED)]
    if [count for count, _, _ in well] != [leads] * (DESTINATIONS - 3):
        raise RuntimeError(f"{leads} events were to arrive at each of {DESTINATIONS - 3}: {found['hosts']}")
    seconds = float(max(last for _, _, last in well) - min(first for _, first, _ in well))
    return leads * len(well) / seconds


def latency(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 6."""
    from leadctl.channels import channel_class

    leads, concurrency = max(10, sizes.bulk // 10), channel_class("webhooks").spec.concurrency
    with receiver("--hosts", str(DESTINATIONS), "--latency", str(LATENCY)) as url:
        world = _world(folder / "far", url, leads, ill=False)
        rates = [
            _sent(world, url, leads * (DESTINATIONS - 3), ill=False)["middle_rate"] for _ in range(min(2, sizes.rounds))
        ]
    arithmetic = DESTINATIONS * concurrency / LATENCY
    rate = statistics.median(rates)
    what = f"bulk to {DESTINATIONS} receivers of {LATENCY * 1000:.0f} ms latency, {concurrency} in flight each"
    return [
        Row("6", f"{what}, to concurrency ÷ latency", "≥ 0.9 ×", f"{rate / arithmetic:.2f} ×",
            at_least(rate / arithmetic, 0.9),
            f"{rate:,.0f}/s to {arithmetic:,.0f}/s, in the middle half of {leads * DESTINATIONS:,} requests"),
    ]  # fmt: skip


def trouble(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 10."""
    leads = max(10, sizes.bulk // 20)
    wanted = leads * (DESTINATIONS - 3)
    with receiver("--hosts", str(DESTINATIONS), "--latency", str(LATENCY)) as url:
        well = _world(folder / "well", url, leads, ill=False)
        ill = _world(folder / "ill", url, leads, ill=True)
        without, among = in_turn(
            min(2, sizes.rounds),
            lambda: _rate(_sent(well, url, wanted, ill=False), leads),
            lambda: _rate(_sent(ill, url, wanted, ill=True), leads),
        )
    ratio = Ratio.of(among, without)
    return [
        Row("10", "one dead, one slow (2 s), one throttling (429) among 50 receivers: the speed of the other 47",
            "≥ 0.95 ×", str(ratio), at_least(ratio.value, 0.95),
            f"{statistics.median(among):,.0f}/s to {statistics.median(without):,.0f}/s where all are well"),
    ]  # fmt: skip
