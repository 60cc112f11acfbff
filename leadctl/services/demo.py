"""``leadctl demo``: an outage and its end, on emulated vendors, typed as a person would type it."""

import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from leadctl.sandbox.server import Sandbox, running_sandbox
from leadctl.services.bootstrap import open_app
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Selectors
from leadctl.services.sample_data import build_sample_database
from leadctl.settings import load_settings

Echo = Callable[[str], None]

LEADS = 300
#: Limits and waits run a hundred times faster than in life; amoCRM slowly enough to go down in the middle.
_CONFIG = """\
[database]
url = "sqlite:///{database}"
[network]
allow_private = ["127.0.0.0/8"]
[limits]
scale = 100
[limits.amocrm]
rate = 0.1
[send]
patience = 2
"""
#: The outage begins when so many leads are in amoCRM.
_DOWN_AFTER = 60
_COMMAND_SECONDS = 60


def run_demo(echo: Echo) -> int:
    """Show a plan, one lead, an outage in a bulk run, the same command again, and the account. Returns 0 or 1."""
    with tempfile.TemporaryDirectory(prefix="leadctl-demo-") as folder, running_sandbox(scale=100) as box:
        demo = _Demo(echo, Path(folder), box)
        demo.prepare()
        demo.one_lead()
        demo.outage()
        demo.recovery()
        return demo.account()


class _Demo:
    def __init__(self, echo: Echo, folder: Path, box: Sandbox) -> None:
        self._echo = echo
        self._folder = folder
        self._box = box
        self._config = folder / "leadctl.toml"

    def prepare(self) -> None:
        credentials = {vendor.name: [(vendor.credential(), vendor.settings())] for vendor in self._box.vendors}
        database = self._folder / "leads.db"
        build_sample_database(database, credentials, LEADS)
        self._config.write_text(_CONFIG.format(database=database))
        self._config.chmod(0o600)
        self._say(f"A sample database: {LEADS} leads, and emulated vendors on this machine ({self._box.url}).")

    def one_lead(self) -> None:
        lead = self._first_lead_with_everything()
        self._say("What would be sent for one lead, and why the rest is left out?")
        self._type("plan", lead)
        self._say("Send that lead. (Exit 4: some of the sample's credentials are broken, on purpose.)")
        self._type("resend", lead, "-q")

    def _first_lead_with_everything(self) -> str:
        with open_app(load_settings(str(self._config), {})) as app:
            plans = plan_leads(app, LeadSelection(), Selectors())
            best = max(plans, key=lambda plan: (len(plan.deliveries), len(plan.skipped), -int(plan.lead_id)))
        return str(best.lead_id)

    def outage(self) -> None:
        self._say("Now all of them. In the middle, amoCRM goes down.")
        with self._going_down("amocrm", _DOWN_AFTER):
            self._type("bulk-resend", "--since", "2026-01-01", "--yes")

    def recovery(self) -> None:
        self._say("amoCRM is up again. The same command sends what is missing, only there.")
        self._box.faults.clear("amocrm")
        self._type("bulk-resend", "--since", "2026-01-01", "--yes")
        self._type("runs", "list")

    def account(self) -> int:
        """What the vendors have, against what the ledger says is delivered."""
        self._say("The account: what the ledger says is delivered, and what the vendors have.")
        with open_app(load_settings(str(self._config), {})) as app:
            planning = plan_leads(app, LeadSelection(), Selectors())
            delivered: dict[str, int] = {}
            for plan in planning:
                for proven in plan.already_delivered:
                    channel = proven.account.channel
                    delivered[channel] = delivered.get(channel, 0) + 1
            missing = planning.totals.by_channel
        wrong = False
        self._echo(f"  {'channel':<10} {'delivered':>9} {'at the vendor':>14} {'twice':>6} {'missing':>8}")
        for channel in sorted({*delivered, *missing}):
            there = self._box.judge.by_lead(channel)
            twice = sum(count - 1 for count in there.values())
            wrong = wrong or twice > 0 or len(there) != delivered.get(channel, 0) or bool(missing.get(channel))
            self._echo(
                f"  {channel:<10} {delivered.get(channel, 0):>9} {len(there):>14} {twice:>6} "
                f"{missing.get(channel, 0):>8}"
            )
        self._echo("")
        self._echo("It does not add up." if wrong else "It adds up: nothing lost, nothing twice.")
        return 1 if wrong else 0

    @contextmanager
    def _going_down(self, vendor: str, after: int) -> Iterator[None]:
        over = threading.Event()

        def watch() -> None:
            end = time.monotonic() + _COMMAND_SECONDS
            while not over.wait(0.01) and time.monotonic() < end:
                if len(self._box.judge.creations(vendor)) >= after:
                    self._box.faults.always(vendor, "bad_gateway")
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _say(self, text: str) -> None:
        self._echo("")
        self._echo(f"# {text}")

    def _type(self, *arguments: str) -> None:
        """Run leadctl as a process of its own, on the same terminal."""
        self._echo(f"$ leadctl {shlex.join(arguments)}")
        sys.stdout.flush()
        command = [sys.executable, "-m", "leadctl", "--config", str(self._config), *arguments]
        # The ledger ends with its folder: nothing of it is to be remembered on this machine.
        env = {**os.environ, "XDG_STATE_HOME": str(self._folder / "state")}
        done = subprocess.run(command, stdin=subprocess.DEVNULL, timeout=_COMMAND_SECONDS, check=False, env=env)  # noqa: S603 our own program
        code = done.returncode
        self._echo(f"(exit {code})")
