"""The exit code of a run, and the advice for each error."""

import signal as signals
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import pytest

from leadctl.domain.outcomes import ErrorCode, Outcome
from leadctl.services.verdicts import advice, run_exit_code

Outcomes = Mapping[tuple[Outcome, ErrorCode | None], int]

DELIVERED: Outcomes = {(Outcome.DELIVERED, None): 5}
INCOMPLETE: Outcomes = {(Outcome.DELIVERED, ErrorCode.INCOMPLETE): 1}
REJECTED: Outcomes = {(Outcome.REJECTED, ErrorCode.VENDOR_REJECTED): 1}
FAILED: Outcomes = {(Outcome.FAILED, ErrorCode.TRIES_EXHAUSTED): 1}
LATE: Outcomes = {(Outcome.FAILED, ErrorCode.TIME_EXHAUSTED): 1}
UNKNOWN: Outcomes = {(Outcome.UNKNOWN, ErrorCode.MAYBE_DELIVERED): 2}
BUG: Outcomes = {(Outcome.UNKNOWN, ErrorCode.BUG): 1}


def unprocessed(code: ErrorCode) -> Outcomes:
    return {(Outcome.UNPROCESSED, code): 3}


@pytest.mark.parametrize(
    ("outcomes", "more", "expected"),
    [
        ({}, {}, 0),
        (DELIVERED, {}, 0),
        ({(Outcome.ALREADY_DELIVERED, None): 2, (Outcome.SKIPPED, None): 1}, {}, 0),
        ({(Outcome.REJECTED, ErrorCode.VENDOR_REJECTED): 0}, {}, 0),
        (DELIVERED, {"not_found": 1}, 1),
        (INCOMPLETE, {}, 1),
        (REJECTED, {}, 1),
        (FAILED, {}, 1),
        (LATE, {}, 1),
        (UNKNOWN, {"held_unknown": 2}, 6),
        (UNKNOWN, {"held_unknown": 1}, 5),
        (UNKNOWN, {}, 5),
        (unprocessed(ErrorCode.LIMIT_REACHED), {}, 5),
        (unprocessed(ErrorCode.VENDOR_DOWN), {}, 5),
        (unprocessed(ErrorCode.RUN_STOPPED), {}, 5),
        (unprocessed(ErrorCode.IN_USE_ELSEWHERE), {}, 5),
        (unprocessed(ErrorCode.TIME_EXHAUSTED), {}, 5),
        (unprocessed(ErrorCode.CREDENTIAL_REFUSED), {}, 4),
        (unprocessed(ErrorCode.ADDRESS_NOT_ALLOWED), {}, 4),
        (DELIVERED, {"invalid_credentials": 1}, 4),
        (DELIVERED, {"parked": [ErrorCode.CREDENTIAL_REFUSED]}, 4),
        (DELIVERED, {"parked": [ErrorCode.LIMIT_REACHED]}, 5),
        (unprocessed(ErrorCode.RUN_STOPPED), {"signal": signals.SIGHUP}, 129),
        (unprocessed(ErrorCode.RUN_STOPPED), {"signal": signals.SIGINT}, 130),
        (unprocessed(ErrorCode.RUN_STOPPED), {"signal": signals.SIGTERM}, 143),
        (BUG, {}, 70),
        (BUG, {"held_unknown": 1}, 70),
    ],
)
def test_exit_code(outcomes: Outcomes, more: dict[str, Any], expected: int) -> None:
    assert run_exit_code(outcomes, **more) == expected


#: Something for each exit code, the strongest first.
PRECEDENCE: list[tuple[int, Outcomes, dict[str, Any]]] = [
    (70, {(Outcome.UNPROCESSED, ErrorCode.BUG): 1}, {}),
    (143, {}, {"signal": 15}),
    (4, unprocessed(ErrorCode.CREDENTIAL_REFUSED), {}),
    (5, unprocessed(ErrorCode.VENDOR_DOWN), {}),
    (6, UNKNOWN, {"held_unknown": 2}),
    (1, REJECTED, {"not_found": 1}),
    (0, DELIVERED, {}),
]


@pytest.mark.parametrize(("stronger", "weaker"), list(combinations(PRECEDENCE, 2)))
def test_the_stronger_reason_wins(
    stronger: tuple[int, Outcomes, dict[str, Any]], weaker: tuple[int, Outcomes, dict[str, Any]]
) -> None:
    expected, outcomes, more = stronger
    _, weak_outcomes, weak_more = weaker
    assert run_exit_code({**weak_outcomes, **outcomes}, **{**weak_more, **more}) == expected


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_has_advice_without_a_gap(code: ErrorCode) -> None:
    text = advice(code, "amocrm", 7, "r1", 42)
    assert text
    assert "{" not in text


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (ErrorCode.CREDENTIAL_REFUSED, "leadctl channels check amocrm --credential 7"),
        (ErrorCode.RUN_STOPPED, "leadctl runs resume r1"),
        (ErrorCode.VENDOR_REJECTED, "leadctl resend 42 -c amocrm"),
        (ErrorCode.MAYBE_DELIVERED, "leadctl runs resume r1"),
    ],
)
def test_advice_names_the_command(code: ErrorCode, command: str) -> None:
    assert command in advice(code, "amocrm", 7, "r1", 42)


def test_only_a_person_settles_what_is_held() -> None:
    text = advice(ErrorCode.MAYBE_DELIVERED, "telegram", 3, "r1", "a b", held=True)
    assert "leadctl settle 'a b' --credential 3 --delivered" in text
    assert "leadctl resend 'a b' -c telegram --retry-unknown" in text
    assert "runs resume" not in text


def test_a_hostile_id_is_quoted_in_advice() -> None:
    assert "'; rm -rf {x}'" in advice(ErrorCode.VENDOR_REJECTED, "amocrm", 7, "r1", "; rm -rf {x}")


def test_advice_repeats_the_global_options() -> None:
    text = advice("run_stopped", "amocrm", 7, "r1", 42, global_options=("--config", "/etc/a b.toml"))
    assert "leadctl --config '/etc/a b.toml' runs resume r1" in text
