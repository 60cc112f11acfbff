"""``leadctl doctor``: config, database, ledger, credentials, clock and file modes, each with a verdict."""

import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from leadctl.channels import channel_class, channel_names, is_channel
from leadctl.domain.errors import DatabaseUnreachable, InvalidCredential, LeadctlError
from leadctl.domain.masking import clean
from leadctl.domain.model import Account
from leadctl.services.accounts import effective_account
from leadctl.services.bootstrap import App
from leadctl.services.checks import check_limits
from leadctl.services.recognising.values import told
from leadctl.services.requests import Selectors
from leadctl.services.routing import Router
from leadctl.services.verifying import Row, failure, row, shown_mapping, verify
from leadctl.settings import LoadedSettings, load_settings
from leadctl.store.credentials import load_credentials
from leadctl.store.database import Database
from leadctl.store.health import row_counts
from leadctl.store.ledger import LedgerStore

#: Keys of ``[database]`` that are never shown.
_SECRETS = ("app_key", "previous_keys")
#: With less than this a long run may not be able to write its outcomes.
LOW_DISK = 100 * 1024 * 1024
#: A file's time may be ahead of our clock by so many seconds (network file systems).
SKEW = 120
#: A password in a URL: before the host, or in the query.
_PASSWORD = re.compile(r"(//[^/@\s]*?:).*(?=@)|((?:password|passwd|sslpassword)=)[^&\s\"]*", re.IGNORECASE)


def doctor(explicit_config: str | None, *, restored: bool | None = None) -> list[Row]:
    """A row per check. What cannot be looked at because of an earlier error is left out.

    ``restored``: a person says that the ledger was restored from a backup, or that it was not.
    """
    try:
        loaded = load_settings(explicit_config)
    except LeadctlError as error:
        return [failure("config", error)]
    rows = [*_config(loaded)]
    try:
        db = Database.open(loaded.settings.database)
    except LeadctlError as error:
        return [*rows, failure("database", error), *_clock(loaded, None), *_modes(loaded, None, None)]
    try:
        rows += [*_database(db), *verify(db), *_told(loaded, db, restored=restored), *_with_ledger(loaded, db)]
    finally:
        db.close()
    return rows


def doctor_exit_code(rows: Iterable[Mapping[str, Any]]) -> int:
    """2 something must be corrected, 5 a database does not answer, else 0."""
    codes = {row["code"] for row in rows if row["verdict"] == "error"}
    if codes - {DatabaseUnreachable.code}:
        return 2
    return 5 if codes else 0


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return _PASSWORD.sub(r"\1\2***", url)


def _config(loaded: LoadedSettings) -> Iterator[Row]:
    if loaded.path:
        yield row("config", f"read from {loaded.path}")
    else:
        yield row("config", "there is no config file: defaults and the environment", hint="write one: leadctl init")
    settings = loaded.settings
    for key, value in _flat(settings.model_dump(exclude={"database": {*_SECRETS, "mapping"}})):
        shown = without_password(str(value)) if value is not None else "not set"
        yield row(f"config {key}", f"{shown} ({_origin(loaded, key)})")
    for name in _SECRETS:
        shown = "set, and not shown" if getattr(settings.database, name) else "not set"
        yield row(f"config database.{name}", f"{shown} ({_origin(loaded, f'database.{name}')})")
    for name, shown in shown_mapping(settings.database.mapping.model_dump(exclude_defaults=True)):
        key = f"database.mapping.{name}"
        yield row(f"config {key}", f"{clean(shown)} ({_origin(loaded, key)})")
    for warning in loaded.warnings:
        yield row("environment", warning, warning=True, hint="unset it, or correct its name")


def _origin(loaded: LoadedSettings, key: str) -> str:
    """Of a key, or of the one that is short for it: ``bot_token = "token"`` is ``bot_token = { key = "token" }``."""
    return loaded.origins.get(key) or loaded.origins.get(key.rpartition(".")[0], "default")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _database(db: Database) -> Iterator[Row]:
    try:
        counts = row_counts(db)
    except LeadctlError as error:
        yield failure("database", error)
        return
    told = ", ".join(f"{name} {number:,}" for name, number in counts.items())
    yield row("database", f"{db.location}: {told}")


def _told(loaded: LoadedSettings, db: Database, *, restored: bool | None) -> Iterator[Row]:
    """Write what a person says of the ledger."""
    if restored is None:
        return
    try:
        ledger = LedgerStore.open(loaded.settings, db, create=False)
        try:
            if restored:
                ledger.make(restored=True)
                ledger.mark_restored(datetime.now(UTC))
            else:
                ledger.forget_restored()
        finally:
            ledger.close()
    except LeadctlError as error:
        yield failure("ledger memory", error)
        return
    if not restored:
        yield row("ledger memory", "nothing is missing in it: leads are sent without a look-up before")


def _with_ledger(loaded: LoadedSettings, db: Database) -> Iterator[Row]:
    try:
        ledger = LedgerStore.open(loaded.settings, db, create=False)
    except LeadctlError as error:
        yield failure("ledger", error)
        yield from (*_clock(loaded, db), *_modes(loaded, db, None))
        return
    with App(loaded, db, ledger) as app:
        yield from (*_ledger(ledger), *_memory(app), *_credentials(app), *_limits(app))
        yield from (*_clock(loaded, db), *_modes(loaded, db, ledger))


def _ledger(ledger: LedgerStore) -> Iterator[Row]:
    if ledger.exists:
        proof = "" if ledger.has_any_proof() else "; it knows of no earlier send"
        yield row("ledger", f"{ledger.location}: source {ledger.source}, installation {ledger.installation}{proof}")
    else:
        yield row("ledger", f"{ledger.location}: not there yet; the first send makes it")
    if ledger.path is None:
        return
    place = ledger.path if ledger.path.exists() else ledger.path.parent
    # SQLite writes its journal, and leadctl its locks, beside the file.
    for path in dict.fromkeys((place, ledger.path.parent)):
        if not os.access(path, os.W_OK):
            yield {
                "check": "ledger", "verdict": "error", "code": "usage",
                "message": f"{path} cannot be written by this user: nothing can be sent",
                "hint": "give this user the right to write there, or set [ledger] url",
            }  # fmt: skip
    if ledger.path.parent.is_dir():
        free = shutil.disk_usage(ledger.path.parent).free
        yield row("ledger disk", f"{free // 1024**2:,} MB free", warning=free < LOW_DISK, hint="")
    for credential_id, kept in ledger.overrides().items():
        names = ", ".join(kept)
        yield row(
            "ledger overrides",
            f"credential {credential_id}: {names} was changed by the vendor, and is kept in the ledger",
            warning=True,
            hint="write the new value into the credential's data",
        )


def _memory(app: App) -> Iterator[Row]:
    """Whether a ledger that has forgotten something would be noticed, and whether one is."""
    for message, hint in app.warnings():
        yield row("ledger memory", message, warning=True, hint=hint)
    folder = app.ledger.state.path
    place = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    message = f"{folder}: a ledger that is restored from a backup is noticed by what is kept there"
    if os.access(place, os.W_OK):
        yield row("state", message)
    else:
        yield row("state", f"{message}, but it cannot be written", warning=True, hint="set XDG_STATE_HOME")


def _credentials(app: App) -> Iterator[Row]:
    try:
        accounts, overrides = load_credentials(app.db), app.ledger.overrides()
    except LeadctlError as error:
        yield failure("credentials", error)
        return
    enabled = [effective_account(account, overrides, {}) for account in accounts if account.enabled]
    unsupported = Counter(told([account.channel]) for account in enabled if not is_channel(account.channel))
    for channel in channel_names():
        own = [account for account in enabled if account.channel == channel]
        problems = [f"{account.credential_id}: {why}" for account in own if (why := _problem(app, account))]
        if own:
            message = f"{len(own)} enabled, {len(problems)} invalid" + "".join(f"; credential {p}" for p in problems)
            hint = f"see: leadctl channels schema {channel}" if problems else ""
            yield row(f"credentials {channel}", message, warning=bool(problems), hint=hint)
    for name, number in sorted(unsupported.items()):
        yield row("credentials", f"{number} of the unsupported type {name!r}", hint="see: leadctl channels")
    if not enabled:
        yield row("credentials", "none is enabled: nothing can be sent", warning=True)


def _problem(app: App, account: Account) -> str | None:
    try:
        channel_class(account.channel).open(account, app.toolbox(account.credential_id))
    except InvalidCredential as error:
        return str(error)
    return None


def _limits(app: App) -> Iterator[Row]:
    try:
        router = Router(app, Selectors())
        for account in router.accounts():
            router.route(account.credential_id)
        check_limits(app, router)
    except LeadctlError as error:
        yield failure("limits", error)


def _clock(loaded: LoadedSettings, db: Database | None) -> Iterator[Row]:
    now = datetime.now(UTC)
    zone = loaded.settings.timezone or f"the machine's ({now.astimezone().tzname()})"
    written = [path.stat().st_mtime for path in (loaded.path, db.path if db else None) if path and path.exists()]
    behind = max(written, default=0.0) - now.timestamp()
    message = f"{now:%Y-%m-%d %H:%M:%S} UTC; times on the command line are in {zone}"
    if behind > SKEW:
        message += f"; a file was written {behind:,.0f} s in the future"
        yield row("clock", message, warning=True, hint="set the machine's clock: tokens and waits depend on it")
    else:
        yield row("clock", message)


def _modes(loaded: LoadedSettings, db: Database | None, ledger: LedgerStore | None) -> Iterator[Row]:
    secret = bool(loaded.path and _PASSWORD.search(_text(loaded.path)))
    files = (
        ("config", loaded.path, secret),
        ("leads and credentials", db.path if db else None, True),
        ("ledger", ledger.path if ledger else None, True),
    )
    for what, path, private in files:
        if path is not None and path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
            exposed = private and bool(mode & stat.S_IROTH)
            told = ": every user of this machine can read what is secret in it" if exposed else ""
            hint = f"chmod o-rwx {path}" if exposed else ""
            yield row(f"file mode {what}", f"{path}: {mode:04o}{told}", warning=exposed, hint=hint)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
