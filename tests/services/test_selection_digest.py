"""What counts as the same selection: the same words, whenever they are typed."""

from datetime import UTC, datetime, timedelta

from leadctl.services.requests import LeadSelection, Selectors, SendRequest
from leadctl.services.selections import selection_digest

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)


def _digest(leads: LeadSelection, **more: object) -> str:
    return selection_digest(SendRequest("bulk-resend", leads, **more))  # type: ignore[arg-type]


def test_a_relative_time_is_the_same_selection_later() -> None:
    today = LeadSelection(since=NOW, typed=("since=2d",))
    tomorrow = LeadSelection(since=NOW + timedelta(days=1), typed=("since=2d",))
    assert _digest(today) == _digest(tomorrow)


def test_everything_else_makes_another_selection() -> None:
    plain = LeadSelection([1, 2])
    digests = [
        _digest(plain),
        _digest(LeadSelection([2, 1])),
        _digest(LeadSelection(None, project="1")),
        _digest(LeadSelection(None, entity="1")),
        _digest(LeadSelection(since=NOW)),
        _digest(LeadSelection(until=NOW)),
        _digest(LeadSelection(typed=("since=2d",))),
        _digest(plain, selectors=Selectors(channels=("email",))),
        _digest(plain, selectors=Selectors(skip_channels=("email",))),
        _digest(plain, selectors=Selectors(credentials=("7",))),
        _digest(plain, force_reason="again"),
    ]
    assert len(set(digests)) == len(digests)


def test_the_order_of_channels_does_not_matter() -> None:
    one, other = (Selectors(channels=names) for names in (("email", "amocrm"), ("amocrm", "email")))
    assert _digest(LeadSelection([1]), selectors=one) == _digest(LeadSelection([1]), selectors=other)
