"""The file of ``--ids-file`` (CONTRACT §3): one id a line, or CSV."""

import csv
import io
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from leadctl.domain.errors import ConfigError
from leadctl.domain.ids import UniqueIds
from leadctl.domain.masking import clean

if TYPE_CHECKING:
    from leadctl.domain.model import LeadId

#: Makes an id of a text, as the database's column holds it (``Database.lead_id``). Raises ValueError.
Coerce = Callable[[str], "LeadId"]

MAX_LINE = 1_000_000
#: How many lines a quoted CSV value may span: a quote that is never closed must not swallow the file.
_MAX_SPAN = 200
_DELIMITERS = ",;\t"
_NAMES = ("lead_id", "id")
_SHOWN = 20
_MAX_ID = 255


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line without an id: its number in the file, from 1, and why."""

    number: int
    reason: str


@dataclass(slots=True)
class ParsedIds:
    """What a file holds: the ids in its order, each once."""

    ids: UniqueIds = field(default_factory=UniqueIds)
    bad: list[BadLine] = field(default_factory=list)
    #: How many ids were named again.
    repeats: int = 0

    def complaint(self) -> str:
        """The bad lines by number, at most twenty of them."""
        shown = "; ".join(f"line {line.number}: {line.reason}" for line in self.bad[:_SHOWN])
        more = len(self.bad) - _SHOWN
        return f"{shown}; and {more} more" if more > 0 else shown


def read_ids(source: str, stdin: BinaryIO | None, coerce: Coerce, *, skip_bad_lines: bool) -> ParsedIds:
    """Read the file ``source``, or stdin for ``-``. Raises ConfigError for bad lines unless they are skipped."""
    name = "stdin" if source == "-" else source
    with _opened(source, stdin) as stream:
        parsed = parse_ids(stream, name, coerce)
    if parsed.bad and not skip_bad_lines:
        count = f"{len(parsed.bad)} lines hold" if len(parsed.bad) > 1 else "1 line holds"
        raise ConfigError(
            f"{name}: {count} no lead id, nothing was sent: {parsed.complaint()}",
            hint="mend the file, or leave these lines out with --skip-bad-lines",
        )
    return parsed


def parse_ids(stream: BinaryIO, name: str, coerce: Coerce) -> ParsedIds:
    """Read a stream of bytes to its end; ``name`` is what messages call it."""
    parsed = ParsedIds()
    table = _Table()
    for number, cells in table.records(_lines(stream, name)):
        if cells is None:
            parsed.bad.append(BadLine(number, "a quote that is never closed"))
            continue
        if table.is_header(cells, coerce):
            continue
        try:
            identity = read_id(table.cell(cells), coerce)
        except ValueError as error:
            parsed.bad.append(BadLine(number, str(error)))
            continue
        if not parsed.ids.add(identity):
            parsed.repeats += 1
    parsed.ids.settle()
    return parsed


def read_id(text: str, coerce: Coerce) -> "LeadId":
    """One id as it is typed. Raises ValueError with what is wrong, in words."""
    plain = text.strip().strip("\ufeff")
    if not plain:
        raise ValueError("no id")
    shown = f'"{clean(plain, 40)}"'
    if len(plain) > _MAX_ID or not plain.isprintable():
        raise ValueError(f"{shown} is not an id")
    try:
        return coerce(plain)
    except ValueError as error:
        raise ValueError(f"{shown}: {error}") from None


class _Table:
    """Where the id stands in a record. Learnt from the first lines: the delimiter, and the header if there is one."""

    def __init__(self) -> None:
        self._delimiter: str | None = None
        self._column = 0
        self._may_be_header = True

    def records(self, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[str] | None]]:
        """Every record with the number of its first line; None for a quote that is never closed."""
        waiting: deque[tuple[int, str]] = deque()
        while True:
            item = waiting.popleft() if waiting else next(lines, None)
            if item is None:
                return
            number, line = item
            text = line.strip()
            if not text or text.startswith("#") or self._separator_line(text):
                continue
            record, spanned = _whole_record(line, waiting, lines)
            if record is None:
                waiting.extendleft(reversed(spanned))
                yield number, None
                continue
            cells = self._split(record)
            if any(cell.strip() for cell in cells):
                yield number, cells

    def is_header(self, cells: list[str], coerce: Coerce) -> bool:
        """Whether the first record names columns: ``lead_id`` or ``id`` among them, or its id is none."""
        if not self._may_be_header:
            return False
        self._may_be_header = False
        names = [cell.strip().strip("\ufeff").lower() for cell in cells]
        for name in _NAMES:
            if name in names:
                self._column = names.index(name)
                return True
        try:
            read_id(cells[0], coerce)
        except ValueError:
            return True
        return False

    def cell(self, cells: list[str]) -> str:
        return cells[self._column] if self._column < len(cells) else ""

    def _separator_line(self, text: str) -> bool:
        """Excel's ``sep=;`` before the header."""
        if self._may_be_header and len(text) == 5 and text.lower().startswith("sep=") and text[4] in _DELIMITERS:
            self._delimiter = text[4]
            return True
        return False

    def _split(self, record: str) -> list[str]:
        if self._delimiter is None:
            self._delimiter = _delimiter_of(record.strip())
        if self._delimiter is None:
            alone = record.split(" #", 1)[0].strip()
            return [alone[1:-1] if len(alone) > 1 and alone[0] == alone[-1] == '"' else alone]
        return next(csv.reader([record], delimiter=self._delimiter), [])


def _delimiter_of(record: str) -> str | None:
    outside = "".join(record.split('"')[::2])
    counts = {mark: outside.count(mark) for mark in _DELIMITERS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else None


def _whole_record(
    line: str, waiting: deque[tuple[int, str]], lines: Iterator[tuple[int, str]]
) -> tuple[str | None, list[tuple[int, str]]]:
    """The line and those that a quoted value of it spans; None, and the lines looked at, if it never ends."""
    spanned: list[tuple[int, str]] = []
    record, quotes = line, line.count('"')
    while quotes % 2:
        item = waiting.popleft() if waiting else next(lines, None)
        if item is None or len(spanned) >= _MAX_SPAN:
            return None, spanned if item is None else [*spanned, item]
        spanned.append(item)
        record += "\n" + item[1]
        quotes += item[1].count('"')
    return record, []


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """Lines of UTF-8 with or without BOM, whatever ends them. Other bytes are kept as surrogates: they may stand
    in columns that are not read."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline=None)
    try:
        for number, line in enumerate(iter(lambda: text.readline(MAX_LINE + 1), ""), start=1):
            if "\0" in line or (number == 1 and line.startswith(("\udcff\udcfe", "\udcfe\udcff"))):
                raise ConfigError(
                    f"{name}: line {number} is not text", hint="save it as UTF-8 text or CSV, one id a line"
                )
            if len(line) > MAX_LINE:
                raise ConfigError(f"{name}: line {number} is longer than {MAX_LINE:,} characters",
                                  hint="one id a line, please")  # fmt: skip
            yield number, line.removesuffix("\n")
    finally:
        text.detach()


@contextmanager
def _opened(source: str, stdin: BinaryIO | None) -> Iterator[BinaryIO]:
    if source == "-":
        if stdin is None:
            raise ConfigError("--ids-file -: stdin is closed", hint="pipe the ids into the command")
        yield stdin
        return
    try:
        with Path(source).open("rb") as stream:
            yield stream
    except OSError as error:
        raise ConfigError(f"--ids-file {source}: cannot be read: {error.strerror or error}") from None
