"""The Python face (CONTRACT §9): no questions, no signal handlers, works inside a running event loop."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leadctl.domain.errors import ConfigError, LeadNotFound
from leadctl.domain.events import Event
from leadctl.domain.model import LeadId
from leadctl.services.bootstrap import App, open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Selectors, SendRequest
from leadctl.services.resending import send
from leadctl.services.shapes import lead_plan_json, plan_document
from leadctl.services.stopping import StopSwitch
from leadctl.settings import LoadedSettings, load_settings


class LeadResendService:
    """Resend leads from Python. A vendor's failure is in the result; what cannot begin is raised.

    Raises LeadNotFound (from :meth:`resend_lead`), RunLocked, ConfigError.
    """

    def __init__(self, loaded: LoadedSettings) -> None:
        self._loaded = loaded

    @classmethod
    def from_config(cls, path: str | os.PathLike[str] | None = None) -> "LeadResendService":
        """With a config file; None: the one that the command line would find."""
        return cls(load_settings(str(Path(path)) if path is not None else None))

    def resend_lead(self, lead_id: LeadId, channels: Sequence[str] = ()) -> dict[str, Any]:
        """Send one lead where it is missing; no channels means all. The document ``leadctl.run/1``."""
        with open_app(self._loaded, create_ledger=True) as app:
            document = self._send(app, "resend", [lead_id], channels)
        if document["total_count"] == 1 and any(e["code"] == "lead_not_found" for e in document["errors"]):
            raise LeadNotFound(f"there is no lead {lead_id} in the database")
        return document

    def bulk_resend_leads(self, lead_ids: Sequence[LeadId], channels: Sequence[str] = ()) -> dict[str, Any]:
        """Send many leads where they are missing. The document ``leadctl.run/1``."""
        with open_app(self._loaded, create_ledger=True) as app:
            return self._send(app, "bulk-resend", lead_ids, channels)

    def plan(self, lead_ids: Sequence[LeadId], channels: Sequence[str] = ()) -> dict[str, Any]:
        """What would be sent. The document ``leadctl.plan/1``."""
        with open_app(self._loaded) as app:
            selection = LeadSelection(_ids(app, lead_ids))
            planning = plan_leads(app, selection, Selectors(channels=tuple(channels)))
            leads = [lead_plan_json(plan) for plan in planning]
            return plan_document(leads, planning.totals, planning.errors())

    def _send(self, app: App, command: Any, lead_ids: Sequence[LeadId], channels: Sequence[str]) -> dict[str, Any]:
        request = SendRequest(command, LeadSelection(_ids(app, lead_ids)), Selectors(channels=tuple(channels)))
        return send(app, request, confirm=lambda question: None, observer=_silent, stop=StopSwitch())


def _ids(app: App, lead_ids: Sequence[LeadId]) -> list[LeadId]:
    try:
        return [app.db.lead_id(str(lead_id)) for lead_id in lead_ids]
    except ValueError as error:
        raise ConfigError(f"not a lead's id: {error}") from None


def _silent(event: Event) -> None:
    """No progress, no log."""
