"""Row 11: a large file of ids, and a run that goes on where 99 % of it is done.

``python -m benchmarks.resuming CONFIG`` makes such a run of all leads, and prints its id.
"""

import json
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.measuring import LEADCTL, PYTHON, ROOT, Row, Sizes, Spent, at_most, environment, run
from benchmarks.planning import MEMORY_MB, make_ledgers
from benchmarks.sending import receiver
from benchmarks.world import World, build, every_channel

#: So many times the leads of the other rows: a million.
_TIMES = 10
#: One in so many leads is not sent yet.
_OPEN = 100
_NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
#: Writes so many ids into a file. In a process of its own: a child's peak of memory begins at its parent's.
_SHUFFLED = """
import random, sys
numbers = list(range(1, int(sys.argv[2]) + 1))
random.Random(11).shuffle(numbers)
open(sys.argv[1], "w").writelines(f"{number}\\n" for number in numbers)
"""
#: Starts as leadctl does, and reads the ids of a run.
_READ = """
import sys
from leadctl.services.bootstrap import open_app
from leadctl.domain.ids import UniqueIds
from leadctl.settings import load_settings
with open_app(load_settings(sys.argv[1], {})) as app:
    UniqueIds(identity for page in app.ledger.run_lead_ids(sys.argv[2]) for identity in page)
"""
_LIMITS = "[limits]\nscale = 20.0\n[limits.webhooks]\nrate = 1000\n"


def resumed(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 11."""
    leads = _TIMES * sizes.leads
    many = build(folder / "ids", leads, every_channel(sizes.credentials))
    make_ledgers(many)
    file = many.folder / "ids.txt"
    run([PYTHON, "-c", _SHUFFLED, str(file), str(leads)], folder=many.folder)
    with (many.folder / "plan.jsonl").open("wb") as output:
        command = [LEADCTL, "--config", str(many.config), "plan", "--ids-file", str(file), "--jsonl"]
        planned = run(command, folder=many.folder, stdout=output)
    read, first, spent = _first_request(leads, folder)
    return [
        Row("11", f"plan of an ids file of {leads:,} shuffled lines, resident memory", f"≤ {MEMORY_MB} MB",
            f"{planned.peak_mb:.0f} MB", at_most(planned.peak_mb, MEMORY_MB), f"CPU {planned.cpu:.2f} s"),
        Row("11", f"`runs resume` of {leads:,} leads, 99 % done: from its last id read to the first request", "≤ 3 s",
            f"{first - read:.2f} s", at_most(first - read, 3.0),
            f"{first:.2f} s from its start; a process that starts and reads the ids takes {read:.2f} s of it"),
        Row("11", "its resident memory", f"≤ {MEMORY_MB} MB", f"{spent.peak_mb:.0f} MB",
            at_most(spent.peak_mb, MEMORY_MB), f"CPU {spent.cpu:.2f} s"),
    ]  # fmt: skip


def _first_request(leads: int, folder: Path) -> tuple[float, float, Spent]:
    """Seconds of a process that only reads the ids, and of the real one up to its first request."""
    with receiver() as url:
        data = {"url": url, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
        world = build(folder / "run", leads, [("webhooks", data, {})], _LIMITS)
        run_id = _made(world)
        read = run([PYTHON, "-c", _READ, str(world.config), run_id], folder=world.folder).wall
        began = time.perf_counter()  # the receiver's clock too
        command = [LEADCTL, "--config", str(world.config), "--quiet", "runs", "resume", run_id]
        spent = run(command, folder=world.folder)
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
    expected = (leads + _OPEN - 1) // _OPEN
    if found["distinct"] != expected:
        raise RuntimeError(f"{expected} leads were open, {found['distinct']} were sent")
    return read, min(times[1] for times in found["hosts"].values()) - began, spent


def _made(world: World) -> str:
    """A run as a kill has left it. In a process of its own: see ``make_ledgers``."""
    done = subprocess.run(
        [PYTHON, "-m", "benchmarks.resuming", str(world.config)],
        cwd=ROOT, env=environment(ROOT), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def make_run(config: str) -> str:
    """Plan all leads as a bulk run does, and write down that all but one in a hundred were delivered."""
    from leadctl.domain.model import Target
    from leadctl.domain.outcomes import Outcome, TargetState
    from leadctl.services.bootstrap import open_app
    from leadctl.services.planning import plan_leads
    from leadctl.services.requests import LeadSelection, Selectors, SendRequest
    from leadctl.services.selections import as_options, selection_digest
    from leadctl.services.work import travelling_key
    from leadctl.settings import load_settings
    from leadctl.store.rows import TARGET_COLUMNS, ItemRow, target_to_row
    from leadctl.store.schema import targets
    from leadctl.store.tuples import insert_tuples

    insert = insert_tuples(targets, ("source", *TARGET_COLUMNS))
    with open_app(load_settings(config, {}), create_ledger=True) as app:
        ledger = app.ledger
        request = SendRequest("bulk-resend", LeadSelection(since=datetime(2000, 1, 1, tzinfo=UTC)))
        made = ledger.new_run(
            request.command, selection_digest(request), now=_NOW, options=as_options(request), total_count=-1
        )  # fmt: skip
        planning, place = plan_leads(app, request.leads, Selectors()), 0
        for plans in planning.pages():
            ledger.add_leads(made.id, [(place + n, plan.lead_id, "planned") for n, plan in enumerate(plans)])
            items, rows = [], []
            for seq, plan in enumerate(plans, place):
                (planned,) = plan.deliveries
                account, destination = planned.account, planned.destination
                sent = seq % _OPEN != 0
                items.append(ItemRow(
                    seq, plan.lead_id, account.channel, account.credential_id, account.name, destination.key,
                    outcome=Outcome.DELIVERED if sent else Outcome.PENDING, reason="new", target=destination.target,
                    attempts=int(sent),
                ))  # fmt: skip
                key = travelling_key(ledger.installation, plan.lead_id, account.credential_id, 0)
                rows += [(ledger.source, *target_to_row(Target(
                    plan.lead_id, destination.key, 0, TargetState.DELIVERED, key, account.credential_id,
                    account.channel, destination.account_key, _NOW, _NOW, run_id=made.id,
                )))] if sent else []  # fmt: skip
            ledger.add_items(made.id, items)
            ledger.transact(partial(insert.run, rows=rows))
            place += len(plans)
        ledger.set_counts(made.id, place, 0)
        return str(made.id)


if __name__ == "__main__":
    print(make_run(sys.argv[1]))
