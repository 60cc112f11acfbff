"""The application's delivery log as a plan asks it: which of a lead's deliveries it proves."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from leadctl.channels import channel_class, is_channel
from leadctl.domain.errors import InvalidCredential
from leadctl.domain.model import Account, LeadId, Logged
from leadctl.services.routing import OpenRoute, Router

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App
    from leadctl.store.deliverylog import LoggedRow


class Logbook:
    """The log beside the credentials as they are now.

    A row that names a credential proves the delivery by this credential, and by every other one that leads to the same
    destination. A row that names only a type proves it for every credential of that channel: it does not say which one.
    Where a credential led to when the row was written, the log does not know.
    """

    def __init__(self, app: "App", router: Router) -> None:
        self._app = app
        self._accounts = {str(account.credential_id): account for account in router.accounts()}
        self._destination = lru_cache(None)(self._find_destination)

    def of(self, lead_ids: Sequence[LeadId]) -> "Mapping[LeadId, Sequence[LoggedRow]]":
        """The rows that say "delivered", by lead; empty where no log is mapped."""
        log = self._app.delivery_log
        return log.delivered(lead_ids) if log is not None else {}

    def proof(self, rows: "Sequence[LoggedRow]", route: OpenRoute) -> Logged | None:
        """What a lead's rows tell of that route: the latest one."""
        mine = [row for row in rows if self._proves(row, route)]
        if not mine:
            return None
        latest = max(mine, key=lambda row: (row.at.timestamp() if row.at else float("-inf"), row.remote_id or ""))
        return Logged(latest.at, latest.remote_id)

    def _proves(self, row: "LoggedRow", route: OpenRoute) -> bool:
        if row.credential_id is None:
            return row.channel == route.account.channel
        if row.credential_id == str(route.account.credential_id):
            return True
        return self._destination(row.credential_id) == route.key

    def _find_destination(self, credential_id: str) -> str | None:
        """Where a credential leads to, whether or not it is switched on or selected; None where nobody can tell."""
        account = self._accounts.get(credential_id)
        return self._open(account) if account is not None else None

    def _open(self, account: Account) -> str | None:
        if not is_channel(account.channel):
            return None
        try:
            channel = channel_class(account.channel).open(account, self._app.toolbox(account.credential_id))
        except InvalidCredential:
            return None
        return channel.destination().key
