"""``leadctl channels check``: one read-only call per enabled credential."""

import asyncio
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leadctl.channelkit.channel import Channel
from leadctl.channels import channel_class, is_channel
from leadctl.domain.errors import ConfigError, DeliveryError, InvalidCredential, Rejected, Unusable
from leadctl.domain.masking import clean
from leadctl.domain.model import Account, sort_key
from leadctl.services.accounts import check_channel, effective_account
from leadctl.services.loops import in_own_loop
from leadctl.services.verdicts import GO_ON, OK, REFUSED
from leadctl.store.credentials import load_credentials

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: Calls at once.
_AT_ONCE = 8

_EXIT_CODES: Mapping[str, int] = {"ok": OK, "refused": REFUSED, "invalid": REFUSED, "unreachable": GO_ON}


def check_channels(app: "App", channel: str | None, credential: str | None) -> list[dict[str, Any]]:
    """A row for each enabled credential of a supported channel. Sends no lead.

    Raises ConfigError for a channel or credential that does not exist.
    """
    accounts = _chosen(app, channel, credential)
    return in_own_loop(lambda: _check_all(app, accounts))


def check_exit_code(rows: Iterable[Mapping[str, Any]]) -> int:
    """4 refused or invalid, 5 unreachable, else 0."""
    codes = {_EXIT_CODES[row["verdict"]] for row in rows}
    return next((code for code in (REFUSED, GO_ON) if code in codes), OK)


def _chosen(app: "App", channel: str | None, credential: str | None) -> list[Account]:
    if channel is not None:
        check_channel(channel)
    overrides = app.ledger.overrides()
    accounts = [effective_account(account, overrides, {}) for account in load_credentials(app.db)]
    if credential is not None:
        accounts = find_credential(accounts, credential)
    return sorted(
        (
            account
            for account in accounts
            if account.enabled and is_channel(account.channel) and channel in {None, account.channel}
        ),
        key=lambda account: sort_key(account.credential_id),
    )


def find_credential(accounts: Sequence[Account], wanted: str) -> list[Account]:
    """The credential of that id. Raises ConfigError with the nearest one."""
    found = [account for account in accounts if str(account.credential_id) == wanted]
    if not found:
        near = difflib.get_close_matches(wanted, [str(account.credential_id) for account in accounts], n=1)
        hint = f"did you mean {near[0]}?" if near else "see: leadctl channels check"
        raise ConfigError(f"no such credential: {wanted}", hint=hint)
    return found


async def _check_all(app: "App", accounts: Sequence[Account]) -> list[dict[str, Any]]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(account: Account) -> dict[str, Any]:
        async with turns:
            return await _check(app, account)

    return list(await asyncio.gather(*map(in_turn, accounts)))


async def _check(app: "App", account: Account) -> dict[str, Any]:
    try:
        channel = channel_class(account.channel).open(account, app.toolbox(account.credential_id))
    except InvalidCredential as error:
        return _row(account, "", "invalid", str(error))
    target = channel.destination().target
    try:
        verdict, message = await _call(channel)
    finally:
        await channel.close()
    return _row(account, target, verdict, clean(app.secrets.hide(message)) or "no answer in words")


async def _call(channel: Channel[Any, Any]) -> tuple[str, str]:
    try:
        return "ok", await channel.check()
    except (Unusable, Rejected) as error:
        return "refused", error.message
    except DeliveryError as error:
        return "unreachable", error.message


def _row(account: Account, target: str, verdict: str, message: str) -> dict[str, Any]:
    return {
        "channel": account.channel,
        "credential_id": account.credential_id,
        "credential_name": account.name,
        "target": target,
        "ok": verdict == "ok",
        "verdict": verdict,
        "message": message,
    }
