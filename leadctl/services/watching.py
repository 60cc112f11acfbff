"""New leads without a hand: every look sends, or queues, what was created since the last one."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from leadctl.domain.errors import DatabaseUnreachable, RunLocked
from leadctl.domain.events import RunEvent
from leadctl.domain.model import LeadId
from leadctl.domain.ports import Observer
from leadctl.services.requests import SendRequest
from leadctl.services.resending import Confirm, send
from leadctl.services.selections import selection_digest
from leadctl.services.stopping import StopSwitch
from leadctl.store.leads import LeadFilter, head_pages
from leadctl.store.marks import Marks

if TYPE_CHECKING:
    from leadctl.services.bootstrap import App

#: A look goes so far behind the last one: transactions commit late, and clocks differ. What a run has planned before
#: is not taken again.
OVERLAP = timedelta(minutes=10)


def watch(
    app: "App",
    request: SendRequest,
    *,
    every: float,
    once: bool,
    confirm: Confirm,
    observer: Observer,
    stop: StopSwitch,
    done: Callable[[dict[str, Any]], None],
) -> int:
    """Look again and again, every so many seconds, until ``stop`` (or once). ``request``: the selectors; its
    ``leads.since`` is where the very first look begins (now, if it is None). ``done`` is told of every run.

    Returns the exit code: of the signal, or with ``once`` of its run. Raises ConfigError and Declined as a run does.
    """
    app.ledger.make()
    marks, name = Marks(app.ledger), f"watch:{selection_digest(replace(request, leads=_aside(request)))}"
    code = 0
    while not stop.requested:
        try:
            document = _look(app, marks, name, request, confirm, observer, stop)
            if document is not None:
                done(document)
                code = int(document["exit_code"] or 0)
        except (DatabaseUnreachable, RunLocked) as error:
            if once:
                raise
            observer(RunEvent("watch_waiting", "warning", {"message": error.message, "hint": error.hint}))
        if once or stop.wait(every):
            break
    return 128 + stop.signal if stop.signal is not None else code


def _aside(request: SendRequest) -> Any:
    """The selection without its times: they move."""
    return replace(request.leads, since=None, typed=())


def _look(
    app: "App",
    marks: Marks,
    name: str,
    request: SendRequest,
    confirm: Confirm,
    observer: Observer,
    stop: StopSwitch,
) -> dict[str, Any] | None:
    """One look; the document of its run, None where nothing is new."""
    now = app.clock.now()
    first, last = _looked(marks.get(name), request.leads.since or now)
    fresh = _fresh(app, marks, request, max(first, last - OVERLAP))
    document = None
    if fresh:
        leads = replace(request.leads, ids=fresh, since=None, typed=(), by_name=False)
        document = send(app, replace(request, leads=leads), confirm=confirm, observer=observer, stop=stop)
    marks.keep(name, json.dumps({"first": first.isoformat(), "last": now.isoformat()}))
    return document


def _looked(kept: str | None, start: datetime) -> tuple[datetime, datetime]:
    """When it was looked for the first time, and last."""
    if kept is None:
        return start, start
    known = json.loads(kept)
    return datetime.fromisoformat(known["first"]), datetime.fromisoformat(known["last"])


def _fresh(app: "App", marks: Marks, request: SendRequest, since: datetime) -> list[LeadId]:
    """Leads from then on that no run has planned."""
    wanted = LeadFilter(request.leads.project, request.leads.entity, since)
    fresh: list[LeadId] = []
    for page in head_pages(app.db, wanted):
        ids = [head.id for head in page]
        planned = marks.planned(ids, since) if ids else set()
        fresh += [identity for identity in ids if identity not in planned]
    return fresh
