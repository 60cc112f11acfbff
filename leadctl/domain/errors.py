"""Every error of leadctl. The type says what happens next.

::

    LeadctlError                    said to the user, with what, where, and what to do
    ├── ConfigError                 exit 2: flags, config, ids file, database without tables
    ├── LeadNotFound                exit 1: from the Python face only
    ├── NothingSelected             exit 3: no lead is selected, with --fail-on-empty
    ├── RunLocked                   exit 7: another process holds the run's lease
    ├── Declined                    exit 8: the operator said no
    ├── Interrupted                 exit 129, 130, 143: a signal came before anything was sent
    ├── DatabaseUnreachable         exit 5: the same command later goes on
    └── DeliveryError               one request, or one place in a batch; never reaches the user as such
        ├── Rejected                refused as the lead is now: no retry
        ├── Unusable                the credential is parked for the run, nothing of it is sent
        ├── LimitReached            a quota or a ban: the credential ends for this run
        ├── Throttled               not executed: the lane waits, costs no try
        ├── Split                   all-or-nothing refusal: named ones out, or the batch halved
        ├── Transient               surely not executed: retried with back-off
        │   └── Stopped             the run was stopped while this one waited to begin: costs no try
        └── Ambiguous               it may have been executed: reconciled, never simply repeated
"""

import signal
from collections.abc import Mapping
from typing import Any


class LeadctlError(Exception):
    """Something to be told to the user: what is wrong and where (``message``), and what to do (``hint``)."""

    exit_code = 70
    code = "bug"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def as_json(self) -> dict[str, Any]:
        """The shape ``leadctl.error/1`` of CONTRACT §4."""
        return {
            "schema": "leadctl.error/1",
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class ConfigError(LeadctlError):
    """The command cannot start as typed or configured; nothing was sent."""

    exit_code = 2
    code = "usage"


class LeadNotFound(LeadctlError):
    """The lead asked for is not in the database."""

    exit_code = 1
    code = "lead_not_found"


class NothingSelected(LeadctlError):
    """No lead is selected, and ``--fail-on-empty`` was given."""

    exit_code = 3
    code = "nothing_selected"


class RunLocked(LeadctlError):
    """Another process holds the lease of this run."""

    exit_code = 7
    code = "run_locked"


class Declined(LeadctlError):
    """The operator said no; nothing was sent."""

    exit_code = 8
    code = "declined"


class Interrupted(LeadctlError):
    """A signal came before anything was sent."""

    code = "interrupted"

    def __init__(self, signal_number: int) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(f"interrupted by {name}; nothing was sent", hint="type the same command again")
        self.exit_code = 128 + signal_number


class DatabaseUnreachable(LeadctlError):
    """A database does not answer. Nothing is sent without its intent written."""

    exit_code = 5
    code = "database_unreachable"


class InvalidCredential(Exception):
    """``data`` or ``settings`` of a credential do not fit (a skip of the plan, ``invalid_credential``).

    The message names the field and never holds its value.
    """


class DeliveryError(Exception):
    """Why a request, or one place in a batch, did not end in Done.

    ``vendor_code`` is the vendor's own code (``NotSupportedChoice``, ``429``), ``path`` the field it names,
    ``answer`` a short excerpt of the vendor's answer (masked again before it is stored).
    """

    def __init__(
        self,
        message: str,
        *,
        vendor_code: str | None = None,
        http_status: int | None = None,
        path: str | None = None,
        answer: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.vendor_code = vendor_code
        self.http_status = http_status
        self.path = path
        self.answer = answer
        self.request_digest: str | None = None


class Rejected(DeliveryError):
    """The vendor refuses this lead as it is now."""


class Unusable(DeliveryError):
    """The credential, or what it points to, is refused: parked for the run. Nothing was executed."""

    def __init__(self, message: str, *, address_not_allowed: bool = False, **details: Any) -> None:
        super().__init__(message, **details)
        self.address_not_allowed = address_not_allowed


class LimitReached(DeliveryError):
    """A daily quota, a ban, or a wait that is longer than patience. ``until`` is Unix seconds, if known."""

    def __init__(self, message: str, *, until: float | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.until = until


class Throttled(DeliveryError):
    """Not executed: too fast. ``retry_after`` in seconds is the vendor's word; None: our own back-off.

    ``scope`` names the bucket (its ``scope``) that must pause; None means the lane's narrowest.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, scope: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after
        self.scope = scope


class Split(DeliveryError):
    """An all-or-nothing refusal of a batch.

    ``refused`` names the items at fault by delivery key; an empty mapping asks for halves. ``executed_maybe``
    says that the vendor does not prove that nothing was stored: the rest is looked up before it goes again.
    """

    def __init__(
        self,
        message: str,
        *,
        refused: Mapping[str, DeliveryError] | None = None,
        executed_maybe: bool = False,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.refused: Mapping[str, DeliveryError] = refused or {}
        self.executed_maybe = executed_maybe


class Transient(DeliveryError):
    """Surely not executed (DNS, connect, an answer documented as not executed). ``retry_after`` in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class Stopped(Transient):
    """The run was stopped before the request began. It is no attempt, and costs no try."""


class Ambiguous(DeliveryError):
    """It may have been executed: a time-out or reset after sending, an answer that cannot be read."""
