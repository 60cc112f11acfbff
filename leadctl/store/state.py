"""What this machine remembers of a ledger, outside of it: so that one that was restored from a backup is noticed."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Remembered:
    """A ledger as it was when the last run of this user began."""

    installation: str
    #: How many runs of the source it had seen.
    runs: int


class StateFolder:
    """``$XDG_STATE_HOME/leadctl``, or ``~/.local/state/leadctl``: a small JSON file per ledger and source."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        base = Path(environ.get("XDG_STATE_HOME") or "")
        if not base.is_absolute():  # so the XDG specification has it
            base = Path(environ.get("HOME") or os.path.expanduser("~")) / ".local" / "state"
        self.path = base / "leadctl"

    def recall(self, ledger: str, source: str) -> Remembered | None:
        """What is remembered of the ledger at this place. What cannot be read is not remembered."""
        try:
            kept = json.loads(self._file(ledger, source).read_text("utf-8"))
            return Remembered(str(kept["installation"]), int(kept["runs"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remember(self, ledger: str, source: str, known: Remembered) -> None:
        """Keep it. The file is the old one or the new one, never a part. Raises OSError."""
        if not self.path.is_absolute():
            raise FileNotFoundError(errno.ENOENT, "this user has no home directory")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"ledger": ledger, "source": source, **asdict(known)}, indent=1)
        descriptor, name = tempfile.mkstemp(dir=self.path, prefix=".new-")  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, self._file(ledger, source))
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise

    def forget(self, ledger: str, source: str) -> None:
        """Nothing is remembered any more."""
        with suppress(OSError):
            self._file(ledger, source).unlink()

    def _file(self, ledger: str, source: str) -> Path:
        digest = hashlib.sha256(json.dumps([ledger, source]).encode()).hexdigest()[:24]
        return self.path / f"ledger-{digest}.json"
