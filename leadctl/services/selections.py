"""What a run was asked for: the digest that names its selection, and the options that its row keeps."""

import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from leadctl.services.requests import LeadSelection, Selectors, SendRequest
from leadctl.store.rows import RunRow


def selection_digest(request: SendRequest) -> str:
    """One run at a time for the same command and selection: this names it."""
    ids = hashlib.sha256()
    for identity in request.leads.ids or ():
        ids.update(f"{identity}\n".encode())
    parts = [
        request.command,
        ids.hexdigest() if request.leads.ids is not None else None,
        *(_filters(request.leads) if not request.leads.typed else (request.leads.project, request.leads.entity)),
        *request.leads.typed,
        *_selector_options(request.selectors).values(),
        bool(request.force_reason),
        *(["missing"] if request.leads.missing else []),
    ]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]


def _filters(leads: LeadSelection) -> list[str | None]:
    return [leads.project, leads.entity, _time(leads.since), _time(leads.until)]


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _selector_options(selectors: Selectors) -> dict[str, Any]:
    return {
        "channels": sorted(selectors.channels),
        "skip_channels": sorted(selectors.skip_channels),
        "credentials": sorted(selectors.credentials),
        "credentials_file": str(selectors.credentials_file.resolve()) if selectors.credentials_file else None,
        "settings_file": str(selectors.settings_file.resolve()) if selectors.settings_file else None,
    }


def as_options(request: SendRequest) -> dict[str, Any]:
    """All that going on needs, for the run's row."""
    return {
        **_selector_options(request.selectors),
        "filters": _filters(request.leads),
        "named": request.leads.named,
        "missing": request.leads.missing,
        "force_reason": request.force_reason,
        "retry_unknown": request.retry_unknown,
        "share": request.share,
        "results_dir": str(request.results_dir.resolve()) if request.results_dir else None,
        "queueing": asdict(request.queueing) if request.queueing else None,
    }


def from_options(run: RunRow) -> SendRequest:
    """The request of a run that the ledger kept; its ids are read apart."""
    kept = run.options
    project, entity, since, until = kept.get("filters", [None] * 4)
    return SendRequest(
        command="resend" if run.command == "resend" else "bulk-resend",
        leads=LeadSelection(
            (),
            project,
            entity,
            datetime.fromisoformat(since) if since else None,
            datetime.fromisoformat(until) if until else None,
            by_name=bool(kept.get("named")),
            missing=bool(kept.get("missing")),
        ),
        selectors=Selectors(
            tuple(kept.get("channels", ())),
            tuple(kept.get("skip_channels", ())),
            tuple(kept.get("credentials", ())),
            _path(kept.get("credentials_file")),
            _path(kept.get("settings_file")),
        ),
        force_reason=kept.get("force_reason"),
        retry_unknown=bool(kept.get("retry_unknown")),
        share=float(kept.get("share", 1.0)),
        results_dir=_path(kept.get("results_dir")),
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
