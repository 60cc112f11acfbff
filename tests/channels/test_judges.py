"""What a plan asks once a lead says the same as the channel of each credential, and looks at no more of the lead."""

from typing import Any

import pytest

from leadctl.channelkit.channel import LEAD_COLUMNS
from leadctl.channels import channel_class, channel_names
from leadctl.domain.model import EMPTY, Lead
from leadctl.testing.fakes import make_lead, open_channel

ADDRESSES = ("anna@example.com", "info@example.com", f"{'a' * 45}@example.com", " anna@example.com ", "no address", "")
PHONES = ("+7 900 000-00-01", "8 (900) 000-00-01", "112 233", "call me", "")
LEADS = [make_lead(email=email, phone=phone) for email in ADDRESSES for phone in PHONES]
CRM = {"crm": {"pipeline_id": 1, "step_id": 2, "responsible_id": 3}}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    *((name, dict(channel_class(name).spec.example_settings)) for name in channel_names()),
    ("sendpulse", CRM),
    ("unisender", {"double_optin": 0}),
    ("getresponse", {"fields": {"budget": "{{ 1 // (lead.phone | length) }}"}}),
    ("lptracker", {"fields": {"11": "{{ 1 // (lead.phone | length) }}"}}),
    ("uontravel", {"fields": {"u_phone": "{{ lead.email }}"}}),
]


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_the_judge_says_what_the_channel_says(name: str, settings: dict[str, Any]) -> None:
    channel = open_channel(name, channel_class(name).spec.example_data, settings)
    for lead in LEADS:
        assert list(channel.judge(lead)) == list(channel.problems(lead)), (lead.email, lead.phone)
        assert list(channel.judge(_only(lead, channel.judged))) == list(channel.judge(lead))


@pytest.mark.parametrize("name", ["getresponse", "lptracker", "sendpulse", "unisender", "uontravel"])
def test_credentials_that_are_set_up_alike_have_one_judge(name: str) -> None:
    spec = channel_class(name).spec
    one, other = (open_channel(name, spec.example_data, spec.example_settings) for _ in range(2))
    assert one.judge == other.judge
    assert any(one.judge(lead) for lead in LEADS)
    assert not all(one.judge(lead) for lead in LEADS)


def _only(lead: Lead, columns: frozenset[str]) -> Lead:
    """The lead as a plan reads it."""
    empty = dict.fromkeys(LEAD_COLUMNS, "") | {"utm": EMPTY, "answers": (), "created_at": None}
    return make_lead(**empty | {name: getattr(lead, name) for name in columns})
