"""Opening what a command works with: settings, database, ledger, network guard."""

from collections.abc import Callable, Iterator
from datetime import UTC
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from leadctl.channelkit.channel import Toolbox
from leadctl.channelkit.network import NetworkGuard
from leadctl.channelkit.sessions import Sessions
from leadctl.channelkit.stopping import Stopping
from leadctl.domain.clock import SystemClock
from leadctl.domain.events import Event
from leadctl.domain.masking import Secrets
from leadctl.domain.model import CredentialId
from leadctl.settings import LoadedSettings, Settings
from leadctl.store.credentials import CredentialRows
from leadctl.store.database import Database
from leadctl.store.leases import Leases, open_leases
from leadctl.store.ledger import LedgerStore

if TYPE_CHECKING:
    from leadctl.store.deliverylog import DeliveryLog


class App:
    """Everything a service needs. A context manager: leaving it closes databases and leases."""

    def __init__(self, loaded: LoadedSettings, db: Database, ledger: LedgerStore) -> None:
        self.loaded = loaded
        self.db = db
        self.ledger = ledger
        self.guard = NetworkGuard(loaded.settings.network.allow_private)
        self.secrets = Secrets()
        self.sessions = Sessions()
        self.stopping = Stopping()
        self.clock = SystemClock()
        #: Where channels tell what a person should know; a sending command sets it to its observer.
        self.notify: Callable[[Event], None] = _ignore

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @cached_property
    def leases(self) -> Leases:
        """Locks that die with this process."""
        return open_leases(self.ledger)

    @cached_property
    def credentials(self) -> CredentialRows:
        """Writing back to credentials."""
        return CredentialRows(self.db, self.ledger, self.leases)

    @cached_property
    def delivery_log(self) -> "DeliveryLog | None":
        """The application's own log, where one is mapped. Raises ConfigError for a table or column that is missing."""
        if self.settings.database.mapping.deliveries is None:
            return None
        from leadctl.store.deliverylog import DeliveryLog

        return DeliveryLog.open(self.db, self.settings.database.mapping)

    def toolbox(self, credential_id: CredentialId) -> Toolbox:
        """What the channel of this credential may use."""
        return Toolbox(
            credential_id=credential_id,
            guard=self.guard,
            clock=self.clock,
            credentials=self.credentials,
            notify=self._tell,
            secrets=self.secrets,
            sessions=self.sessions,
            stopping=self.stopping,
            scale=self.settings.limits.scale,
        )

    def warnings(self) -> Iterator[tuple[str, str]]:
        """What a person must know before anything is planned, each with what to do."""
        if self.ledger.restored_at is not None:
            since = f"{self.ledger.restored_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            why = f" ({self.ledger.restored_why})" if self.ledger.restored_why else ""
            message = (
                f"the ledger {self.ledger.location} was restored from a backup, or another one was lost there{why}: "
                f"leads created before {since} are looked for at the vendor before they are sent; where that cannot "
                "be, they stay unknown"
            )
            yield message, "if it has forgotten nothing: leadctl doctor --no-ledger-restored"
        elif self.ledger.lost is not None:
            message = (
                f"another ledger was at {self.ledger.location} before, with {self.ledger.lost.runs} runs: what was "
                "sent from it would be sent again"
            )
            yield (
                message,
                (
                    "put it back; if it is lost: leadctl doctor --ledger-restored; if this is a new start: "
                    "leadctl doctor --no-ledger-restored"
                ),
            )

    def _tell(self, event: Event) -> None:
        self.notify(event)

    def close(self) -> None:
        """Close databases and let leases go."""
        self.leases.close()
        self.ledger.close()
        self.db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ignore(event: Event) -> None:
    """Nobody listens."""


def open_app(loaded: LoadedSettings, *, create_ledger: bool = False) -> App:
    """Open database and ledger. Raises ConfigError (exit 2), DatabaseUnreachable (exit 5)."""
    db = Database.open(loaded.settings.database)
    try:
        ledger = LedgerStore.open(loaded.settings, db, create=create_ledger)
    except BaseException:
        db.close()
        raise
    return App(loaded, db, ledger)
