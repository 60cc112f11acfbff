"""Exit codes and their precedence."""

import pytest

from leadctl.cli.exit_codes import PRECEDENCE, ExitCode, worst
from leadctl.domain import errors
from leadctl.domain.errors import LeadctlError


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0], 0), ([0, 1], 1), ([1, 6], 6), ([6, 5], 5), ([5, 4], 4), ([4, 130], 130), ([143, 70], 70),
     ([10, 1], 1), ([1, 5], 5), ([5, 2], 2), ([10, 0], 10), ([0, 99], 99)],
)  # fmt: skip
def test_several_at_once(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected
    assert worst(reversed(codes)) == expected


def test_every_code_has_a_meaning_and_a_rank() -> None:
    assert all(code.meaning for code in ExitCode)
    assert sorted(PRECEDENCE) == sorted(int(code) for code in ExitCode)


def test_every_error_ends_with_a_known_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LeadctlError)]
    assert len(kinds) > 5
    assert {kind.exit_code for kind in kinds} <= set(map(int, ExitCode))
