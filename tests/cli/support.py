"""A context without a process: streams in memory, a clock that stands."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from leadctl.cli.app import main
from leadctl.cli.context import Context, Output

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


class Stream(io.StringIO):
    """A stream that says whether it is a terminal."""

    def __init__(self, text: str = "", *, terminal: bool = False) -> None:
        super().__init__(text)
        self._terminal = terminal
        self._bytes = io.BytesIO(text.encode())

    @property
    def buffer(self) -> BinaryIO:
        return self._bytes

    def isatty(self) -> bool:
        return self._terminal


@dataclass
class World:
    """A context, and what was written into it."""

    context: Context
    stdout: Stream
    stderr: Stream

    @property
    def out(self) -> str:
        return self.stdout.getvalue()

    @property
    def err(self) -> str:
        return self.stderr.getvalue()

    def document(self) -> Any:
        """stdout as the one JSON document that it must be."""
        return json.loads(self.out)

    def records(self) -> list[dict[str, Any]]:
        """stderr as the JSON lines that it must be."""
        return [json.loads(line) for line in self.err.splitlines()]


def world(
    *argv: str,
    stdin: str = "",
    terminal: bool = False,
    columns: int = 80,
    environ: Mapping[str, str] | None = None,
) -> World:
    """A context; ``terminal``: all three streams are one."""
    stdout, stderr = Stream(terminal=terminal), Stream(terminal=terminal)
    context = Context(
        argv=argv,
        stdin=Stream(stdin, terminal=terminal),
        out=Output(stdout),
        err=Output(stderr),
        environ={"TERM": "xterm", **(environ or {})},
        columns=columns,
        now=lambda: NOW,
    )
    return World(context, stdout, stderr)


def run(argv: Sequence[str], **how: Any) -> tuple[int, World]:
    """Run a command in memory."""
    made = world(*argv, **how)
    return main(argv, made.context), made
