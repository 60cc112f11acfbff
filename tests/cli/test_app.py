"""The process as a whole: help, version, streams that go away, what is imported."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from leadctl import __version__
from leadctl.cli.app import build, main
from leadctl.cli.completion import tree
from leadctl.cli.context import Context, Output
from leadctl.domain.errors import ConfigError
from tests.cli.conftest import FakeServices
from tests.cli.support import run, world

HEAVY = ("sqlalchemy", "httpx", "pydantic", "rich", "structlog", "asyncio", "aiohttp", "jinja2")
COMMANDS = [node.path for node in tree(typer.main.get_command(build())).walk()]


def leadctl(*argv: str, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "leadctl", *argv], capture_output=True, text=True, timeout=60, **how)  # type: ignore[call-overload, no-any-return]


def test_the_version() -> None:
    assert leadctl("--version").stdout == f"leadctl {__version__}\n"
    assert run(["--no-color", "--version"])[1].out == f"leadctl {__version__}\n"


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_with_an_example(path: tuple[str, ...]) -> None:
    code, made = run([*path, "--help"])
    text = made.out
    assert code == 0
    assert "Example:" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


def test_help_after_options_is_help_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run(["-q", "plan", "1", "--help"])
    assert (code, "Usage: leadctl plan" in capsys.readouterr().out) == (0, True)


def test_help_and_version_import_nothing_heavy() -> None:
    script = (
        "import sys\nfrom leadctl.cli.app import main\n"
        "codes = [main([*argv, '--help']) for argv in ([], ['plan'], ['runs', 'show'])]\n"
        f"heavy = sorted(name for name in {HEAVY!r} if name in sys.modules)\n"
        "print(codes, heavy, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == "[0, 0, 0] []\n"


def test_global_options_stand_before_or_after_the_command(services: FakeServices) -> None:
    for argv in (["-q", "--no-color", "resend", "1"], ["resend", "-q", "1", "--no-color"]):
        made = world(*argv)
        assert main(argv, made.context) == 0
        assert (made.context.quiet, made.context.no_color, made.context.verbose) == (True, True, False)
        assert made.context.typed.as_arguments() == ("--quiet", "--no-color")
    made = world()
    main(["--config", "a", "resend", "1", "--config", "b", "--log-file", os.devnull], made.context)
    assert made.context.typed.as_arguments() == ("--config", "b", "--log-file", os.devnull)


def test_a_value_is_not_an_option(services: FakeServices) -> None:
    run(["resend", "1", "--force", "--reason", "--quiet"])
    assert services.asked[0].force_reason == "--quiet"
    assert services.asked[0].global_options == ()


@pytest.mark.parametrize("name", ["QUIET", "VERBOSE", "NO_COLOR", "LOG_PERSONAL_DATA", "LOG_FORMAT"])
def test_a_variable_that_cannot_be_read_is_a_usage_error(services: FakeServices, name: str) -> None:
    code, made = run(["resend", "1", "--json"], environ={f"LEADCTL_{name}": "perhaps"})
    assert code == 2
    assert f"LEADCTL_{name}" in made.document()["message"]


def test_flags_go_before_variables() -> None:
    made = world(environ={"LEADCTL_LOG_FORMAT": "json", "LEADCTL_QUIET": "0", "LEADCTL_LOG_FILE": "x"})
    assert (made.context.log_format, made.context.quiet, made.context.log_file) == ("json", False, "x")
    with pytest.raises(ConfigError):
        world(environ={"LEADCTL_NO_COLOR": "?"}).context.check_options()


class Closed:
    """A stream whose reader has gone, or whose disk is full."""

    encoding = "utf-8"

    def __init__(self, number: int) -> None:
        self._number = number

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))

    def fileno(self) -> int:
        raise OSError(self._number, "no descriptor")


@pytest.mark.parametrize("argv", [["resend", "1"], ["resend", "1", "--json"], ["plan", "1", "--json"], ["plan", "1"]])
def test_a_closed_stdout_stops_nothing(services: FakeServices, argv: list[str]) -> None:
    import errno

    made = world(*argv)
    made.context.out = Output(Closed(errno.EPIPE))  # type: ignore[arg-type]
    assert main(argv, made.context) == 0
    assert "error" not in made.err
    made.context.out = Output(None)
    assert main(argv, made.context) == 0


def test_a_full_disk_is_said(services: FakeServices) -> None:
    import errno

    made = world("resend", "1")
    made.context.out = Output(Closed(errno.ENOSPC))  # type: ignore[arg-type]
    assert main(["resend", "1"], made.context) == 1
    assert "stdout could not be written: No space left on device" in made.err


def test_a_closed_stderr_stops_nothing(services: FakeServices) -> None:
    import errno

    made = world("resend", "1")
    made.context.err = Output(Closed(errno.EPIPE))  # type: ignore[arg-type]
    assert main(["resend", "1"], made.context) == 0
    assert "ok" in made.out


def test_a_reader_that_goes_away_leaves_no_traceback() -> None:
    command = f"{sys.executable} -m leadctl channels list | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    command = f"{sys.executable} -m leadctl channels list >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "utf-8"])
def test_any_encoding_of_stdout_gets_valid_output(encoding: str) -> None:
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "leadctl", "resend", "1", "--delay", "\u0416\U0001f600", "--json"],
        capture_output=True, env=environ, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "\u0416" in json.loads(done.stdout.decode(encoding))["message"]


def test_the_console_believes_no_variable() -> None:
    made = world(environ={"FORCE_COLOR": "1", "COLUMNS": "7", "JPY_PARENT_PID": "1", "TTY_INTERACTIVE": "1"})
    console = made.context.console(made.context.out)
    assert (console.is_terminal, console.is_interactive, console.color_system) == (False, False, None)


def test_context_of_the_process() -> None:
    context = Context.real(["plan", "--json", "--log-format=json"])
    assert context.json_output
    assert context.log_format == "json"
    assert not Context.real(["plan", "--", "--json"]).json_output


def test_the_sandbox_runs_until_it_is_stopped(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "leadctl", "sandbox", "--scale", "10"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        assert document["schema"] == "leadctl.sandbox/1"
        assert document["page"].startswith("http://127.0.0.1:")
        assert {"amocrm", "telegram"} <= {vendor["channel"] for vendor in document["vendors"]}
        assert all(vendor["data"] for vendor in document["vendors"])
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (143, "")
        assert document["page"] in err
    finally:
        process.kill()
        process.communicate()
