"""``leadctl init``: a config that can be edited, and a place for leads where there is none."""

import os
import shlex
from pathlib import Path
from typing import Any

from leadctl.domain.errors import ConfigError
from leadctl.services.config_template import render_config
from leadctl.services.doctor import doctor, doctor_exit_code, without_password
from leadctl.services.surveying import Survey, first_plan, recognise_database
from leadctl.store.engines import parse_url, sqlite_path
from leadctl.store.sample import create_tables

__all__ = ["doctor", "doctor_exit_code", "init"]

DEFAULT_DATABASE = "leads.db"
_NOTHING = Survey()


def init(path: Path, database_url: str | None) -> dict[str, Any]:
    """Write a config (mode 0600). A SQLite file that is not there is made, with the four tables; a database that is
    there is looked at, and nothing is made in it.

    Raises ConfigError if the config exists already (it is left as it is) or cannot be written, or if the database
    refuses us; DatabaseUnreachable if it does not answer.
    """
    if path.exists() or path.is_symlink():
        raise _exists(path)
    url = database_url or _default_url(path)
    real = _resolved(url)
    _make_directory(path)
    created = _create_database(real) if real else False
    found = recognise_database(real) if real and not created else _NOTHING
    _write_new(path, render_config(url, found.mapping, "env:APP_KEY" if found.encrypted else None))
    unsure = [note.as_json() for note in found.unsure]
    plan, reason = first_plan(path, found.lead_ids) if real and not created else ([], None)
    if not real:
        unsure.append(_note("database", f"{url} holds no URL yet: the database was not looked at"))
    if reason is not None:
        unsure.append(_note("plan", reason))
    config = shlex.quote(str(path))
    return {
        "schema": "leadctl.init/1",
        "config": str(path),
        "database": without_password(url),
        "created_tables": created,
        "mapping": dict(found.mapping),
        "sure": [note.as_json() for note in found.sure],
        "unsure": unsure,
        "plan": plan,
        "next": [f"leadctl --config {config} doctor", f"leadctl --config {config} channels check"],
    }


def _default_url(path: Path) -> str:
    """Beside the config; relative only where the config is found from the same directory."""
    directory = path.absolute().parent
    return f"sqlite:///{DEFAULT_DATABASE if directory == Path.cwd() else directory / DEFAULT_DATABASE}"


def _resolved(url: str) -> str:
    """The URL itself; empty where its place is filled later."""
    if url.startswith("env:"):
        return os.environ.get(url.removeprefix("env:"), "")
    if url.startswith("file:/"):
        secret = Path(url.removeprefix("file:"))
        return secret.read_text(encoding="utf-8").strip() if secret.is_file() else ""
    return url


def _create_database(url: str) -> bool:
    """Whether a new SQLite file was made."""
    file = sqlite_path(parse_url(url, "--database-url"))
    if file is None or file.exists():
        return False
    if not file.parent.is_dir():
        raise ConfigError(f"the directory {file.parent} does not exist", hint=f"create it: mkdir -p {file.parent}")
    create_tables(url)
    return True


def _make_directory(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _write_new(path: Path, text: str) -> None:
    try:
        # Nobody else may read it from its first moment on, and an existing file is never opened.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise _cannot_write(path, error) from None


def _note(about: str, message: str) -> dict[str, str]:
    return {"about": about, "message": message, "key": ""}


def _exists(path: Path) -> ConfigError:
    return ConfigError(f"{path} exists already and is left as it is", hint="edit it, or choose another --path")


def _cannot_write(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path} cannot be written: {error.strerror}", hint="choose another --path")
