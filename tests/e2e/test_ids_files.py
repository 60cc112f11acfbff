"""``--ids-file`` in every dress, and ``--results-dir``, whose files are such files too."""

import csv
import signal
from pathlib import Path

import pytest

from leadctl.sandbox.server import Sandbox
from tests.support.world import World, wait_until


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def planned(world: World, *arguments: str | int, stdin: str | None = None) -> list[int]:
    """The leads of a plan, in its order."""
    return [lead["lead_id"] for lead in world.run("plan", *arguments, "--json", stdin=stdin).json["leads"]]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf1\r\n2\r\n\r\n# three\r\n3\r\n",
        b"lead_id\n1\n2\n3",
        b'ID;name\r\n1;Anna\r\n2;"Kim; Ivan"\r\n3;x\r\n',
        b'name,lead_id,phone\n"Kim, Anna",1,+7\n"two\nlines",2,\nx,3,\n',
        b"id\tname\n1\tx\n2\ty\n3\tz\n2\tagain\n",
        b" 1 \n2\n3\n1\n",
        b"1,delivered\n2,failed\n3,x\n",
    ],
    ids=["bom-crlf-comments", "header", "semicolons", "named-column", "tabs-repeats", "spaces-repeats", "no-header"],
)
def test_what_counts_as_a_list_of_ids(world: World, content: bytes) -> None:
    world.add_leads([1, 2, 3, 4])
    world.path("ids.csv", content)
    assert planned(world, "--ids-file", "ids.csv") == [1, 2, 3]


def test_arguments_and_file_are_a_union_and_the_other_selectors_are_anded(world: World) -> None:
    world.add_leads([1, 2, 3])
    world.add_leads([4], external_project_id=9, created_at="2026-11-20 00:00:00")
    world.path("ids.txt", "3\n1\n4\n")
    assert planned(world, 2, 3, "--ids-file", "ids.txt") == [2, 3, 1, 4], "as given, each once"
    assert planned(world, 2, "--ids-file", "-", stdin="4\n3\n") == [2, 4, 3]
    assert planned(world, "--entity", 1) == [1, 2, 3, 4], "else ascending"

    done = world.run("plan", 1, 404, "--ids-file", "ids.txt", "--project", 9, "--json")
    document = done.json
    assert [lead["lead_id"] for lead in document["leads"]] == [4]
    assert document["totals"]["filtered_count"] == 2
    assert (done.code, [error["lead_id"] for error in document["errors"]]) == (1, [404])
    assert planned(world, "--since", "2026-11-20T00:00", "--until", "2026-11-24T06:00") == [4], "since ≤ … < until"


def test_bad_lines_are_named_and_nothing_is_sent_unless_they_are_skipped(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(2)
    world.path("ids.txt", f"{leads[0]}\nnot an id\n\n{leads[1]}\n-\n")
    refused = world.run("bulk-resend", "--ids-file", "ids.txt")
    assert refused.code == 2
    assert "line 2" in refused.err
    assert "line 5" in refused.err
    assert "line 1:" not in refused.err
    assert box.judge.by_lead("webhooks")[str(leads[0])] == 0

    done = world.run("bulk-resend", "--ids-file", "ids.txt", "--skip-bad-lines", "--json")
    assert (done.code, done.json["total_count"], done.json["outcomes"]["delivered"]) == (0, 2, 2)
    assert "line 2" in done.err
    assert world.run("bulk-resend", "--ids-file", "-", stdin=f"{leads[0]}\n").code == 0


def test_results_are_ids_files(world: World, box: Sandbox) -> None:
    world.connect(box, ["webhooks", "telegram"])
    good, bad, doubtful = world.new_leads(3)
    box.faults.script("webhooks", bad, ["reject"])
    box.faults.script("telegram", doubtful, ["reset"])
    done = world.run("bulk-resend", good, bad, doubtful, 404_404, "--results-dir", "out/today", "--json")
    assert done.code == 6
    out = world.folder / "out" / "today"
    assert {path.name for path in out.iterdir()} == {
        "delivered.csv", "failed.csv", "unknown.csv", "unprocessed.csv", "not_found.csv",
    }  # fmt: skip
    header = "lead_id,channel,credential_id,outcome,code,message,remote_id"
    assert all(path.read_text().splitlines()[0] == header for path in out.iterdir())
    found = {path.stem: [(int(row["lead_id"]), row["channel"], row["code"]) for row in rows_of(path)]
             for path in out.iterdir()}  # fmt: skip
    assert sorted(found["delivered"]) == [
        (good, "telegram", ""), (good, "webhooks", ""), (bad, "telegram", ""), (doubtful, "webhooks", ""),
    ]  # fmt: skip
    assert found["failed"] == [(bad, "webhooks", "vendor_rejected")]
    assert found["unknown"] == [(doubtful, "telegram", "maybe_delivered")]
    assert found["unprocessed"] == []
    assert [row["lead_id"] for row in rows_of(out / "not_found.csv")] == ["404404"]

    assert planned(world, "--ids-file", str(out / "delivered.csv")) == [good, bad, doubtful]
    again = world.run("bulk-resend", "--ids-file", str(out / "failed.csv"), "--json")
    assert (again.code, again.json["total_count"]) == (0, 1)
    assert planned(world, "--ids-file", str(out / "unprocessed.csv")) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_results_are_right_after_a_kill_and_after_the_same_command(
    world: World, box: Sandbox, how: signal.Signals
) -> None:
    world.connect(box, ["webhooks"])
    leads = world.new_leads(30)
    out = world.folder / "out"
    command = ("bulk-resend", *leads, 404_404, "--results-dir", "out")
    world.write_config("[limits.webhooks]\nrate = 0.1\n")  # 10 a second
    process = world.start(*command)
    wait_until(lambda: (out / "delivered.csv").exists() and len(rows_of(out / "delivered.csv")) > 3)
    process.send_signal(how)
    world.finish(process)
    there = {lead for lead in leads if box.judge.by_lead("webhooks")[str(lead)]}
    delivered = [int(row["lead_id"]) for row in rows_of(out / "delivered.csv")]
    assert set(delivered) <= there
    assert len(there) - len(delivered) <= 4, "only what was in flight is missing"
    assert len(set(delivered)) == len(delivered)
    assert planned(world, "--ids-file", "out/delivered.csv") == delivered
    if how is signal.SIGTERM:
        unprocessed = {int(row["lead_id"]) for row in rows_of(out / "unprocessed.csv")}
        assert unprocessed == set(leads) - set(delivered)

    world.write_config()
    assert world.run(*command).code == 1, "404404 is still not there"
    rows = rows_of(out / "delivered.csv")
    assert sorted(int(row["lead_id"]) for row in rows) == leads
    assert {row["outcome"] for row in rows} == {"delivered", "already_delivered"}
    assert rows_of(out / "unprocessed.csv") == []
    assert [row["lead_id"] for row in rows_of(out / "not_found.csv")] == ["404404"]
    assert [box.judge.by_lead("webhooks")[str(lead)] for lead in leads] == [1] * 30
