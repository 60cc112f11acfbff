"""A state machine over plan, send, crash, resume, outage, second operator, credential change and clock jumps.

Hypothesis chooses what happens; :mod:`tests.delivery.machine_audit` says what must hold at every commit and at every
request; here stands what must hold at the end: the same command a few times, with the vendors up, and nothing is lost.
``HYPOTHESIS_PROFILE=soak`` looks further, with new examples each time.
"""

import os
from typing import Any

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from leadctl.channelkit.spec import Retransmit
from leadctl.domain.outcomes import TargetState
from tests.delivery.machine_vendors import CHANNELS, OUTAGES, Fate, main_step
from tests.delivery.machine_world import LEADS, PLACES, POINTS, Process, World

#: Operators: each has at most one process.
SLOTS = st.integers(0, 1)
CHANNEL = st.sampled_from(sorted(CHANNELS))
LEAD = st.sampled_from(LEADS)
SELECTION = st.one_of(st.just(LEADS), st.lists(LEAD, min_size=1, max_size=4, unique=True).map(sorted))
#: Where it dies, after how many passages, and whether what is under way does not arrive at the vendor any more.
CRASH = st.one_of(st.none(), st.tuples(st.sampled_from(POINTS), st.integers(0, 12), st.booleans()))
#: What becomes of a channel's next requests.
FATES = st.fixed_dictionaries({name: st.lists(st.sampled_from(list(Fate)), max_size=6) for name in CHANNELS})
#: How long nothing else happens; None: until the process has ended.
PAUSE = st.one_of(st.none(), st.sampled_from((0.3, 1.0, 5.0, 20.0, 40.0, 120.0, 600.0)))
JUMP = st.sampled_from((-3000.0, -60.0, -5.0, 5.0, 60.0, 3000.0))
MODE = st.sampled_from(("resend", "resend", "bulk", "retry", "force"))
Crash = tuple[str, int, bool] | None


class Machine(RuleBasedStateMachine):
    """Two operators over one ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.operators: list[Process | None] = [None, None]

    def operator(self, slot: int) -> Process | None:
        process = self.operators[slot]
        return process if process is not None and process.running else None

    def go(self, process: Process, pause: float | None) -> None:
        if pause is None:
            self.world.finish(process)
        else:
            self.world.run(pause)

    # --- processes -------------------------------------------------------------------------------------------

    @rule(slot=SLOTS, leads=SELECTION, mode=MODE, crash=CRASH, fates=FATES, pause=PAUSE)
    def send(
        self, slot: int, leads: tuple[int, ...], mode: str, crash: Crash, fates: dict[str, list[Fate]],
        pause: float | None,
    ) -> None:  # fmt: skip
        for channel, more in fates.items():
            self.world.vendors[channel].fates.extend(more)
        if self.operator(slot) is None:
            process = self.operators[slot] = self.world.start(leads, mode, crash)
            self.go(process, pause)

    @rule(slot=SLOTS, which=st.integers(0, 3), crash=CRASH, pause=PAUSE)
    def resume(self, slot: int, which: int, crash: Crash, pause: float | None) -> None:
        runs = self.world.audit.unfinished()
        if runs and self.operator(slot) is None:
            process = self.operators[slot] = self.world.resume(runs[which % len(runs)], crash)
            self.go(process, pause)

    @rule(slot=SLOTS, what=st.sampled_from(("go on", "kill", "stop", "freeze", "thaw")), pause=PAUSE)
    def something_happens_to_it(self, slot: int, what: str, pause: float | None) -> None:
        if process := self.operator(slot):
            match what:
                case "kill":
                    process.die()
                case "stop":
                    process.switch.request(15)
                case "freeze":
                    process.freeze()
                case "thaw":
                    process.thaw()
            self.go(process, pause)

    # --- the world around --------------------------------------------------------------------------------------

    @rule(channel=CHANNEL, outage=st.sampled_from((None, *OUTAGES)), locked=st.booleans(), seconds=st.floats(0, 60))
    def outage_or_refused_credential(self, channel: str, outage: Fate | None, locked: bool, seconds: float) -> None:
        vendor = self.world.vendors[channel]
        vendor.outage, vendor.locked = outage, locked and outage is None
        self.world.run(seconds)

    @rule(channel=CHANNEL, place=st.sampled_from(PLACES))
    def credential_is_pointed_elsewhere(self, channel: str, place: tuple[str, str]) -> None:
        # A run sends to the box that it planned: one beside it, planned for another box, is no repeat of it.
        boxes = {place[1], self.world.places[channel][1]}
        if boxes == {"1"} or not any(process.running for process in self.world.processes):
            self.world.point(channel, place)

    @rule(channel=CHANNEL, lead=LEAD)
    def vendor_refuses_a_lead_or_takes_it(self, channel: str, lead: int) -> None:
        self.world.vendors[channel].refuses ^= {lead}

    @rule(seconds=JUMP)
    def clock_jumps(self, seconds: float) -> None:
        self.world.skew = max(-3000.0, min(3000.0, self.world.skew + seconds))

    @rule(lead=LEAD, channel=CHANNEL)
    def a_person_looks_and_says(self, lead: int, channel: str) -> None:
        vendor = self.world.vendors[channel]
        rows = [
            row for row in self.world.audit.all_rows()
            if (row.lead_id, row.channel) == (str(lead), channel)
            and row.state in (TargetState.UNKNOWN, TargetState.SENDING, TargetState.INCOMPLETE)
        ]  # fmt: skip
        if len(rows) == 1 and not vendor.in_flight(rows[0].key):
            steps = [copy.step for copy in vendor.copies if (copy.account, copy.key) == (rows[0].account, rows[0].key)]
            if not steps or main_step(channel).name in steps:  # what has a part of it only, leadctl completes
                self.world.settle(lead, channel, delivered=bool(steps))

    # --- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        audit = self.world.audit
        audit.check_copies()
        self.expect(not audit.faults, "\n".join(audit.faults))

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            note("\n".join(self.world.audit.story))
        assert holds, what

    def teardown(self) -> None:
        try:
            if not self.world.audit.faults:
                self._same_command_until_all_is_done()
        finally:
            self.world.close()

    def _same_command_until_all_is_done(self) -> None:
        world = self.world
        for vendor in world.vendors.values():
            vendor.fates.clear()
            vendor.outage, vendor.locked = None, False
        for process in world.processes:
            process.thaw()
        for process in world.processes:
            world.finish(process)
        world.run(7000.0)  # a pause in a bucket's row lasts longer by what the clock was set back meanwhile
        for _ in range(2):
            world.finish(world.start(LEADS))
        self._check_end(unknown=True)
        world.finish(world.start(LEADS, "retry"))
        self._check_end(unknown=False)

    def _check_end(self, *, unknown: bool) -> None:
        """Everything is delivered, or rejected; unknown is only what a person must look at."""
        self.nothing_is_wrong()
        ends = self.world.last_outcomes()
        self.expect(len(ends) == len(LEADS) * len(CHANNELS), f"{len(ends)} deliveries")
        for (lead, channel), outcome in ends.items():
            fine = {"delivered", "already_delivered"}
            refused = lead in self.world.vendors[channel].refuses
            blind = main_step(channel).retransmit is Retransmit.BLIND
            if refused:
                fine.add("rejected")
            if (unknown and channel == "held") or (blind and (unknown or refused)):
                fine.add("unknown")
            self.expect(outcome in fine, f"lead {lead} at {channel} ends as {outcome}")


_MANY: Any = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
PROFILES = {
    "default": settings(max_examples=40, stateful_step_count=25, derandomize=True, database=None, **_MANY),
    "soak": settings(max_examples=2000, stateful_step_count=50, **_MANY),
}

TestMachine = Machine.TestCase
TestMachine.settings = PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "default")]
