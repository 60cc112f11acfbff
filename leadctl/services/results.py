"""``--results-dir``: one CSV per outcome, each a valid ids file."""

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from leadctl.domain.errors import ConfigError
from leadctl.domain.events import Event, Finished
from leadctl.domain.masking import Secrets
from leadctl.domain.model import LeadId
from leadctl.domain.outcomes import ErrorCode, Outcome
from leadctl.services.shapes import RunItem

HEADER = ("lead_id", "channel", "credential_id", "outcome", "code", "message", "remote_id")
FILES = {
    Outcome.DELIVERED: "delivered.csv",
    Outcome.ALREADY_DELIVERED: "delivered.csv",
    Outcome.REJECTED: "failed.csv",
    Outcome.FAILED: "failed.csv",
    Outcome.UNKNOWN: "unknown.csv",
    Outcome.UNPROCESSED: "unprocessed.csv",
}
NOT_FOUND = "not_found.csv"
ALL_FILES = (*dict.fromkeys(FILES.values()), NOT_FOUND)

Row = tuple[str, ...]


class ResultsDir:
    """Written as outcomes fall; written anew from the ledger when a run begins, goes on and ends."""

    def __init__(self, directory: Path, secrets: Secrets) -> None:
        self._directory = directory
        self._secrets = secrets
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / f".leadctl-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"--results-dir {directory} cannot be written: {error.strerror or error}",
                hint="choose a directory that this user may write to",
            ) from None

    def rewrite(self, items: Iterable[RunItem], not_found: Iterable[LeadId]) -> None:
        """All files from what the ledger knows, each replaced in one step."""
        with ExitStack() as stack:
            files: dict[str, IO[str]] = {
                name: stack.enter_context(self._open(f".{name}.tmp", "w")) for name in ALL_FILES
            }
            writers = {name: csv.writer(file) for name, file in files.items()}
            for writer in writers.values():
                writer.writerow(HEADER)
            for name, row in self._rows(items, not_found):
                writers[name].writerow(row)
        for name in ALL_FILES:
            (self._directory / f".{name}.tmp").replace(self._directory / name)

    def _rows(self, items: Iterable[RunItem], not_found: Iterable[LeadId]) -> Iterator[tuple[str, Row]]:
        for item in items:
            name = FILES.get(Outcome(item.outcome))
            if name is not None:
                yield name, _row(
                    item.lead_id, item.channel, item.credential_id, item.outcome,
                    item.error_code, item.error_message, item.remote_id,
                )  # fmt: skip
        for lead_id in not_found:
            yield NOT_FOUND, _row(lead_id, None, None, None, ErrorCode.LEAD_NOT_FOUND, None, None)

    def __call__(self, event: Event) -> None:
        """Observer: one line per outcome, as it falls."""
        if isinstance(event, Finished) and event.outcome in FILES:
            with self._open(FILES[event.outcome], "a") as file:
                csv.writer(file).writerow(
                    _row(
                        event.lead_id,
                        event.channel,
                        event.credential_id,
                        event.outcome,
                        event.code,
                        self._secrets.hide(event.message) if event.message else None,
                        event.remote_id,
                    )
                )

    def _open(self, name: str, mode: str) -> IO[str]:
        return (self._directory / name).open(mode, encoding="utf-8", newline="")


def _row(lead_id: LeadId, *values: object) -> Row:
    return (str(lead_id), *(_cell("" if value is None else str(value)) for value in values))


def _cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text
