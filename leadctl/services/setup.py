"""``leadctl init``: a config that can be edited, and a place for leads where there is none."""

import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import Any

from leadctl.domain.errors import ConfigError
from leadctl.services.config_template import render_config
from leadctl.services.doctor import doctor, doctor_exit_code
from leadctl.settings import load_settings
from leadctl.store.engines import parse_url, sqlite_path
from leadctl.store.sample import create_tables

__all__ = ["doctor", "doctor_exit_code", "init"]

DEFAULT_DATABASE = "leads.db"
_PASSWORD = re.compile(r"(//[^/@]*?:)[^@]*(@)")


def init(path: Path, database_url: str | None) -> dict[str, Any]:
    """Write a config (mode 0600); a SQLite file that is not there is made, with the four tables.

    Raises ConfigError if the config exists already, or if what would be written could not be read back.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(
            f"{path} exists already and is left as it is", hint="edit it, or write another one with --path"
        )
    url = database_url or _default_url(path)
    _write_new(path, render_config(url))
    created = _create_database(url)
    config = shlex.quote(str(path))
    return {
        "schema": "leadctl.init/1",
        "config": str(path),
        "database": _PASSWORD.sub(r"\1***\2", url),
        "created_tables": created,
        "next": [f"leadctl --config {config} doctor", f"leadctl --config {config} channels check"],
    }


def _default_url(path: Path) -> str:
    """Beside the config; relative only where the config is found from the same directory."""
    directory = path.absolute().parent
    return f"sqlite:///{DEFAULT_DATABASE if directory == Path.cwd() else directory / DEFAULT_DATABASE}"


def _write_new(path: Path, text: str) -> None:
    """All of the file or nothing, never over another one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".leadctl-") as draft:
            draft.write(text)  # the draft has mode 0600 from its first moment
            draft.flush()
            os.fsync(draft.fileno())
            load_settings(draft.name, _environment())
            os.link(draft.name, path)
    except FileExistsError:
        raise ConfigError(f"{path} exists already and is left as it is", hint="write another one with --path") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", hint="choose another place with --path") from None
