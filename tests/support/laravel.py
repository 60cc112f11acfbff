"""The real Laravel: PHP with Illuminate's database and encryption, as Debian packages them.

Scripts begin with ``laravel/prelude.php``: its ``payload()``, ``answer($value)``, ``encrypter($key, $mode)`` and
``eloquent($connection, $key)`` need no ``require``.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.needs import leave_out

_HERE = Path(__file__).parent / "laravel"
_PRELUDE = _HERE / "prelude.php"
_PACKAGES = "php-cli php-sqlite3 php-illuminate-database php-illuminate-encryption"
_SECONDS = 60


def require_php() -> None:
    """Skip where PHP or Laravel's packages are missing; in CI that is a failure."""
    if _works():
        return
    reason = f"the real Laravel is missing (apt-get install {_PACKAGES})"
    leave_out(reason)


@cache
def _works() -> bool:
    if shutil.which("php") is None:
        return False
    needs = "encrypter(str_repeat('k', 32)); eloquent(['driver' => 'sqlite', 'database' => ':memory:']); answer(true);"
    ran = subprocess.run(_command(needs), capture_output=True, text=True, timeout=_SECONDS)
    return ran.stdout.strip() == "true"


def run_php(script: str | Path, payload: object) -> Any:
    """Run a file, or PHP code without ``<?php``; what it answers. Its error output is the failure's message."""
    require_php()
    ran = subprocess.run(
        _command(script), input=json.dumps(payload), capture_output=True, text=True, timeout=_SECONDS, cwd="/"
    )
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return json.loads(ran.stdout)


def _command(script: str | Path) -> list[str]:
    if isinstance(script, Path):
        return ["php", "-d", f"auto_prepend_file={_PRELUDE}", str(script)]
    # PHP prepends nothing to code of the command line.
    return ["php", "-r", f"require {str(_PRELUDE)!r}; {script}"]


class PhpError(Exception):
    """PHP threw this; class and message."""


class Laravel:
    """Laravel's encrypter in one PHP process. ``key`` as in ``APP_KEY``, ``mode`` ``CBC`` or ``GCM``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def encrypt(self, value: object, key: str, mode: str = "CBC", *, serialize: bool = True) -> str:
        return str(self._ask("encrypt", value, key=key, mode=mode, serialize=serialize))

    def encrypt_object(self, value: dict[str, Any], key: str, mode: str = "CBC") -> str:
        """Of a ``stdClass`` with these properties."""
        return str(self._ask("object", value, key=key, mode=mode))

    def decrypt(self, payload: str, key: str, mode: str = "CBC", *, serialize: bool = True) -> Any:
        """Raises :class:`PhpError` where Laravel throws."""
        return self._ask("decrypt", payload, key=key, mode=mode, serialize=serialize)

    def serialize(self, value: object) -> str:
        """In base64."""
        return str(self._ask("serialize", value))

    def unserialize(self, data: str) -> Any:
        """Of base64."""
        return self._ask("unserialize", data)

    def _ask(self, do: str, value: object, **details: object) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, "value": value, **details}) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, "PHP has ended"
        answer = json.loads(line)
        if "error" in answer:
            raise PhpError(answer["error"])
        return answer["value"]


@contextmanager
def running_laravel() -> Iterator[Laravel]:
    """One process for a whole module: a fixture of module scope yields from this."""
    require_php()
    command = _command(_HERE / "crypt.php")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            yield Laravel(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(_SECONDS)
