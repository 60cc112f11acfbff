"""What the commands ask of the services, as values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from leadctl.domain.model import CredentialId, LeadId

if TYPE_CHECKING:
    from leadctl.services.estimating import Estimate


@dataclass(frozen=True, slots=True)
class Selectors:
    """Which integrations (CONTRACT §2.6). Empty means all."""

    channels: tuple[str, ...] = ()
    skip_channels: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    credentials_file: Path | None = None
    settings_file: Path | None = None


@dataclass(frozen=True, slots=True)
class LeadSelection:
    """Which leads. ``ids`` None: every lead that the other selectors match.

    ``project`` and ``entity`` are compared as text. Times are aware.
    """

    ids: Sequence[LeadId] | None = None
    project: str | None = None
    entity: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    #: ``since``, ``until`` and the like as they were typed: "2d" is the same selection tomorrow.
    typed: tuple[str, ...] = ()
    #: False: the ids are those that an earlier run selected, not a person's list.
    by_name: bool = True
    #: Only leads that something is to be sent for.
    missing: bool = False
    #: Of these, what workers have in their queue already is not missing.
    unless_queued: bool = False
    #: A person says that nothing was sent before the first run.
    first_run: bool = False
    #: Ids among ``ids`` that an earlier plan of the same run has left out.
    left_out: Collection[LeadId] = ()

    @property
    def named(self) -> bool:
        """Whether the leads were named by a person: then `rejected` ones are tried again. With ``--missing`` the person
        asks what is missing among them."""
        return self.ids is not None and self.by_name and not self.missing


#: The queue of what names none.
DEFAULT_QUEUE = "integrations"


@dataclass(frozen=True, slots=True)
class Queueing:
    """Workers shall carry the run. ``seconds``: how long a chunk of it takes at the account's limit."""

    name: str
    priority: int = 0
    seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class SendRequest:
    """One invocation of a command that sends. Seconds are floats."""

    command: Literal["resend", "bulk-resend"]
    leads: LeadSelection
    selectors: Selectors = field(default_factory=Selectors)
    delay: float = 0.0
    force_reason: str | None = None
    retry_unknown: bool = False
    #: How long to wait for the run's lease before giving up with exit 7.
    wait: float = 0.0
    fail_on_empty: bool = False
    #: The part of every limit that the run may use.
    share: float = 1.0
    #: What has not been sent by then is left to the next run. Aware.
    finish_by: datetime | None = None
    results_dir: Path | None = None
    #: None: it is sent here and now.
    queueing: Queueing | None = None
    #: The global options as they were typed, to be repeated in ``next_command``.
    global_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """The sums of a plan (CONTRACT §4)."""

    leads: int = 0
    not_found: int = 0
    filtered_count: int = 0
    deliveries: int = 0
    already_delivered: int = 0
    skipped: int = 0
    by_channel: Mapping[str, int] = field(default_factory=dict)
    #: Planned deliveries by state: new, failed, rejected, unknown, incomplete.
    by_state: Mapping[str, int] = field(default_factory=dict)
    #: Enabled, selected, linked credentials that are invalid_credential (exit 4 for a sending command).
    invalid_credentials: int = 0
    #: Unknown deliveries that only --retry-unknown or a person settles.
    held_unknown: int = 0
    #: Creation time of the oldest lead with something to send.
    oldest: datetime | None = None
    #: Planned deliveries by credential, and how many of them are in doubt.
    by_credential: Mapping[CredentialId, int] = field(default_factory=dict)
    in_doubt: Mapping[CredentialId, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """What the operator is asked before a run sends (CONTRACT §3)."""

    command: str
    totals: PlanTotals
    #: The ledger knows of no earlier send at all.
    nothing_known: bool
    forced: bool = False
    #: Of a bulk run, the slowest channel first.
    estimates: Sequence["Estimate"] = ()
    #: Of ``--missing``: why the deliveries are missing is said too.
    missing: bool = False
