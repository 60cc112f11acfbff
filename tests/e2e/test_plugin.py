"""A channel that a package of somebody else brings (``tests/plugin``), found by its entry points."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from leadctl.channels import own_names
from tests.support.world import World

PLUGIN = Path(__file__).parents[1] / "plugin"
#: Its vendor runs in leadctl's own process group: a program of its own, since this process knows no plugin.
_VENDOR = """
import sys
from leadctl.sandbox.server import running_sandbox
with running_sandbox(["acme"]) as box:
    print(box.vendor("acme").url, flush=True)
    sys.stdin.readline()
    print(dict(box.judge.by_lead("acme")), flush=True)
"""


def test_its_package_passes_the_contract_suite() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(PLUGIN / "acme_leads_tests.py")]
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(PLUGIN)}, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
    assert "skipped" not in ran.stdout


def test_it_is_listed_planned_and_sent_to(world: World) -> None:
    world.env["PYTHONPATH"] = str(PLUGIN)
    with subprocess.Popen(
        [sys.executable, "-c", _VENDOR],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PLUGIN)},
    ) as vendor:
        assert vendor.stdin is not None
        assert vendor.stdout is not None
        data = {"base_url": vendor.stdout.readline().strip(), "api_key": "acme-sandbox-0123456789"}
        world.add_credential(11, "acme", data)
        (lead,) = world.new_leads()
        names = [row["name"] for row in world.run("channels", "--json").json["channels"]]
        assert set(names) == {*own_names(), "acme"}
        assert world.run("channels", "schema", "acme").json["example"]["data"]["base_url"] == "https://acme.example"
        assert world.run("plan", lead, "-c", "acme", "--json").json["totals"]["by_channel"] == {"acme": 1}
        assert world.run("channels", "check", "acme", "--json").json["checks"][0]["verdict"] == "ok"
        assert world.run("resend", lead, "--json").outcomes == {11: "delivered"}
        vendor.stdin.write("\n")
        vendor.stdin.flush()
        assert vendor.stdout.readline().strip() == str({str(lead): 1})


def test_a_broken_package_is_named(world: World, tmp_path: Path) -> None:
    """Where its channel is used; elsewhere nobody imports it."""
    shutil.copytree(PLUGIN / "acme_leads-1.0.dist-info", tmp_path / "acme_leads-1.0.dist-info")
    (tmp_path / "acme_leads.py").write_text("raise RuntimeError('no licence')\n")
    world.env["PYTHONPATH"] = str(tmp_path)
    world.add_credential(11, "acme", {"api_key": "acme-0123456789"})
    world.add_leads([1])
    world.add_leads([2], external_entity_id=2)
    done = world.run("plan", 1, "--json")
    assert done.code == 2
    assert "acme-leads cannot be loaded: RuntimeError" in done.json["message"]
    assert "acme-leads" in done.json["hint"]
    assert world.run("plan", 2, "--json").code == 0
