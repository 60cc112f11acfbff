"""Ids in little memory: each once, in the order in which they came."""

import sys

from hypothesis import given
from hypothesis import strategies as st

from leadctl.domain.ids import UniqueIds
from leadctl.domain.model import LeadId

IDS: st.SearchStrategy[LeadId] = st.one_of(
    st.integers(-3, 5), st.sampled_from(["a", "7", 2**63 - 1, 2**63, -(2**63), -(2**63) - 1])
)


@given(st.lists(IDS), st.lists(IDS))
def test_each_once_in_order(first: list[LeadId], later: list[LeadId]) -> None:
    ids = UniqueIds(first)
    expected = dict.fromkeys(first)
    for identity in later:
        assert ids.add(identity) is (identity not in expected)
        expected[identity] = None
    assert ids == list(expected)
    assert (len(ids), bool(ids)) == (len(expected), bool(expected))
    assert ids[1:3] == list(expected)[1:3]
    assert [type(identity) for identity in ids] == [type(identity) for identity in expected]
    assert ids.settle() == list(expected)
    assert all(not ids.add(identity) for identity in expected)


def test_whole_numbers_take_eight_bytes() -> None:
    assert sys.getsizeof(UniqueIds(reversed(range(10_000)))._ids) < 10_000 * 10
