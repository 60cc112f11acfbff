"""A ledger in memory with the rules of the real one, for the engine's tests."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from leadctl.domain.model import LeadId, Target
from leadctl.domain.outcomes import Outcome, TargetState, may_move
from leadctl.domain.ports import AttemptRecord, Claim, Granted, Intent, ItemOutcome, Record, Refusal
from tests.support.virtual import START

Key = tuple[LeadId, str, int]


class MemoryLedger:
    """``holder`` is this process; rows of ``alive`` holders are refused."""

    def __init__(self, holder: str = "me") -> None:
        self.holder = holder
        self.alive: set[str] = {holder}
        self.targets: dict[Key, Target] = {}
        self.attempts: list[AttemptRecord] = []
        self.items: dict[tuple[LeadId, int | str], ItemOutcome] = {}
        self.log: list[str] = []

    async def claim(self, run_id: str, intents: Sequence[Intent]) -> Sequence[Claim]:
        self.log.append("claim")
        return [self._claim(run_id, intent) for intent in intents]

    def _claim(self, run_id: str, intent: Intent) -> Claim:
        key = (intent.lead_id, intent.destination, intent.n)
        row = self.targets.get(key)
        if row is not None:
            held = row.state is TargetState.SENDING and row.holder in self.alive and row.holder != self.holder
            again = row.state is TargetState.SENDING and not held
            if held or row.rev != intent.rev or not (again or may_move(row.state, TargetState.SENDING)):
                return Refusal(row, held)
        elif intent.rev is not None:
            raise AssertionError("a claim of a row that is gone")
        values: dict[str, Any] = {
            "state": TargetState.SENDING, "step": intent.step, "context": dict(intent.context),
            "sent_at": intent.sent_at, "run_id": run_id, "holder": self.holder,
        }  # fmt: skip
        if row is None:
            new = Target(
                intent.lead_id, intent.destination, intent.n, key=intent.key, credential_id=intent.credential_id,
                channel=intent.channel, account=intent.account, first_at=intent.first_at, updated_at=START, **values,
            )  # fmt: skip
        else:
            new = replace(row, rev=row.rev + 1, **values)
        self.targets[key] = new
        return Granted(new)

    async def record(self, run_id: str, records: Sequence[Record]) -> None:
        self.log.append("record")
        for record in records:
            if record.attempt:
                self.attempts.append(record.attempt)
            if record.target:
                self._write(record)
            if record.item:
                key = (record.item.lead_id, record.item.credential_id)
                assert key not in self.items, f"{key} has two final outcomes"
                assert record.item.outcome is not Outcome.PENDING
                self.items[key] = record.item

    def _write(self, record: Record) -> None:
        write = record.target
        assert write is not None
        row = self.targets[write.lead_id, write.destination, write.n]
        assert row.holder == self.holder, "a write over a row that is not ours"
        assert may_move(row.state, write.state), f"{row.state} → {write.state}"
        changes: Mapping[str, Any] = {
            name: getattr(write, name)
            for name in ("state", "remote_id", "remote_url", "in_doubt", "error_code", "error_message", "settled_by")
        }
        done = row.done if write.done is None else write.done
        self.targets[write.lead_id, write.destination, write.n] = replace(
            row, rev=row.rev + 1, done=done, digest=write.digest, **changes
        )

    def outcome(self, lead_id: LeadId, credential_id: int = 7) -> ItemOutcome:
        return self.items[lead_id, credential_id]
