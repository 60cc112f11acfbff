"""The tables of the ledger.

Ids are kept as text and read back through :func:`leadctl.domain.model.parse_id`. Times are ISO text in UTC of one
width, so that they sort. What comes from a vendor has no length: an over-long code must not lose an outcome.
"""

from typing import Any

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import MEDIUMTEXT

SCHEMA_VERSION = 1

metadata = MetaData()


def _long() -> Text:
    return Text().with_variant(MEDIUMTEXT(), "mysql")


def _at(name: str, *, nullable: bool = True) -> Column[str]:
    return Column(name, String(32), nullable=nullable)


def _table(name: str, *columns: Column[Any] | Index, **options: Any) -> Table:
    """MySQL would take its database's choice: texts that hold no emoji, where "a" is "A", in tables without locks."""
    options |= {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin",
             "mysql_row_format": "DYNAMIC"}  # fmt: skip
    return Table(name, metadata, *columns, **options)


meta = _table(
    "leadctl_meta",
    Column("key", String(191), primary_key=True),
    Column("value", _long(), nullable=False),
)

#: The present truth about one lead at one destination. The primary key begins with what pages are read by.
targets = _table(
    "leadctl_targets",
    Column("source", String(100), primary_key=True),
    Column("lead_id", String(191), primary_key=True),
    Column("destination", String(64), primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("key", Text, nullable=False),
    Column("credential_id", Text, nullable=False),
    Column("channel", String(64), nullable=False),
    Column("account", String(64), nullable=False),
    _at("first_at", nullable=False),
    _at("updated_at", nullable=False),
    Column("step", String(64)),
    Column("done", _long(), nullable=False),
    Column("context", _long(), nullable=False),
    _at("sent_at"),
    Column("in_doubt", Integer, nullable=False),
    Column("remote_id", Text),
    Column("remote_url", Text),
    Column("run_id", String(64)),
    Column("holder", String(191)),
    Column("digest", Text),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("vendor_code", Text),
    Column("settled_by", String(16)),
    Column("rev", Integer, nullable=False),
    sqlite_with_rowid=False,
)

runs = _table(
    "leadctl_runs",
    Column("id", String(64), primary_key=True),
    Column("source", String(100), nullable=False),
    Column("command", String(32), nullable=False),
    Column("selection_digest", String(64), nullable=False),
    Column("options", _long(), nullable=False),
    Column("status", String(16), nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    _at("started_at", nullable=False),
    _at("due_at"),
    _at("finished_at"),
    Column("exit_code", Integer),
    Column("total_count", Integer, nullable=False),
    Column("filtered_count", Integer, nullable=False),
    Column("reason", Text),
    Column("counter", Integer, nullable=False),
    Column("superseded_by", String(64)),
    _at("taken_at"),
    Index("leadctl_runs_selection", "source", "selection_digest"),
)

run_leads = _table(
    "leadctl_run_leads",
    Column("run_id", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("lead_id", String(191), nullable=False),
    Column("status", String(16), nullable=False),
    sqlite_with_rowid=False,
)

#: The deliveries of a run. ``seq`` is the lead's place in the run.
deliveries = _table(
    "leadctl_deliveries",
    # The lead first: the life of a lead is read over all runs.
    Column("lead_id", String(191), primary_key=True),
    Column("run_id", String(64), primary_key=True),
    Column("credential_id", String(191), primary_key=True),
    Column("seq", Integer, nullable=False),
    # As it stands in the credential's row, also where no such channel is known.
    Column("channel", String(255), nullable=False),
    Column("credential_name", Text),
    Column("destination", String(64), nullable=False),
    Column("n", Integer, nullable=False),
    Column("outcome", String(20), nullable=False),
    Column("reason", String(32)),
    Column("detail", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("remote_id", Text),
    Column("remote_url", Text),
    Column("error_code", String(64)),
    Column("error_message", Text),
    Column("vendor_code", Text),
    Column("settled_by", String(16)),
    _at("finished_at"),
    Index("leadctl_deliveries_lane", "run_id", "credential_id", "seq"),
    Index("leadctl_deliveries_order", "run_id", "seq", "credential_id"),
    sqlite_with_rowid=False,
)

#: Append-only. SQLite counts up only an INTEGER key.
attempts = _table(
    "leadctl_attempts",
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("source", String(100), nullable=False),
    Column("run_id", String(64)),
    Column("lead_id", String(191), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("n", Integer, nullable=False),
    Column("credential_id", Text, nullable=False),
    Column("channel", String(64), nullable=False),
    Column("step", String(64), nullable=False),
    Column("trigger", String(32), nullable=False),
    _at("started_at", nullable=False),
    _at("ended_at"),
    Column("outcome", String(32), nullable=False),
    Column("http_status", Integer),
    Column("vendor_code", Text),
    Column("answer", Text, nullable=False),
    Column("request_digest", Text),
    Index("leadctl_attempts_lead", "source", "lead_id"),
)

#: Rates that processes share, by the vendor's scope. Unix seconds.
buckets = _table(
    "leadctl_buckets",
    Column("scope", String(191), primary_key=True),
    Column("full_until", Double, nullable=False),
    Column("paused_until", Double, nullable=False),
)

#: What a vendor changed and the credential's row could not take (a chat that moved).
overrides = _table(
    "leadctl_overrides",
    Column("source", String(100), primary_key=True),
    Column("credential_id", String(191), primary_key=True),
    Column("key", String(100), primary_key=True),
    Column("value", _long(), nullable=False),
    _at("at", nullable=False),
)

#: What workers carry of a queued run: an account's pending deliveries between two places of the run.
chunks = _table(
    "leadctl_chunks",
    Column("run_id", String(64), primary_key=True),
    Column("no", Integer, primary_key=True, autoincrement=False),
    Column("source", String(100), nullable=False),
    Column("queue", String(64), nullable=False),
    Column("account", String(64), nullable=False),
    Column("channel", String(64), nullable=False),
    Column("credential_ids", _long(), nullable=False),
    Column("first_seq", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),
    Column("deliveries", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    _at("not_before"),
    Column("worker", String(191)),
    Column("tries", Integer, nullable=False),
    _at("queued_at", nullable=False),
    _at("started_at"),
    _at("finished_at"),
    Column("throttled", Integer, nullable=False),
    Column("report", _long(), nullable=False),
    Index("leadctl_chunks_open", "source", "state", "queue", "account"),
)
