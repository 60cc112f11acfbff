"""What must hold at every moment, checked where it would break: at the vendor's door and at each commit."""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leadctl.channelkit.spec import Retransmit, Step
from leadctl.domain.model import Delivery, LeadId
from leadctl.domain.outcomes import ErrorCode, Outcome, TargetState
from leadctl.domain.ports import Claim, Granted, ItemOutcome, Record
from tests.delivery.machine_vendors import CHANNELS, ModelChannel, main_step

if TYPE_CHECKING:
    from tests.delivery.machine_world import Process, World

Key = tuple[str, str, int]
#: A delivery with one of these was surely not executed.
_NOT_THERE = (Outcome.FAILED, Outcome.UNPROCESSED)
#: Attempts that answer the question of an earlier one, because they carried the same key.
_ANSWERS = ("done", "rejected")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``leadctl_targets``, as far as the audit reads it."""

    lead_id: str
    destination: str
    n: int
    state: TargetState
    key: str
    channel: str
    account: str
    holder: str | None
    step: str | None
    done: Mapping[str, str]
    in_doubt: bool


def _row(values: tuple[Any, ...]) -> Row:
    lead_id, destination, n, state, key, channel, account, holder, step, done, in_doubt = values
    state, done, in_doubt = TargetState(state), json.loads(done), bool(in_doubt)
    return Row(lead_id, destination, n, state, key, channel, account, holder, step, done, in_doubt)


_COLUMNS = "lead_id, destination, n, state, key, channel, account, holder, step, done, in_doubt"


class Audit:
    """Collects faults: an exception inside of the engine would only be one more of its cases."""

    def __init__(self, world: "World", database: sqlite3.Connection) -> None:
        self.faults: list[str] = []
        self.story: list[str] = []
        self._world = world
        self._database = database
        #: Rows that were delivered once.
        self._proven: set[Key] = set()
        #: Rows whose last request may have been executed, and nobody has settled that yet.
        self._doubted: set[Key] = set()
        #: Rows as they were when they were claimed last.
        self._before: dict[Key, Row | None] = {}
        self._forced: Counter[tuple[str, int]] = Counter()
        #: How often a person had sent again what nobody could tell of: (channel, account, step, key).
        self._repeated: Counter[tuple[str, str, str, str]] = Counter()
        #: What the runs that ended said.
        self.documents: list[Mapping[str, Any]] = []

    def close(self) -> None:
        self._database.close()

    def fault(self, text: str) -> None:
        self.faults.append(text)
        self.say(f"FAULT {text}")

    def say(self, text: str) -> None:
        """A line of the story that a failure tells."""
        self.story.append(f"{self._world.loop.time():.3f} {text}")

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.fault(text)

    # --- reading ---------------------------------------------------------------------------------------------

    def rows(self, keys: Iterable[tuple[LeadId, str, int]]) -> dict[Key, Row]:
        found = {}
        for lead_id, destination, n in keys:
            where = "lead_id = ? AND destination = ? AND n = ?"
            for row in self._read(where, str(lead_id), destination, n):
                found[row.lead_id, row.destination, row.n] = row
        return found

    def all_rows(self) -> list[Row]:
        return self._read("1")

    def _read(self, where: str, *values: Any) -> list[Row]:
        found = self._database.execute(f"SELECT {_COLUMNS} FROM leadctl_targets WHERE {where}", values)
        return [_row(values) for values in found]

    def unfinished(self) -> list[str]:
        """Runs that may be gone on with, the oldest first."""
        statement = (
            "SELECT id FROM leadctl_runs WHERE status IN ('running', 'interrupted', 'stopped')"
            " AND superseded_by IS NULL ORDER BY started_at"
        )
        return [row[0] for row in self._database.execute(statement)]

    def options_of(self, run_id: str) -> dict[str, Any]:
        row = self._database.execute("SELECT options FROM leadctl_runs WHERE id = ?", (run_id,)).fetchone()
        options: dict[str, Any] = json.loads(row[0])
        return options

    # --- at the vendor's door --------------------------------------------------------------------------------

    def sends(self, process: "Process", channel: ModelChannel, step: Step, batch: Sequence[Delivery]) -> None:
        """The first byte of a request that makes something."""
        self.say(f"{process.name} sends {step.name} of {[delivery.key for delivery in batch]} to {channel.spec.name}")
        for delivery in batch:
            name = f"{channel.spec.name}, lead {delivery.lead.id}, {step.name}"
            # What failed in another box of the account may have a row of the same key.
            where = "key = ? AND account = ? AND state = 'sending'"
            rows = self._read(where, delivery.key, channel.account)
            if len(rows) != 1:
                self.fault(f"{name}: sent with {len(rows)} rows that say so")
                continue
            (row,) = rows
            key = (row.lead_id, row.destination, row.n)
            intent = (row.state, row.holder, row.step)
            self.expect(intent == (TargetState.SENDING, process.holder, step.name), f"{name}: sent as {intent}")
            self.expect(step.name not in row.done, f"{name}: this step is done already")
            self.expect(key not in self._proven, f"{name}: sent although it is delivered")
            if step.retransmit is Retransmit.LOOKUP:
                asked_for = process.retry and delivery.possible_repeat
                self._repeated[channel.spec.name, channel.account, step.name, delivery.key] += asked_for
                if key in self._doubted and not asked_for:
                    self.fault(f"{name}: sent while it is in doubt, and nobody was asked")
            if step.retransmit is Retransmit.BLIND:
                self._sends_blindly(process, channel, delivery, key, name)

    def _sends_blindly(
        self, process: "Process", channel: ModelChannel, delivery: Delivery, key: Key, name: str
    ) -> None:
        copies = channel.vendor.numbers_of(channel.account, "message", delivery.key)
        if key in self._doubted or copies:
            self.expect(process.retry, f"{name}: a repeat that nobody asked for")
            self.expect(delivery.possible_repeat, f"{name}: a repeat that does not say so")
        if copies:
            self.expect(key in self._doubted, f"{name}: a second copy of what was never unknown")

    def asks(self, process: "Process", channel: ModelChannel) -> None:
        """A look-up."""
        held = channel.settings.on_unknown == "hold"
        self.expect(process.retry or not held, f"{channel.spec.name} is asked for what is left to a person")

    # --- at each commit --------------------------------------------------------------------------------------

    def claimed(self, process: "Process", before: Mapping[Key, Row], claims: Sequence[Claim]) -> None:
        for claim in claims:
            target = claim.target
            was = before.get((str(target.lead_id), target.destination, target.n))
            self.say(f"{process.name} {type(claim).__name__} {target.key} at {target.channel}, was {was and was.state}")
            if not isinstance(claim, Granted):
                continue
            key = (str(target.lead_id), target.destination, target.n)
            row = before.get(key)
            self._before[key] = row
            if row is None:
                continue
            self.expect(row.key == target.key, f"{key}: the travelling key changed")
            if row.state is TargetState.SENDING and row.holder not in (None, process.holder):
                self.expect(not self._world.is_alive(row.holder or ""), f"{key}: taken from a living process")

    def records(self, process: "Process", run_id: str, records: Sequence[Record]) -> None:
        for record in records:
            self._say_record(process, record)
            if record.target is not None:
                write = record.target
                key = (str(write.lead_id), write.destination, write.n)
                self._written(process, key, record)
                if write.state is TargetState.DELIVERED:
                    self._proven.add(key)
            attempt = record.attempt
            open_end = record.target is None or record.target.in_doubt
            if attempt is not None and attempt.outcome in ("ambiguous", "split") and open_end:
                self._doubted.add((str(attempt.lead_id), attempt.destination, attempt.n))
        for record in records:
            if record.item is not None:
                self._final(process, run_id, record.item)
        items = Counter((r.item.lead_id, r.item.credential_id) for r in records if r.item is not None)
        self.expect(all(number == 1 for number in items.values()), f"two final outcomes in one commit: {items}")

    def _say_record(self, process: "Process", record: Record) -> None:
        attempt, write, item = record.attempt, record.target, record.item
        lead = next((part.lead_id for part in (attempt, write, item) if part is not None), None)
        parts = [
            f"{attempt.trigger} {attempt.step}: {attempt.outcome}" if attempt else "",
            f"row n={write.n} {write.state}{' in doubt' if write.in_doubt else ''} {dict(write.done or {})}"
            if write
            else "",
            f"item {item.outcome} {item.error_code} ({item.credential_id})" if item else "",
        ]
        self.say(f"{process.name} records lead {lead}: " + "; ".join(filter(None, parts)))

    def _written(self, process: "Process", key: Key, record: Record) -> None:
        """Unknown leaves only by a look-up, a repeat under the same key, ``--retry-unknown``, or a person."""
        assert record.target is not None
        if key not in self._doubted or record.target.in_doubt:
            return
        row = self.rows([key])[key]
        attempt = record.attempt
        kind = main_step(row.channel).retransmit
        if attempt is None:
            settled = False
        elif attempt.trigger == "lookup":
            settled = kind is Retransmit.LOOKUP and attempt.outcome in ("found", "absent")
        else:
            settled = attempt.outcome in _ANSWERS and (kind is Retransmit.IDEMPOTENT or process.retry)
        self.expect(settled, f"{row.channel} {key}: was in doubt, became {record.target.state} by {attempt}")
        self._doubted.discard(key)

    def _final(self, process: "Process", run_id: str, item: ItemOutcome) -> None:
        """One final outcome per delivery of a run, and it is true."""
        values = (run_id, str(item.lead_id), str(item.credential_id))
        row = self._database.execute(
            "SELECT outcome, destination, n, channel FROM leadctl_deliveries"
            " WHERE run_id = ? AND lead_id = ? AND credential_id = ?",
            values,
        ).fetchone()
        if row is None or row[0] != Outcome.PENDING:
            self.fault(f"{values}: a final outcome {item.outcome} over {row and row[0]}")
            return
        target = self.rows([(item.lead_id, row[1], row[2])]).get((str(item.lead_id), row[1], row[2]))
        if target is None or (target.holder not in (None, process.holder) and item.error_code != ErrorCode.BUG):
            return  # nothing was sent, or another process has it in hand
        vendor, step = self._world.vendors[row[3]], main_step(row[3])
        copies = vendor.numbers_of(target.account, step.name, target.key)
        if item.outcome is Outcome.DELIVERED:
            self.expect(bool(copies), f"{row[3]}, lead {item.lead_id}: delivered, and the vendor has nothing")
        if item.outcome in _NOT_THERE or (item.outcome is Outcome.REJECTED and vendor.kind is Retransmit.LOOKUP):
            self.expect(not copies, f"{row[3]}, lead {item.lead_id}: {item.outcome}, and the vendor has it")

    # --- the lives of processes ------------------------------------------------------------------------------

    def forces(self, leads: Sequence[int], by: int = 1) -> None:
        for lead in leads:
            for name in CHANNELS:
                self._forced[name, lead] += by

    def settled(self, lead: int, channel: str) -> None:
        """A person looked."""
        self._proven |= {(r.lead_id, r.destination, r.n) for r in self.all_rows() if r.state is TargetState.DELIVERED}
        self._doubted = {key for key in self._doubted if key[0] != str(lead) or not key[1].startswith(f"{channel}:")}

    def ended(self, process: "Process", document: Mapping[str, Any]) -> None:
        self.say(f"{process.name} ends: exit {document['exit_code']}, {document['outcomes']}")
        if process.alone:
            self._told(document["run_id"])
        self.documents.append(document)
        self.expect(document["exit_code"] != 70, f"exit 70: {document['errors']}")
        counted = sum(document["outcomes"].values())
        expected = document["total_count"] * len(CHANNELS)
        self.expect(counted == expected, f"{counted} outcomes of {expected} deliveries")
        self.expect(document["outcomes"]["pending"] == 0, "a run has ended with pending deliveries")

    def _told(self, run_id: str) -> None:
        """What a run says was surely not executed is not in doubt."""
        statement = "SELECT lead_id, destination, n, outcome FROM leadctl_deliveries WHERE run_id = ?"
        for *place, outcome in self._database.execute(statement, (run_id,)):
            if outcome in _NOT_THERE:
                self.expect(tuple(place) not in self._doubted, f"{place}: {outcome}, and it is in doubt")

    def gone(self, process: "Process") -> None:
        """What a process left in the middle is in doubt."""
        if process.holder is not None:
            for row in self._read("state = 'sending' AND holder = ?", process.holder):
                self._doubted.add((row.lead_id, row.destination, row.n))

    # --- at any time -----------------------------------------------------------------------------------------

    def check_copies(self) -> None:
        """A vendor that can tell, or that knows our key, holds each send once; no send is a new one unasked."""
        keys: dict[tuple[str, str, int], set[str]] = defaultdict(set)
        for name, vendor in self._world.vendors.items():
            held = Counter((copy.account, copy.step, copy.key) for copy in vendor.copies)
            if vendor.kind is not Retransmit.BLIND:
                for place, number in held.items():
                    most = 1 + self._repeated[(name, *place)]
                    self.expect(number <= most, f"{name} holds {place} {number} times")
            for copy in vendor.copies:
                keys[name, copy.account, copy.lead].add(copy.key)
        for (name, _, lead), different in keys.items():
            allowed = 1 + self._forced[name, lead]
            self.expect(len(different) <= allowed, f"{name} holds lead {lead} as {sorted(different)}")
