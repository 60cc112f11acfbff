"""Which integrations a lead gets (CONTRACT §2): credentials, links and selectors as routes, worked out set-wise."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from leadctl.channelkit.channel import Channel
from leadctl.channelkit.spec import Retransmit
from leadctl.channels import channel_class, channel_names, is_channel
from leadctl.domain.errors import ConfigError, InvalidCredential
from leadctl.domain.model import Account, CredentialId, Destination, ExternalId, Lead, Skip, Target, sort_key
from leadctl.domain.outcomes import SkipReason
from leadctl.services.accounts import check_channel, effective_account, load_accounts_file, load_settings_file
from leadctl.services.requests import Selectors
from leadctl.store.credentials import load_credentials, load_links

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

Via = tuple[str, ...]
Judge = Callable[[Lead], Sequence[str]]

#: How many routings are remembered: of the entities and projects met last. A million leads may have as many pairs.
MEMO = 4096
FROM_FILE: Via = ("file",)


@dataclass(frozen=True, slots=True)
class OpenRoute:
    """A credential that can be sent to."""

    account: Account
    channel: Channel[Any, Any]
    destination: Destination
    #: Of the destination; worked out once, since every lead asks for them.
    key: str
    account_key: str

    @property
    def held(self) -> bool:
        """What is in doubt here is for a person: nothing can be asked, or nothing shall be."""
        blind = any(step.retransmit is Retransmit.BLIND for step in self.channel.steps)
        return blind or self.channel.settings.on_unknown == "hold"

    def has(self, row: Target) -> bool:
        """Whether the row tells of this route: at that destination, whoever carried it, or by this credential to the
        same account. There, what surely did not arrive says nothing: sent as that row, it would be proof of a
        destination that it never reached."""
        if row.destination == self.key:
            return True
        own = row.credential_id == self.account.credential_id and row.account == self.account_key
        return own and not row.is_empty

    def refusal(self, problems: Sequence[str], via: Via) -> Skip:
        """Of a lead that has these problems."""
        return Skip(self.account, SkipReason.INVALID_LEAD, "; ".join(problems), via, self.destination.target)


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The routes of one (entity, project), in the order of the credentials' ids."""

    routes: tuple[tuple[OpenRoute, Via], ...] = ()
    skips: tuple[Skip, ...] = ()
    warnings: tuple[str, ...] = ()
    invalid: int = 0
    #: The lead's columns that the routes' channels judge it by, and what they judge it with, each once.
    judged: frozenset[str] = frozenset()
    judges: tuple[Judge, ...] = ()

    def refusing(self, said: Sequence[Sequence[str]]) -> "Routing":
        """The same for a lead of which the judges said so, each in its place."""
        problems = dict(zip(self.judges, said, strict=True))
        routes, skips = [], list(self.skips)
        for route, via in self.routes:
            if found := problems.get(route.channel.judge):
                skips.append(route.refusal(found, via))
            else:
                routes.append((route, via))
        return replace(self, routes=tuple(routes), skips=tuple(skips))


@dataclass(slots=True)
class _Refused:
    reason: SkipReason
    detail: str
    target: str = ""


@dataclass
class Router:
    """All credentials and links, read once."""

    app: "App"
    selectors: Selectors
    #: These credentials alone: no lead will be planned, only :meth:`route` is asked; the links are not read.
    only: Collection[CredentialId] | None = None
    _accounts: dict[CredentialId, Account] = field(default_factory=dict)
    _from_file: tuple[CredentialId, ...] = ()
    _opened: dict[CredentialId, OpenRoute | _Refused] = field(default_factory=dict)

    def __post_init__(self) -> None:
        overrides = self.app.ledger.overrides()
        overlay: Mapping[str, Mapping[str, Any]] = {}
        if self.selectors.settings_file:
            overlay = load_settings_file(self.selectors.settings_file)
        accounts = load_credentials(self.app.db, self.only)
        if self.only is None:
            self._links = load_links(self.app.db, {account.credential_id for account in accounts})
        if self.selectors.credentials_file:
            given = load_accounts_file(self.selectors.credentials_file)
            self._from_file = tuple(account.credential_id for account in given)
            accounts = [*accounts, *given]
        for account in accounts:
            self._accounts[account.credential_id] = effective_account(account, overrides, overlay)
        self._routing = lru_cache(MEMO)(self._resolve)
        if self.only is None:
            self._check_selectors()

    def _check_selectors(self) -> None:
        for name in (*self.selectors.channels, *self.selectors.skip_channels):
            check_channel(name)
        known = {str(credential_id) for credential_id in self._accounts}
        for wanted in self.selectors.credentials:
            if wanted not in known:
                near = difflib.get_close_matches(wanted, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "see: leadctl channels check"
                raise ConfigError(f"no such credential: {wanted}", hint=hint)

    def accounts(self) -> Sequence[Account]:
        """Every credential, in the order of ids."""
        return sorted(self._accounts.values(), key=lambda account: sort_key(account.credential_id))

    def route(self, credential_id: CredentialId) -> OpenRoute | None:
        """The credential, opened; None where it cannot be sent to (any more)."""
        account = self._accounts.get(credential_id)
        opened = self._open(account) if account else None
        return opened if isinstance(opened, OpenRoute) else None

    def opened(self) -> list[OpenRoute]:
        """The credentials that the leads planned so far lead to."""
        return [opened for opened in self._opened.values() if isinstance(opened, OpenRoute)]

    def for_lead(self, entity: ExternalId | None, project: ExternalId | None) -> Routing:
        """The union of what is linked to the entity and to the project."""
        return self._routing(*self._links.owners(entity, project))

    def _resolve(self, entity: str | None, project: str | None) -> Routing:
        linked = [*self._links.of(entity, project), *((credential_id, FROM_FILE) for credential_id in self._from_file)]
        routes: list[tuple[OpenRoute, Via]] = []
        skips: list[Skip] = []
        first: dict[str, OpenRoute] = {}
        for credential_id, via in linked:
            account = self._accounts[credential_id]
            opened = self._open(account)
            if isinstance(opened, _Refused):
                skips.append(Skip(account, opened.reason, opened.detail, via, opened.target))
                continue
            twin = first.setdefault(opened.key, opened)
            if twin is not opened:
                detail = f"credential {twin.account.credential_id} leads to the same place"
                target = opened.destination.target
                skips.append(Skip(account, SkipReason.DUPLICATE_DESTINATION, detail, via, target))
                continue
            routes.append((opened, via))
        invalid = sum(skip.reason is SkipReason.INVALID_CREDENTIAL for skip in skips)
        judging = [route.channel for route, _ in routes if route.channel.judged]
        judged = frozenset().union(*(channel.judged for channel in judging))
        judges = tuple(dict.fromkeys(channel.judge for channel in judging))
        return Routing(tuple(routes), tuple(skips), _warnings(linked, routes, skips), invalid, judged, judges)

    def _open(self, account: Account) -> OpenRoute | _Refused:
        opened = self._opened.get(account.credential_id)
        if opened is None:
            opened = self._opened[account.credential_id] = self._try_open(account)
        return opened

    def _try_open(self, account: Account) -> OpenRoute | _Refused:
        if not account.enabled:
            return _Refused(SkipReason.DISABLED, "the credential is switched off")
        if not is_channel(account.channel):
            known = ", ".join(channel_names())
            return _Refused(SkipReason.UNSUPPORTED_CHANNEL, f"there is no channel of this type; supported: {known}")
        if not self._selected(account):
            return _Refused(SkipReason.NOT_SELECTED, "left out by the command's selectors")
        try:
            channel = channel_class(account.channel).open(account, self.app.toolbox(account.credential_id))
        except InvalidCredential as error:
            return _Refused(SkipReason.INVALID_CREDENTIAL, str(error))
        destination = channel.destination()
        return OpenRoute(account, channel, destination, destination.key, destination.account_key)

    def _selected(self, account: Account) -> bool:
        wanted = self.selectors
        if self._from_file and account.credential_id not in self._from_file:
            return False
        if wanted.channels and account.channel not in wanted.channels:
            return False
        if account.channel in wanted.skip_channels:
            return False
        return not wanted.credentials or str(account.credential_id) in wanted.credentials


def _warnings(
    linked: Sequence[tuple[CredentialId, Via]], routes: Sequence[tuple[OpenRoute, Via]], skips: Sequence[Skip]
) -> tuple[str, ...]:
    if not linked:
        return ("no credentials are linked to the lead's entity or project: nothing is sent",)
    if not routes and not any(skip.reason is SkipReason.NOT_SELECTED for skip in skips):
        return ("no supported, enabled and valid integrations: nothing is sent",)
    return ()
