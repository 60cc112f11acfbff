"""A private PostgreSQL: its own cluster on a free port under a temporary folder; nothing of the system's."""

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

#: Where Debian keeps the server's programs; elsewhere they are on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
#: The server is never killed here, only its clients: what it has committed need not reach the disk.
_OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=127.0.0.1")


def _program(name: str) -> str | None:
    newest = max(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]), default=None)
    return str(newest) if newest else shutil.which(name)


def require_postgresql() -> None:
    """Skip where there is no server to start; in CI that is a failure."""
    missing = [name for name in ("initdb", "pg_ctl") if not _program(name)]
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        missing.append("the user postgres")
    if not missing:
        return
    reason = f"a real PostgreSQL needs {', '.join(missing)} (apt-get install postgresql)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def running_postgresql() -> Iterator[str]:
    """Start a server; gives the URL of its databases but for their name."""
    folder = Path(tempfile.mkdtemp(prefix="leadctl-postgresql-"))
    # The server refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    if os.geteuid() == 0:
        shutil.chown(folder, user, user)
    port = _free_port()
    options = " ".join(f"-c {option}" for option in (*_OPTIONS, f"port={port}", f"unix_socket_directories={folder}"))
    data, log = str(folder / "data"), str(folder / "log")
    try:
        _run(user, "initdb", "-D", data, "-U", "leadctl", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        _run(user, "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://leadctl@127.0.0.1:{port}"
        finally:
            _run(user, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(user: str, name: str, *arguments: str) -> None:
    program = _program(name)
    assert program is not None, "require_postgresql was not asked"
    as_user = {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}
    # To a file: the server inherits the pipe, and reading it would wait for the server's end.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", **as_user
        )  # type: ignore[call-overload]
        said.seek(0)
        assert done.returncode == 0, said.read().decode(errors="replace")


def _free_port() -> int:
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
