"""A new SQLite file with the four tables."""

from pathlib import Path

import pytest

from leadctl.domain.errors import ConfigError
from leadctl.store.credentials import load_credentials, load_links
from leadctl.store.leads import LeadFilter
from leadctl.store.sample import create_tables
from tests.store.helpers import execute, opened
from tests.support.heads import iter_heads


def test_the_four_tables_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "leads.db"
    assert create_tables(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    tables = {name for (name,) in execute(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables == {"leads", "credentials", "entity_credentials", "project_credentials"}
    with opened(path) as db:
        assert list(iter_heads(db, None, LeadFilter())) == []
        assert load_credentials(db) == []
        assert load_links(db, ()).for_lead(1, 1) == ()


def test_external_ids_of_both_kinds_are_kept_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "leads.db"
    create_tables(f"sqlite:///{path}")
    execute(path, "INSERT INTO leads (external_entity_id, external_project_id) VALUES (5, 'p-1')")
    execute(path, "INSERT INTO credentials (type, data) VALUES ('email', '{}')")
    with opened(path) as db:
        (head,) = iter_heads(db, None, LeadFilter())
        assert (head.external_entity_id, head.external_project_id) == (5, "p-1")
        assert head.created_at is not None
        assert load_credentials(db)[0].enabled


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "leads.db"
    path.write_bytes(b"")
    assert not create_tables(f"sqlite:///{path}")
    assert path.read_bytes() == b""


def test_a_server_gets_nothing() -> None:
    assert not create_tables("postgresql://anna@127.0.0.1:1/crm")


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        create_tables(f"sqlite:///{tmp_path / 'no' / 'leads.db'}")
    assert caught.value.exit_code == 2
