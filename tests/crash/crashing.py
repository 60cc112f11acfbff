"""leadctl that kills itself at a named point: ``crashing.py POINT CHANNEL STEP N -- ARGUMENTS``.

POINT is one of :data:`POINTS`, CHANNEL and STEP say whose requests count, and the N-th passage of the point ends the
process with SIGKILL. The product knows nothing of it: its methods are wrapped here, before its main is called.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from leadctl.__main__ import main
from leadctl.channels import channel_class
from leadctl.domain.ports import AttemptRecord, Claim, Granted, Intent, Record
from leadctl.store.groups import Group
from leadctl.store.ledger import LedgerStore
from leadctl.store.rows import ATTEMPT_COLUMNS, ItemRow
from leadctl.store.writer import LedgerWriter


@dataclass
class Trap:
    """Counts the passages of one channel's step, and kills at the last."""

    channel: str
    step: str
    passages: int

    def pass_by(self, channel: str, step: str) -> None:
        if (channel, step) == (self.channel, self.step):
            self.spring()

    def spring(self) -> None:
        self.passages -= 1
        if self.passages == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: type, method: str, wrapper: Callable[[Any], Any]) -> None:
    setattr(owner, method, wrapper(getattr(owner, method)))


def before_intent(trap: Trap) -> None:
    """The plan is written; the first byte of the intent is not."""

    def wrapper(claim: Any) -> Any:
        async def wrapped(writer: LedgerWriter, run_id: str, intents: Sequence[Intent]) -> Any:
            trap.pass_by(intents[0].channel, intents[0].step)
            return await claim(writer, run_id, intents)

        return wrapped

    _wrap(LedgerWriter, "claim", wrapper)


def after_intent(trap: Trap) -> None:
    """The intent is committed; nothing has been sent."""

    def wrapper(claim: Any) -> Any:
        async def wrapped(writer: LedgerWriter, run_id: str, intents: Sequence[Intent]) -> Any:
            claims: Sequence[Claim] = await claim(writer, run_id, intents)
            if any(isinstance(answer, Granted) for answer in claims):
                trap.pass_by(intents[0].channel, intents[0].step)
            return claims

        return wrapped

    _wrap(LedgerWriter, "claim", wrapper)


def after_answer(trap: Trap) -> None:
    """The vendor has answered; nothing of that is recorded."""
    _after_request(trap, "send")


def while_looking_up(trap: Trap) -> None:
    """The vendor was asked what it has; what it said is not recorded."""
    _after_request(trap, "find")


def _after_request(trap: Trap, method: str) -> None:
    def wrapper(request: Any) -> Any:
        async def wrapped(channel: Any, step: Any, batch: Any) -> Any:
            answer = await request(channel, step, batch)
            trap.pass_by(channel.spec.name, step.name)
            return answer

        return wrapped

    _wrap(channel_class(trap.channel), method, wrapper)


def before_commit(trap: Trap) -> None:
    """The outcome is written inside the transaction, which never commits."""
    channel, step = (2 + ATTEMPT_COLUMNS.index(name) for name in ("channel", "step"))  # after source and run

    def wrapper(write: Any) -> Any:
        def wrapped(group: Group, connection: Any) -> None:
            write(group, connection)
            if group.attempts:
                trap.pass_by(group.attempts[0][channel], group.attempts[0][step])

        return wrapped

    _wrap(Group, "write", wrapper)


def after_commit(trap: Trap) -> None:
    """The outcome is committed; the deliveries have not moved on."""

    def wrapper(record: Any) -> Any:
        async def wrapped(writer: LedgerWriter, run_id: str, records: Sequence[Record]) -> None:
            await record(writer, run_id, records)
            attempt: AttemptRecord | None = records[0].attempt
            if attempt is not None:
                trap.pass_by(attempt.channel, attempt.step)

        return wrapped

    _wrap(LedgerWriter, "record", wrapper)


def in_report(trap: Trap) -> None:
    """Every delivery has its outcome; the run's row does not know."""

    def wrapper(finish_run: Any) -> Any:
        def wrapped(store: LedgerStore, *arguments: Any, **named: Any) -> None:
            trap.spring()
            finish_run(store, *arguments, **named)

        return wrapped

    _wrap(LedgerStore, "finish_run", wrapper)


def while_planning(trap: Trap) -> None:
    """Half of a page of deliveries is written."""

    def wrapper(add_items: Any) -> Any:
        def wrapped(store: LedgerStore, run_id: str, rows: Sequence[ItemRow]) -> None:
            if trap.passages == 1:
                rows = rows[: len(rows) // 2]
            add_items(store, run_id, rows)
            trap.spring()

        return wrapped

    _wrap(LedgerStore, "add_items", wrapper)


#: ``in_request`` is not here: what has left is known at the vendor only, and so the test kills from outside.
POINTS: dict[str, Callable[[Trap], None]] = {
    point.__name__: point
    for point in (
        before_intent, after_intent, after_answer, before_commit, after_commit, in_report, while_planning,
        while_looking_up,
    )
}  # fmt: skip


if __name__ == "__main__":
    _point, _channel, _step, _passages, _dashes, *_arguments = sys.argv[1:]
    POINTS[_point](Trap(_channel, _step, int(_passages)))
    sys.argv[1:] = _arguments
    sys.exit(main())
