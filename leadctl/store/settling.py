"""What a person knows better than the ledger: settle, adopt, and undo."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, select, update

from leadctl.domain.errors import ConfigError
from leadctl.domain.masking import clean
from leadctl.domain.model import CredentialId, LeadId, Target
from leadctl.domain.outcomes import OPERATOR_MOVES, SettledBy, TargetState
from leadctl.domain.ports import AttemptRecord
from leadctl.store.base import LedgerBase
from leadctl.store.database import pages
from leadctl.store.leases import Leases
from leadctl.store.rows import (
    ATTEMPT_COLUMNS,
    TARGET_COLUMNS,
    attempt_to_row,
    storable,
    target_from_row,
    target_to_row,
)
from leadctl.store.schema import attempts, targets
from leadctl.store.tuples import insert_tuples

TARGET = tuple(targets.c[name] for name in TARGET_COLUMNS)
INSERT_TARGETS = insert_tuples(targets, ("source", *TARGET_COLUMNS))
INSERT_ATTEMPTS = insert_tuples(attempts, ("source", "run_id", *ATTEMPT_COLUMNS))
_REASON = 500


@dataclass(frozen=True, slots=True)
class AdoptRow:
    """A lead at a destination that another system has served. ``key`` is what would have travelled."""

    lead_id: LeadId
    destination: str
    credential_id: CredentialId
    channel: str
    account: str
    key: str


class OperatorTables(LedgerBase):
    """Writes to ``leadctl_targets`` by a person's word, each with a row in ``leadctl_attempts``."""

    def settle(
        self,
        lead_id: LeadId,
        destination: str,
        n: int,
        *,
        delivered: bool,
        reason: str,
        at: datetime,
        leases: Leases,
    ) -> Target:
        """Write what a person found at the vendor; the row as it is then. Raises ConfigError.

        ``leases`` says whether a process is sending it just now: then it is not for a person to settle.
        """
        key = (str(lead_id), destination, n)
        return self._write(lambda connection: self._settle(connection, key, delivered, reason, at, leases))

    def _settle(
        self,
        connection: Connection,
        key: tuple[str, str, int],
        delivered: bool,
        reason: str,
        at: datetime,
        leases: Leases,
    ) -> Target:
        row = connection.execute(select(*TARGET).where(self._is(*key)).with_for_update()).first()
        if row is None:
            raise ConfigError(
                f"the ledger knows nothing of lead {key[0]} there",
                hint="what another system has sent is told with: leadctl adopt",
            )
        target = target_from_row(row)
        wanted = TargetState.DELIVERED if delivered else TargetState.FAILED
        if target.state is wanted:
            return target
        if wanted not in OPERATOR_MOVES[target.state]:
            raise ConfigError(f"lead {key[0]}: {target.state} cannot become {wanted}")
        if target.state is TargetState.SENDING and target.holder and leases.is_alive(target.holder):
            raise ConfigError(f"lead {key[0]} is being sent by another process just now", hint="wait until it ends")
        # What a person did not find is sent whole again, and no step of it is asked for.
        gone: dict[str, Any] = {} if delivered else {"done": {}, "context": {}, "remote_id": None, "remote_url": None}
        settled = replace(
            target, state=wanted, settled_by=SettledBy.OPERATOR, in_doubt=False, updated_at=at, holder=None,
            digest=None, error_code=None, error_message=None, vendor_code=None, rev=target.rev + 1, **gone,
        )  # fmt: skip
        values = dict(zip(TARGET_COLUMNS, target_to_row(settled), strict=True))
        connection.execute(update(targets).where(self._is(*key)).values(**values))
        self._note(connection, [settled], "found" if delivered else "absent", reason, at)
        return settled

    def adopt(self, rows: Sequence[AdoptRow], reason: str, at: datetime) -> int:
        """Proof from outside for those that the ledger knows nothing of; how many that were."""
        return sum(self._write(lambda c, some=some: self._adopt(c, some, reason, at)) for some in pages(rows))  # type: ignore[misc]

    def _adopt(self, connection: Connection, rows: Sequence[AdoptRow], reason: str, at: datetime) -> int:
        known = {(str(target.lead_id), target.destination) for target in self._of(connection, rows)}
        fresh = [
            Target(
                row.lead_id, row.destination, 0, TargetState.DELIVERED, row.key, row.credential_id, row.channel,
                row.account, first_at=at, updated_at=at, settled_by=SettledBy.OPERATOR,
            )
            for row in {(str(row.lead_id), row.destination): row for row in rows}.values()
            if (str(row.lead_id), row.destination) not in known
        ]  # fmt: skip
        INSERT_TARGETS.run(connection, [(self.source, *target_to_row(target)) for target in fresh])
        self._note(connection, fresh, "found", reason, at)
        return len(fresh)

    def undo_adopt(self, rows: Sequence[AdoptRow], reason: str, at: datetime) -> int:
        """Remove those of the rows that :meth:`adopt` made and nothing has touched since; how many that were."""
        return sum(self._write(lambda c, some=some: self._undo(c, some, reason, at)) for some in pages(rows))  # type: ignore[misc]

    def _undo(self, connection: Connection, rows: Sequence[AdoptRow], reason: str, at: datetime) -> int:
        adopted = [target for target in self._of(connection, rows) if is_adopted(target)]
        for target in adopted:
            connection.execute(delete(targets).where(self._is(str(target.lead_id), target.destination, target.n)))
        self._note(connection, adopted, "absent", reason, at)
        return len(adopted)

    def _of(self, connection: Connection, rows: Sequence[AdoptRow]) -> Iterator[Target]:
        """The ledger's rows of these leads at these destinations."""
        wanted = {(str(row.lead_id), row.destination) for row in rows}
        statement = select(*TARGET).where(
            targets.c.source == self.source, targets.c.lead_id.in_([lead_id for lead_id, _ in wanted])
        )
        for row in connection.execute(statement.with_for_update()).all():
            if (row.lead_id, row.destination) in wanted:
                yield target_from_row(row)

    def _is(self, lead_id: str, destination: str, n: int) -> Any:
        return (
            (targets.c.source == self.source)
            & (targets.c.lead_id == lead_id)
            & (targets.c.destination == destination)
            & (targets.c.n == n)
        )

    def _note(self, connection: Connection, settled: Sequence[Target], outcome: str, reason: str, at: datetime) -> None:
        """A person's word is kept with its reason."""
        answer = storable(clean(reason, _REASON)) or ""
        notes = [
            AttemptRecord(
                target.lead_id, target.destination, target.n, target.credential_id, target.channel, target.step or "",
                "operator", at, at, outcome,
            )
            for target in settled
        ]  # fmt: skip
        INSERT_ATTEMPTS.run(connection, [(self.source, None, *attempt_to_row(note, answer)) for note in notes])


def is_adopted(target: Target) -> bool:
    """Whether ``adopt`` made this row: every other one was claimed first, and each write raises ``rev``."""
    return target.settled_by is SettledBy.OPERATOR and target.rev == 0 and target.run_id is None
