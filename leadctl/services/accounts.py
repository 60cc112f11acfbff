"""Credentials as a run uses them: the database's or a file's, with what the ledger and a file lay over them."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from leadctl.channels import channel_names, is_channel
from leadctl.domain.errors import ConfigError
from leadctl.domain.model import Account, CredentialId


def check_channel(name: str, source: str = "") -> str:
    """The name itself, if it is a channel's. Raises ConfigError with the nearest one."""
    if is_channel(name):
        return name
    known = channel_names()
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    prefix = f"{source}: " if source else ""
    hint = f"did you mean {near[0]}?" if near else f"channels: {', '.join(known)}"
    raise ConfigError(f"{prefix}no such channel: {name}", hint=hint)


def effective_account(
    account: Account,
    overrides: Mapping[CredentialId, Mapping[str, Any]],
    settings_overlay: Mapping[str, Mapping[str, Any]],
) -> Account:
    """The account as it is opened.

    ``overrides``: what a vendor changed and only the ledger could keep (a chat that moved), by credential.
    ``settings_overlay``: ``--settings-file``, by channel; its keys replace those of ``settings``.
    """
    kept = overrides.get(account.credential_id)
    overlay = settings_overlay.get(account.channel)
    if account.problem or not (kept or overlay):
        return account
    return replace(
        account, data={**account.data, **(kept or {})}, settings={**account.settings, **(overlay or {})}
    )  # fmt: skip


def load_accounts_file(path: Path) -> list[Account]:
    """The credentials of ``--credentials-file``: ``{"amocrm": DATA or [DATA…], …}``. Raises ConfigError."""
    accounts: dict[CredentialId, Account] = {}
    for channel, value in _load_channels(path).items():
        for number, data in enumerate(value if isinstance(value, list) else [value], 1):
            if not isinstance(data, dict):
                raise ConfigError(
                    f"{path}: {channel}: credential {number} is not a JSON object",
                    hint=f"see: leadctl channels schema {channel}",
                )
            credential_id = _file_credential_id(data)
            accounts[credential_id] = Account(credential_id, channel, data=data)
    return list(accounts.values())


def _file_credential_id(data: Mapping[str, Any]) -> str:
    canonical = json.dumps(data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f"file:{hashlib.sha256(canonical.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def load_settings_file(path: Path) -> dict[str, Mapping[str, Any]]:
    """The overlay of ``--settings-file``: ``{"amocrm": {…}}``. Raises ConfigError."""
    overlay: dict[str, Mapping[str, Any]] = {}
    for channel, value in _load_channels(path).items():
        if not isinstance(value, dict):
            raise ConfigError(
                f"{path}: {channel}: settings must be a JSON object", hint=f"see: leadctl channels schema {channel}"
            )
        overlay[channel] = value
    return overlay


def _load_channels(path: Path) -> dict[str, Any]:
    hint = 'expected a JSON object by channel: {"amocrm": {…}}'
    try:
        document = json.loads(
            path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_no_repeats
        )
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}: not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}", hint=hint
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep", hint=hint) from None
    except ValueError as error:  # a repeated key, NaN, a number of thousands of digits
        raise ConfigError(f"{path}: {error}", hint=hint) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: the document is not a JSON object", hint=hint)
    for name in document:
        check_channel(name, str(path))
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _no_repeats(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key} stands there twice")
        found[key] = value
    return found
