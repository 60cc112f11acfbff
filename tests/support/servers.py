"""Private database servers: each on a free port of its own under a temporary folder; nothing of the system's.

``postgresql`` and ``mariadb`` are started once in a test process, when they are first asked for, and give a database of
their own to whoever calls :meth:`Server.new_database`. Nothing of them need reach the disk: servers are never killed
here, only their clients.
"""

import getpass
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]
import pytest
from pymysql.constants import CLIENT, CR  # type: ignore[import-untyped]
from sqlalchemy import URL, make_url

from tests.support.needs import leave_out

#: Where Debian keeps PostgreSQL's programs, and MariaDB's server; elsewhere they are on the PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_SBIN = "/usr/sbin"
_POSTGRESQL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=127.0.0.1",
               "shared_buffers=32MB", "max_connections=200")  # fmt: skip
_MARIADB = ("--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=16M", "--innodb-doublewrite=0", "--innodb-use-native-aio=0", "--skip-log-bin",
            "--performance-schema=0", "--skip-name-resolve", "--skip-networking=0",
            "--max-connections=200")  # fmt: skip
#: What a query of a table that is not there raises.
NO_TABLE = (psycopg.errors.UndefinedTable, pymysql.err.ProgrammingError)
#: Of the tests' superuser, over TCP.
USER = "leadctl"
#: The three places where a ledger and leads can be.
KINDS = ("sqlite", "postgresql", "mariadb")
#: One of them, for the tests that do not say it themselves.
TESTS_ON = "LEADCTL_TESTS_ON"
_names = itertools.count(1)


@dataclass(frozen=True)
class Server:
    """A server that runs. URLs have no password: only this machine comes to it."""

    kind: str
    port: int

    @property
    def scheme(self) -> str:
        return "mysql" if self.kind == "mariadb" else self.kind

    def url(self, database: str, *, port: int | None = None, user: str = USER) -> str:
        """Of a database there; ``port`` of a wire to it."""
        return f"{self.scheme}://{user}@127.0.0.1:{port or self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database that nobody has used."""
        name = f"db{os.getpid()}x{next(_names)}"
        self.execute("CREATE DATABASE " + name)
        return self.url(name)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The same, and gone afterwards: an empty one of PostgreSQL takes 7 MB."""
        url = self.new_database()
        try:
            yield url
        finally:
            force = " WITH (FORCE)" if self.kind == "postgresql" else ""
            self.execute(f"DROP DATABASE {make_url(url).database}{force}")

    def reader(self, url: str) -> str:
        """The same database for a new user who may only read the tables that are there now."""
        name = make_url(url).database or ""
        if self.kind == "postgresql":
            query(url, f"CREATE ROLE ro{name} LOGIN")
            query(url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO ro{name}")
        else:
            query(url, f"CREATE USER ro{name}@'127.0.0.1'")
            query(url, f"GRANT SELECT ON {name}.* TO ro{name}@'127.0.0.1'")
        return self.url(name, user=f"ro{name}")

    def open_transactions(self, url: str) -> list[tuple[Any, ...]]:
        """What is open in that database just now, of all connections but the asking one."""
        if self.kind == "postgresql":
            return query(
                url,
                "SELECT pid, state, query FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL",
            )
        return query(
            url,
            "SELECT id, command, trx_query FROM information_schema.innodb_trx JOIN information_schema.processlist"
            " ON id = trx_mysql_thread_id WHERE db = DATABASE()",
        )

    def execute(self, sql: str) -> None:
        """As the superuser, outside of any database of the tests."""
        query(self.url("postgres" if self.kind == "postgresql" else "mysql"), sql)


@contextmanager
def connected(url: str | URL) -> Iterator[Any]:
    """A plain driver's connection in autocommit, as another program has it."""
    parts = make_url(url)
    if parts.get_backend_name() == "postgresql":
        opened: Any = psycopg.connect(parts.set(drivername="postgresql").render_as_string(False), autocommit=True)
    else:
        opened = pymysql.connect(
            host=parts.host, port=parts.port or 3306, user=parts.username, password=parts.password or "",
            database=parts.database, autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS,
            init_command="SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')",  # so that SQL of the tests is the same
        )  # fmt: skip
    with closing(opened):
        yield opened


def query(url: str | URL, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of one statement, committed. Parameters are ``%s``."""
    with connected(url) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(sql, tuple(values) or None)
        return list(cursor.fetchall()) if cursor.description else []


def query_many(url: str | URL, sql: str, rows: Sequence[Sequence[Any]]) -> None:
    """One statement for each row, in one transaction."""
    with connected(url) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.executemany(sql, list(rows))
        cursor.execute("COMMIT")


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def require_postgresql() -> None:
    """Skip where there is no server to start; in CI that is a failure."""
    _require("PostgreSQL", "postgresql", [name for name in ("initdb", "pg_ctl") if not _program(name)], "postgres")


@contextmanager
def running_postgresql(*more: str) -> Iterator[str]:
    """Start a server; gives the URL of its databases but for their name. ``more``: options, say ``fsync=on``."""
    user = _user("postgres")
    with _folder("postgresql", user) as folder:
        port = _free_port()
        options = [*_POSTGRESQL, *more, f"port={port}", f"unix_socket_directories={folder}"]
        data, log = str(folder / "data"), str(folder / "log")
        _run(user, "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        _run(user, "pg_ctl", "-D", data, "-l", log, "-o", " ".join(f"-c {option}" for option in options), "-w", "start")
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}"
        finally:
            _run(user, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def restart_postgresql(url: str) -> None:
    """Stop and start the server of this URL, cutting every connection."""
    ((data,),) = query(url, "SHOW data_directory")
    _run(_user("postgres"), "pg_ctl", "-D", data, "-l", f"{data}/../log", "-m", "fast", "-w", "restart")


# --- MariaDB --------------------------------------------------------------------------------------------------------


def require_mariadb() -> None:
    """Skip where there is no server to start; in CI that is a failure."""
    _require("MariaDB", "mariadb-server", [n for n in ("mariadb-install-db", "mariadbd") if not _program(n)], "mysql")


@contextmanager
def running_mariadb() -> Iterator[str]:
    """Start a server; gives the URL of its databases but for their name."""
    user = _user("mysql")
    with _folder("mariadb", user) as folder:
        port = _free_port()
        # Servers that share a folder for temporary tables delete each other's.
        data = [f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
        own = ["--user=mysql"] if os.geteuid() == 0 else []
        _run(user, "mariadb-install-db", "--no-defaults", *data, "--auth-root-authentication-method=normal",
             "--skip-test-db", *own)  # fmt: skip
        first = folder / "first.sql"
        first.write_text(
            f"CREATE USER {USER}@'127.0.0.1';\nGRANT ALL ON *.* TO {USER}@'127.0.0.1' WITH GRANT OPTION;\n", "ascii"
        )
        first.chmod(0o644)
        command = [str(_program("mariadbd")), "--no-defaults", *data, f"--port={port}", f"--socket={folder / 'socket'}",
                   f"--pid-file={folder / 'pid'}", f"--init-file={first}", *_MARIADB, *own]  # fmt: skip
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        try:
            _wait(process, f"mysql://{USER}@127.0.0.1:{port}", folder / "log")
            yield f"mysql://{USER}@127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            query(f"{url}/mysql", "SELECT 1")
        except pymysql.err.OperationalError as error:
            if error.args[0] != CR.CR_CONN_HOST_ERROR or process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"MariaDB does not start: {log.read_text(errors='replace')[-2000:]}") from error
            time.sleep(0.05)
        else:
            return


# --- fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """One for the whole test process."""
    require_postgresql()
    with running_postgresql() as url:
        yield Server("postgresql", make_url(url).port or 0)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """One for the whole test process."""
    require_mariadb()
    with running_mariadb() as url:
        yield Server("mariadb", make_url(url).port or 0)


def server_of(request: pytest.FixtureRequest, kind: str) -> Server | None:
    """The server of one of :data:`KINDS`, started if it must be; None for SQLite."""
    if kind == "sqlite":
        return None
    server: Server = request.getfixturevalue(kind)
    return server


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Server | None:
    """Where a world's database is: in a SQLite file (None) or on a server.

    A test that is marked ``everywhere`` runs on each; the others where :data:`TESTS_ON` says, by default SQLite.
    """
    return server_of(request, getattr(request, "param", os.environ.get(TESTS_ON, "sqlite")))


#: Of what only a file does, or only SQLite's columns hold (broken JSON, a NUL).
on_sqlite = pytest.mark.parametrize("database", KINDS[:1], indirect=True)
everywhere = pytest.mark.parametrize("database", KINDS, indirect=True)
on_servers = pytest.mark.parametrize("database", KINDS[1:], indirect=True)


# --- how they are started -------------------------------------------------------------------------------------------


def _require(title: str, package: str, missing: list[str], user: str) -> None:
    if os.geteuid() == 0 and user not in {entry.pw_name for entry in pwd.getpwall()}:
        missing = [*missing, f"the user {user}"]
    if not missing:
        return
    reason = f"a real {title} needs {', '.join(missing)} (apt-get install {package})"
    leave_out(reason)


def _user(name: str) -> str:
    """Whose the server is: it refuses to run as root."""
    return name if os.geteuid() == 0 else getpass.getuser()


@contextmanager
def _folder(kind: str, user: str) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"leadctl-{kind}-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str | None:
    newest = max(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]), default=None)
    return str(newest) if newest else shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def _run(user: str, name: str, *arguments: str) -> None:
    program = _program(name)
    assert program is not None, f"{name} was not required"
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
