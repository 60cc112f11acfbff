"""A short round of ``make soak``: bulk runs with faults over all channels, killed at random times."""

from tests.crash.kills import soak


def test_nothing_is_lost_and_nothing_is_twice() -> None:
    said: list[str] = []
    figures = soak(kills=6, leads=300, seed=11, minutes=2, say=said.append)
    assert figures.killed == 6, said
    assert figures.left_in_doubt, "no kill met a request under way: this proves nothing"
    assert figures.is_clean, figures.lines()
