"""Bulk runs over all channels with faults, killed at random times: ``make soak`` prints the figures.

Every command is killed or stopped until one gets through by itself; then the same command settles what is left, and
the vendors are asked what they have. What may be there twice at a blind channel must have been reported before.
"""

import argparse
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from leadctl.sandbox.judge import AFTER, PARTIAL
from leadctl.sandbox.server import Sandbox, running_sandbox
from tests.crash.arena import BLIND, SCALE, notes, unknown
from tests.support.world import CHANNELS, TIMEOUT, Finished, World

#: Share of the creating requests that meet some fault.
FAULTY = 0.05
#: "unauthorized", "reject" and "error_body" are verdicts, not accidents: the fault matrix has them.
ACCIDENTS = ("rate_limit", "server_error", "bad_gateway", "reset_before", *AFTER, *PARTIAL)
CERTAIN = tuple(channel for channel in CHANNELS if channel != BLIND)
COMMAND = ("bulk-resend", "--entity", 1, "--yes", "--json", "-q")
#: How a command is ended, and how often: by SIGKILL four times in five; a second SIGINT leaves at once.
ENDINGS = (
    *[(signal.SIGKILL,)] * 12,
    (signal.SIGTERM,),
    (signal.SIGINT,),
    (signal.SIGINT, signal.SIGINT),
)
#: The document of a command that began no run.
ERROR = "leadctl.error/1"
#: Of a command that got through by itself: all there, in doubt, or (three accidents in a row) surely not there.
THROUGH = (0, 1, 5, 6)
_UNFINISHED = (
    "SELECT id FROM leadctl_runs WHERE superseded_by IS NULL AND status = 'running' AND total_count >= 0"
    " ORDER BY started_at DESC LIMIT 1"
)


@dataclass
class Figures:
    """What the kills have done."""

    rounds: int = 0
    deliveries: int = 0
    killed: int = 0
    signalled: int = 0
    #: Kills after which the ledger said ``sending`` of a delivery.
    left_in_doubt: int = 0
    lost: int = 0
    twice: int = 0
    reported: int = 0
    possible_repeats: int = 0
    unreported: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.twice or self.unreported)

    def lines(self) -> str:
        rows = (
            ("runs killed by SIGKILL", self.killed),
            ("  that left deliveries in doubt", self.left_in_doubt),
            ("runs ended by SIGTERM or SIGINT", self.signalled),
            ("deliveries", self.deliveries),
            ("lost, and not reported", self.lost),
            ("twice, where a repeat can be known", self.twice),
            ("reported unknown (Telegram)", self.reported),
            ("sent again with --retry-unknown, there twice", self.possible_repeats),
            ("  of these not reported before", self.unreported),
            ("seconds", round(self.seconds)),
        )
        return "".join(f"{text:<46}{number:>8,}\n" for text, number in rows)


@dataclass
class Round:
    """One sandbox and one database; its commands are killed until one gets through."""

    world: World
    box: Sandbox
    leads: int
    dice: random.Random
    figures: Figures
    reported: set[str] = field(default_factory=set)

    def prepare(self, seed: int) -> None:
        self.world.add_leads(range(1, self.leads + 1))
        self.world.connect(self.box)
        for channel in CHANNELS:
            for kind in ACCIDENTS:
                self.box.faults.rate(channel, kind, FAULTY / len(ACCIDENTS), seed)

    def kill(self, enough: int, end: float) -> None:
        """Until so many kills are made in all, the time is over, or a command gets through."""
        while self.figures.killed < enough and time.monotonic() < end:
            if self._end_one():
                return

    def _end_one(self) -> bool:
        """Start the command, and end it at a random time. True: it was faster."""
        process = self._start(self._command())
        had = self._progress()
        # A third at any time since the start; the others when it is sending, which the start must not thin out.
        if self.dice.random() < 0.67:
            _until(lambda: process.poll() is not None or self._progress() > had)
        _until(lambda: process.poll() is not None, self.dice.uniform(0.0, 1.5))
        signals = self.dice.choice(ENDINGS)
        for number in signals:
            process.send_signal(number)
            _until(lambda: process.poll() is not None, 0.1)
        process.wait(TIMEOUT)
        out, err = (self.world.folder / name for name in ("out", "err"))
        return self._count(Finished(process.returncode, out.read_text(), err.read_text()), signals)

    def _start(self, arguments: tuple[object, ...]) -> "subprocess.Popen[bytes]":
        """Writing to files: nobody reads a pipe while it runs, and a full one would stop it."""
        world = self.world
        with (world.folder / "out").open("wb") as out, (world.folder / "err").open("wb") as err:
            return subprocess.Popen(
                world.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=world.environment(),
                cwd=world.folder,
            )

    def _command(self) -> tuple[object, ...]:
        """The same again; one in four times by the id of the run, as its own message says."""
        if self.dice.random() < 0.25 and self.world.ledger_path.exists():
            for (run_id,) in self.world.ledger_rows(_UNFINISHED):
                return ("runs", "resume", run_id, "--json", "-q")
        return COMMAND

    def _progress(self) -> int:
        return len(self.box.judge.creations())

    def _count(self, done: Finished, signals: tuple[int, ...]) -> bool:
        if done.code == -signal.SIGKILL:  # its report, if it came to that, may be cut
            self.figures.killed += 1
            self.figures.left_in_doubt += self._left_in_doubt()
            return False
        self._read(done)
        if done.code in THROUGH:
            return True
        number = signals[0]  # negative: it came before leadctl could listen
        assert done.code in (128 + number, -number), f"{done.code} {done.err}"
        self.figures.signalled += 1
        return False

    def _left_in_doubt(self) -> bool:
        if not self.world.ledger_path.exists():
            return False
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'leadctl_targets'"
        sending = "SELECT 1 FROM leadctl_targets WHERE state = 'sending' LIMIT 1"
        return bool(self.world.ledger_rows(tables) and self.world.ledger_rows(sending))

    def _read(self, done: Finished) -> None:
        """What a command reports in doubt, where only a person can look."""
        if done.out and done.json["schema"] != ERROR:  # a signal that came before the run: nothing was sent
            self.reported |= unknown(done.json)

    def judge(self) -> None:
        """The same command until nothing is left, then the vendors' word."""
        for _ in range(5):
            done = self.world.run(*COMMAND)
            self._read(done)
            assert done.code in THROUGH, done.err
            if done.code not in (1, 5):
                break
        else:
            raise AssertionError("five times the same command, and still something is left")
        document = done.json
        assert sum(document["outcomes"].values()) == self.leads * len(CHANNELS), document["outcomes"]
        figures, everybody = self.figures, {str(number) for number in range(1, self.leads + 1)}
        for there in (*map(self.box.judge.by_lead, CERTAIN), notes(self.box)):
            figures.lost += len(everybody - set(there))
            figures.twice += _twice(there)
        blind = self.box.judge.by_lead(BLIND)
        figures.lost += len(everybody - set(blind) - self.reported)
        figures.unreported += _twice(blind)  # nobody has asked for a repeat
        figures.reported += len(self.reported)
        figures.rounds += 1
        figures.deliveries += self.leads * len(CHANNELS)
        self._retry(everybody)

    def _retry(self, everybody: set[str]) -> None:
        """A person's last word for what is in doubt: then all are there, and what is twice was reported."""
        self.box.faults.clear()
        done = self.world.run(*COMMAND, "--retry-unknown")
        assert done.code == 0, done.err
        there = self.box.judge.by_lead(BLIND)
        self.figures.lost += len(everybody - set(there))
        repeated = {lead for lead, count in there.items() if count > 1}
        self.figures.possible_repeats += len(repeated)
        self.figures.unreported += len(repeated - self.reported)


def _twice(there: Counter[str]) -> int:
    return sum(count > 1 for count in there.values())


def _until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def soak(kills: int, leads: int, seed: int, minutes: float, say: Callable[[str], object]) -> Figures:
    """Rounds of ``leads`` leads until so many commands were killed, or the time is over."""
    figures, began = Figures(), time.monotonic()
    end = began + minutes * 60
    while figures.killed < kills and time.monotonic() < end:
        number = seed + figures.rounds
        with running_sandbox(scale=SCALE) as box, tempfile.TemporaryDirectory() as folder:
            one = Round(
                World(Path(folder), scale=SCALE, env={"XDG_STATE_HOME": folder}),
                box,
                leads,
                random.Random(number),
                figures,
            )
            one.prepare(number)
            one.kill(kills, end)
            one.judge()
        figures.seconds = time.monotonic() - began
        say(f"round {figures.rounds}: {figures.killed} killed, {figures.signalled} stopped, {figures.lost} lost, "
            f"{figures.twice + figures.unreported} twice, {figures.seconds:.0f} s\n")  # fmt: skip
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--leads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=22.0, help="no more kills after so many")
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # a killed client is no error of the vendor
    figures = soak(options.kills, options.leads, options.seed, options.minutes, sys.stderr.write)
    sys.stdout.write(figures.lines())
    return 0 if figures.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
