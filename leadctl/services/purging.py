"""``leadctl runs purge``: what is no longer needed is forgotten; what is delivered is not."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from leadctl.services.shapes import timestamp

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App


def purge(app: "App", before: datetime) -> dict[str, Any]:
    """Forget answers of attempts older than that, then attempts and rows of runs that finished before it.

    The proof of every delivery stays, and so does every run that may be gone on with. A ledger that is not there is not
    made. Raises DatabaseUnreachable; the same command goes on.
    """
    counts = dict.fromkeys(("answers", "attempts", "deliveries", "runs"), 0)
    ledger = app.ledger
    if ledger.exists:
        ledger.make()
        counts["answers"] = ledger.purge_answers(before)
        counts["attempts"] = ledger.purge_attempts(before)
        counts["deliveries"], counts["runs"] = ledger.purge_runs(before)
        ledger.sweep(app.leases)
        ledger.fold()
    return {"schema": "leadctl.purge/1", "before": timestamp(before), **counts}
