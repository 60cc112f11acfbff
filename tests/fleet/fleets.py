"""A company with many accounts, and workers as real processes; judged at the vendors."""

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from leadctl.sandbox.judge import SlidingWindow
from leadctl.sandbox.server import Sandbox
from tests.support.world import TIMEOUT, World, wait_until

#: Seconds without a sign of life after which a worker's chunks go on elsewhere.
HEARTBEAT = 2


@dataclass
class Process:
    """A worker, with what it has said so far."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """Its log, of one event or all."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [record for record in found if event in (None, record["event"])]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)


@dataclass
class Company:
    """One database with leads, an amoCRM account for each credential, and any number of workers."""

    world: World
    box: Sandbox
    workers: list[Process] = field(default_factory=list)

    def connect(self, names: tuple[str, ...] = ("amocrm", "webhooks")) -> None:
        """A credential for every account of these vendors in the sandbox."""
        vendors = [vendor for vendor in self.box.vendors if vendor.name in names]
        for number, vendor in enumerate(vendors, 11):
            self.world.add_credential(number, vendor.name, vendor.credential(), vendor.settings())

    def queue(self, *options: object) -> dict[str, Any]:
        """Queue everything; the run's document."""
        done = self.world.run("bulk-resend", "--since", "2020-01-01", "--yes", "--json", "--queue", *options)
        assert done.code == 0, done.err
        document: dict[str, Any] = done.json
        return document

    def work(self, *options: object, before: Sequence[str] = (), config: Path | None = None, **env: str) -> Process:
        """Start a worker. ``before``: what starts it in turn."""
        log = self.world.folder / f"worker-{len(self.workers)}.log"
        command = self.world.command(
            *(["--config", config] if config else []),
            "--log-format",
            "json",
            "worker",
            "--heartbeat",
            f"{HEARTBEAT}s",
            *options,
        )
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*before, *command], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                env=self.world.environment(**env), cwd=self.world.folder,
            )  # fmt: skip
        worker = Process(process, log)
        self.workers.append(worker)
        return worker

    def status(self, run_id: str) -> str:
        """As the run's row has it."""
        return str(self.world.ledger_rows(f"SELECT status FROM leadctl_runs WHERE id = '{run_id}'")[0][0])

    def finish(self, run_id: str, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the end of a run; its document."""
        wait_until(lambda: self.status(run_id) != "queued", seconds)
        document: dict[str, Any] = self.world.run("runs", "show", run_id, "--json").json
        return document

    def done(self) -> int:
        """Deliveries that have arrived."""
        return len(self.box.judge.creations())

    def close(self) -> None:
        """End the workers, frozen ones too."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.send(signal.SIGCONT)
                worker.send(signal.SIGKILL)
                worker.wait()

    def assert_once(self, leads: int) -> None:
        """Every lead is at every account once."""
        for vendor in {vendor.name for vendor in self.box.vendors}:
            accounts = sum(other.name == vendor for other in self.box.vendors)
            by_lead = self.box.judge.by_lead(vendor)
            assert Counter(by_lead.values()) == {accounts: leads}, vendor


@contextmanager
def counting_refusals() -> Iterator[Callable[[], int]]:
    """How often a vendor's own limit was passed."""
    refused = 0
    admit = SlidingWindow.admit

    def counted(window: SlidingWindow) -> float:
        nonlocal refused
        wait = admit(window)
        refused += wait > 0
        return wait

    with mock.patch.object(SlidingWindow, "admit", counted):
        yield lambda: refused
