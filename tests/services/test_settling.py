"""settle and adopt."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leadctl.domain.errors import ConfigError, Declined
from leadctl.domain.outcomes import TargetState
from leadctl.services.bootstrap import App
from leadctl.services.planning import plan_leads
from leadctl.services.requests import LeadSelection, Question, Selectors
from leadctl.services.settling import adopt, settle
from tests.services.ledgers import leave, make_world, opened
from tests.support.schemas import validate
from tests.support.world import World

ALL = LeadSelection([1, 2, 3])
WEBHOOKS_ONLY = Selectors(channels=("webhooks",))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


@pytest.fixture
def app(world: World) -> Iterator[App]:
    with opened(world) as app:
        yield app


def settled(app: App, *lead_ids: int, credential: str = "11", delivered: bool = True) -> dict[str, Any]:
    document = settle(app, lead_ids, credential, delivered, "looked")
    validate(document)
    return document


def state(app: App, lead_id: int) -> tuple[TargetState, str | None]:
    (target,) = app.ledger.targets_for([lead_id])[lead_id]
    return target.state, target.settled_by


def to_send(app: App, selectors: Selectors = WEBHOOKS_ONLY) -> int:
    planning = plan_leads(app, ALL, selectors)
    list(planning)
    return planning.totals.deliveries


@pytest.mark.parametrize("before", [TargetState.UNKNOWN, TargetState.SENDING, TargetState.INCOMPLETE])
@pytest.mark.parametrize(("delivered", "after"), [(True, TargetState.DELIVERED), (False, TargetState.FAILED)])
def test_what_is_in_doubt_is_settled(app: App, before: TargetState, delivered: bool, after: TargetState) -> None:
    leave(app, 1, 11, before)
    document = settled(app, 1, delivered=delivered)
    assert document["settled"] == [
        {"lead_id": 1, "channel": "telegram", "credential_id": 11, "from": before.value, "state": after.value}
    ]
    assert document["skipped"] == []
    assert state(app, 1) == (after, "operator")


def test_what_is_not_in_doubt_is_left_with_a_reason(app: App) -> None:
    leave(app, 1, 11, TargetState.REJECTED)
    leave(app, 2, 11, TargetState.DELIVERED)
    document = settled(app, 1, 2, 3, 3, delivered=False)
    assert document["settled"] == []
    assert [(row["lead_id"], row["reason"].split(":")[0]) for row in document["skipped"]] == [
        (1, "nothing is in doubt"),
        (2, "nothing is in doubt"),
        (3, "the ledger knows nothing of it there; what another system has sent is told with"),
    ]
    assert state(app, 2) == (TargetState.DELIVERED, None)


def test_only_the_named_credential_is_settled(app: App) -> None:
    leave(app, 1, 11, TargetState.UNKNOWN)
    leave(app, 1, 12, TargetState.UNKNOWN)
    assert [row["credential_id"] for row in settled(app, 1, credential="12")["settled"]] == [12]
    assert {t.credential_id: t.state for t in app.ledger.targets_for([1])[1]} == {
        11: TargetState.UNKNOWN, 12: TargetState.DELIVERED,
    }  # fmt: skip


def test_a_twin_credential_settles_the_same_destination(app: App, world: World) -> None:
    leave(app, 1, 11, TargetState.UNKNOWN)
    world.execute(
        "INSERT INTO credentials SELECT 21, type, name, enabled, data, settings FROM credentials WHERE id = 11"
    )
    assert settled(app, 1, credential="21")["settled"][0]["credential_id"] == 11


def test_what_a_living_process_is_sending_is_left(app: App) -> None:
    leave(app, 1, 11, TargetState.SENDING, holder=app.leases.open_holder())
    document = settled(app, 1)
    assert document["settled"] == []
    assert "being sent by another process" in document["skipped"][0]["reason"]


def test_an_unknown_credential_is_a_usage_error_with_the_nearest(app: App) -> None:
    leave(app, 1, 11, TargetState.UNKNOWN)
    with pytest.raises(ConfigError, match="no such credential: 111") as caught:
        settle(app, [1], "111", True, "looked")
    assert caught.value.hint == "did you mean 11?"
    with pytest.raises(ConfigError, match="no such credential"):
        settle(app, [1], "file:0123456789ab", True, "looked")


def test_a_deleted_credential_is_known_by_the_ledger(app: App, world: World) -> None:
    leave(app, 1, 11, TargetState.UNKNOWN)
    world.execute("DELETE FROM entity_credentials WHERE credentials_id = 11")
    world.execute("DELETE FROM credentials WHERE id = 11")
    assert settled(app, 1)["settled"][0]["state"] == "delivered"


def test_settle_opens_the_ledger_for_writing_itself(world: World) -> None:
    with opened(world) as app:
        leave(app, 1, 11, TargetState.UNKNOWN)
    with opened(world, create_ledger=False) as app:
        assert len(settled(app, 1)["settled"]) == 1


class Asked:
    """What the operator was asked."""

    def __init__(self, answer: Exception | None = None) -> None:
        self.questions: list[Question] = []
        self._answer = answer

    def __call__(self, question: Question) -> None:
        self.questions.append(question)
        if self._answer is not None:
            raise self._answer


def adopted(app: App, asked: Asked, *, delivered: bool = True, dry_run: bool = False, **more: Any) -> dict[str, Any]:
    arguments = {"selection": ALL, "selectors": WEBHOOKS_ONLY, **more}
    document = adopt(app, **arguments, delivered=delivered, reason="sent by the site", dry_run=dry_run, confirm=asked)
    validate(document)
    return document


def test_adopt_is_proof_for_the_selected_channel_only(app: App) -> None:
    asked = Asked()
    document = adopted(app, asked)
    assert document == {
        "schema": "leadctl.adopt/1", "adopted": 3, "known": 0, "leads": 3, "by_channel": {"webhooks": 3},
        "dry_run": False,
    }  # fmt: skip
    assert to_send(app) == 0
    assert to_send(app, Selectors(channels=("telegram",))) == 3
    (question,) = asked.questions
    assert (question.command, question.totals.deliveries, question.totals.by_channel) == ("adopt", 3, {"webhooks": 3})
    keys = {target.key for lead_id in (1, 2, 3) for target in app.ledger.targets_for([lead_id])[lead_id]}
    assert keys == {f"lc-{app.ledger.installation}-{lead_id}-12" for lead_id in (1, 2, 3)}


def test_adopt_touches_only_what_the_ledger_knows_nothing_of(app: App) -> None:
    leave(app, 1, 12, TargetState.UNKNOWN)
    leave(app, 2, 12, TargetState.DELIVERED, remote_id="evt_1")
    asked = Asked()
    document = adopted(app, asked)
    assert (document["adopted"], document["known"]) == (1, 2)
    assert state(app, 1) == (TargetState.UNKNOWN, None)
    assert asked.questions[0].totals.deliveries == 1


def test_adopt_again_has_nothing_to_do_and_asks_nothing(app: App) -> None:
    adopted(app, Asked())
    asked = Asked()
    document = adopted(app, asked)
    assert (document["adopted"], document["known"], document["by_channel"]) == (0, 3, {})
    assert asked.questions == []


def test_dry_run_writes_nothing_and_asks_nothing(world: World) -> None:
    asked = Asked()
    with opened(world, create_ledger=False) as app:
        document = adopted(app, asked, dry_run=True)
    assert (document["adopted"], document["dry_run"]) == (3, True)
    assert asked.questions == []
    assert not world.ledger_path.exists()


def test_a_declined_adoption_writes_nothing(app: App) -> None:
    with pytest.raises(Declined):
        adopted(app, Asked(Declined("no")))
    assert to_send(app) == 3


def test_undo_takes_back_only_what_was_adopted(app: App) -> None:
    leave(app, 1, 12, TargetState.DELIVERED, remote_id="evt_1")
    leave(app, 2, 12, TargetState.UNKNOWN)
    settle(app, [2], "12", True, "looked")
    adopted(app, Asked())
    document = adopted(app, Asked(), delivered=False)
    assert document == {
        "schema": "leadctl.adopt/1", "undone": 1, "known": 2, "leads": 3, "by_channel": {"webhooks": 1},
        "dry_run": False,
    }  # fmt: skip
    assert to_send(app) == 1
    assert state(app, 1) == (TargetState.DELIVERED, None)
    assert state(app, 2) == (TargetState.DELIVERED, "operator")


def test_undo_is_kept_in_the_life_of_the_lead(app: App) -> None:
    adopted(app, Asked())
    adopted(app, Asked(), delivered=False)
    assert [row.attempt.outcome for row in app.ledger.attempts_for(1)] == ["found", "absent"]
    assert {row.attempt.answer for row in app.ledger.attempts_for(1)} == {"sent by the site"}
