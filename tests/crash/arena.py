"""A world whose runs are killed, and the judgement of what the vendors have afterwards."""

import signal
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from leadctl.channelkit.spec import Retransmit
from leadctl.channels import channel_class
from leadctl.sandbox import _amocrm_rules as amocrm
from leadctl.sandbox.amocrm import AmoCrmVendor
from leadctl.sandbox.server import Sandbox
from tests.support.servers import Server
from tests.support.world import CHANNELS, TIMEOUT, Finished, World

#: Of the vendors' limits, and of leadctl's own waits and time-outs.
SCALE = 400.0
LEADS = 8
CREDENTIAL = 11
_CRASHING = Path(__file__).with_name("crashing.py")
_DEALS = MappingProxyType({"entity": "deal"})


@dataclass(frozen=True)
class Track:
    """A channel's step whose requests are crashed, at the ``passage``-th.

    A bulk run begins with one lead alone, then five where the vendor has batches: so the second passage of the
    first step leaves something done, something in flight, and something not begun.
    """

    channel: str
    step: str
    passage: int = 2
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: What the step makes is counted by the judge under this name.
    counted: str = ""

    def __str__(self) -> str:
        return f"{self.channel}-{self.step}"

    @property
    def can_ask(self) -> bool:
        """Whether the vendor can be asked about what is in doubt."""
        spec, looking = channel_class(self.channel).spec, Retransmit.LOOKUP
        return any(step.retransmit is looking for step in spec.steps if step.name == self.step) or bool(self.settings)


_KNOWN = (
    Track("amocrm", "lead"),
    Track("amocrm", "note", passage=1),
    Track("bitrix24", "lead"),
    Track("bitrix24", "contact", settings=_DEALS, counted="bitrix24:contact"),
    Track("bitrix24", "deal", passage=1, settings=_DEALS),
    Track("email", "mail"),
    Track("telegram", "message"),
    Track("webhooks", "event"),
)


def _main_track(channel: str) -> Track:
    """The main step of a channel as its emulated vendor's credential has it."""
    steps = channel_class(channel).spec.steps
    place, main = next((place, step) for place, step in enumerate(steps) if not step.preparatory)
    return Track(channel, main.name, passage=1 if place else 2)


TRACKS = (*_KNOWN, *map(_main_track, sorted(set(CHANNELS) - {track.channel for track in _KNOWN})))
#: Those that ask the vendor about what is in doubt.
ASKING = tuple(track for track in TRACKS if track.can_ask)
#: Nothing can be known there of what is in doubt.
BLIND = "telegram"


class Arena(World):
    """A world of one credential and :data:`LEADS` leads."""

    def __init__(self, folder: Path, box: Sandbox, track: Track, server: Server | None = None) -> None:
        super().__init__(folder, scale=SCALE, server=server)
        self.box = box
        self.track = track
        vendor = box.vendor(track.channel)
        self.add_credential(CREDENTIAL, track.channel, vendor.credential(), {**vendor.settings(), **track.settings})
        self.leads = self.new_leads(LEADS)
        self.bulk = ("bulk-resend", *self.leads, "--yes", "--json", "-q")

    # --- crashes -------------------------------------------------------------------------------------------------

    def crash(self, point: str, passage: int, *more: str) -> None:
        """Run the command, with these flags too, which dies at this passage of the point."""
        track = self.track
        command = self.command(*self.bulk, *more)
        command[1:3] = [str(_CRASHING), point, track.channel, track.step, str(passage), "--"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=self.environment(),
            cwd=self.folder,
        )
        assert done.returncode == -signal.SIGKILL, f"it did not come to {point}: {done.returncode} {done.stderr}"

    def in_doubt(self) -> set[str]:
        """Leads whose row says ``sending``."""
        return {str(row[0]) for row in self.ledger_rows("SELECT lead_id FROM leadctl_targets WHERE state = 'sending'")}

    def run_id(self) -> str:
        """Of the run that was killed."""
        ((run_id,),) = self.ledger_rows("SELECT id FROM leadctl_runs WHERE status = 'running'")
        return str(run_id)

    # --- judgement -----------------------------------------------------------------------------------------------

    def made(self) -> Counter[str]:
        """How often the track's step has made something of each lead of this world."""
        if self.track.step == "note":
            return self._mine(notes(self.box))
        return self._mine(self.box.judge.by_lead(self.track.counted or self.track.channel))

    def everything_made(self) -> dict[str, Counter[str]]:
        """What all steps of the channel have made, by what it is."""
        judge, channel = self.box.judge, self.track.channel
        made = {channel: self._mine(judge.by_lead(channel))}
        if channel == "amocrm":
            made["notes"] = self._mine(notes(self.box))
        if self.track.settings:
            made["contacts"] = self._mine(judge.by_lead("bitrix24:contact"))
        return made

    def _mine(self, counts: Mapping[str, int]) -> Counter[str]:
        return Counter({lead: counts[lead] for lead in map(str, self.leads) if counts.get(lead)})

    def everybody(self) -> set[str]:
        return set(map(str, self.leads))

    def assert_settled(self, done: Finished, in_doubt: set[str]) -> None:
        """After the next command: once each; where nothing can be known, at most once, and the doubt is said."""
        document = done.json
        assert sum(document["outcomes"].values()) == LEADS, document["outcomes"]
        assert self.ledger_rows("SELECT id FROM leadctl_runs WHERE status = 'running'") == []
        if self.track.channel == BLIND:
            self._assert_said(done, in_doubt)
            return
        assert done.code == 0, done.err
        for kind, made in self.everything_made().items():
            assert made == Counter(dict.fromkeys(self.everybody(), 1)), kind
        assert self.ledger_rows("SELECT lead_id FROM leadctl_targets WHERE state <> 'delivered'") == []

    def _assert_said(self, done: Finished, in_doubt: set[str]) -> None:
        assert done.code == (6 if in_doubt else 0), done.err
        assert unknown(done.json) == in_doubt
        made = self.made()
        assert self.everybody() - set(made) <= in_doubt, "lost, and not said"
        assert set(made.values()) == {1}
        if not in_doubt:
            return
        again = self.run(*self.bulk, "--retry-unknown")
        assert again.code == 0, again.err
        made = self.made()
        assert set(made) == self.everybody()
        assert {lead for lead, count in made.items() if count > 1} <= in_doubt, "twice, and not said"


def notes(box: Sandbox) -> Counter[str]:
    """How many notes each lead has at amoCRM; the judge counts leads only."""
    vendor = cast("AmoCrmVendor", box.vendor("amocrm"))
    return Counter(amocrm.lead_of(amocrm.key_of(note)) for note in vendor.notes())


def unknown(document: Mapping[str, Any]) -> set[str]:
    """The leads that a run reports to be in doubt where nothing can be known."""
    entries = (entry for entry in document["errors"] if entry["channel"] == BLIND)
    return {str(entry["lead_id"]) for entry in entries if entry["code"] == "maybe_delivered"}
