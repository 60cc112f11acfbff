"""The question before a bulk run."""

import os
import signal
from datetime import timedelta
from typing import Any

import pytest

from leadctl.cli.confirm import asker, never
from leadctl.domain.errors import ConfigError, Declined
from leadctl.services.requests import PlanTotals, Question
from tests.cli.support import NOW, World, world


def question(
    number: int, *, nothing_known: bool = False, forced: bool = False, command: str = "bulk-resend"
) -> Question:
    totals = PlanTotals(
        leads=number, deliveries=number, already_delivered=7, by_channel={"amocrm": number},
        oldest=NOW - timedelta(days=40),
    )  # fmt: skip
    return Question(command=command, totals=totals, nothing_known=nothing_known, forced=forced)


def ask(made: World, asked: Question, *, yes: bool = False, stdin_is_ids: bool = False) -> None:
    asker(made.context, yes=yes, stdin_is_ids=stdin_is_ids)(asked)


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " да\n"])
def test_yes_goes_on(answer: str) -> None:
    made = world(stdin=answer, terminal=True)
    ask(made, question(101))
    assert "101 leads, 101 deliveries to be sent: amocrm 101" in made.err
    assert "7 delivered already" in made.err
    assert "the oldest lead is 40 days old" in made.err
    assert made.err.endswith("Go on? [y/N] ")
    assert made.out == ""


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "maybe\n"])
def test_anything_else_declines(answer: str) -> None:
    with pytest.raises(Declined) as caught:
        ask(world(stdin=answer, terminal=True), question(101))
    assert caught.value.exit_code == 8


def test_up_to_a_hundred_nothing_is_asked_on_a_terminal() -> None:
    made = world(terminal=True)
    ask(made, question(100))
    assert made.err == ""


def test_on_a_ledger_that_knows_nothing_it_is_asked_at_any_number() -> None:
    made = world(stdin="y\n", terminal=True)
    ask(made, question(1, nothing_known=True))
    assert "knows of no earlier send" in made.err
    assert "1 lead, 1 delivery to be sent" in made.err


def test_a_forced_send_says_so() -> None:
    made = world(stdin="y\n", terminal=True)
    ask(made, question(101, forced=True))
    assert "AGAIN" in made.err


def test_adopt_records() -> None:
    made = world(stdin="y\n", terminal=True)
    ask(made, question(101, command="adopt"))
    assert "101 deliveries to be recorded" in made.err


@pytest.mark.parametrize(
    ("argv", "typed"),
    [
        (("bulk-resend", "--since", "2 d"), "leadctl bulk-resend --since '2 d' --yes"),
        (("bulk-resend", "-c", "email", "--", "-5"), "leadctl bulk-resend -c email --yes -- -5"),
    ],
)
def test_where_nobody_can_be_asked_the_command_to_type_is_said(argv: tuple[str, ...], typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(world(*argv), question(101))
    assert "101 deliveries need a confirmation" in caught.value.message
    assert typed in caught.value.hint


def test_ids_on_stdin_cannot_be_asked_over() -> None:
    with pytest.raises(ConfigError):
        ask(world(stdin="y\n", terminal=True), question(101), stdin_is_ids=True)


def test_below_the_limit_a_warning_says_what_will_be_needed() -> None:
    made = world()
    ask(made, question(100))
    assert made.err == "warning: no --yes: above 100 deliveries this command will stop here with exit 2\n"


@pytest.mark.parametrize("yes", [False, True])
def test_where_it_cannot_be_asked_a_ledger_that_knows_nothing_is_a_warning(yes: bool) -> None:
    made = world()
    ask(made, question(3, nothing_known=True), yes=yes)
    assert "warning: this ledger knows of no earlier send" in made.err
    assert "adopt" in made.err


def test_with_yes_any_number_goes_on() -> None:
    made = world()
    ask(made, question(1_000_000), yes=True)
    assert made.err == ""


def test_resend_never_asks() -> None:
    never(question(10**6, nothing_known=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_the_question_ends_it(number: signal.Signals) -> None:
    made = world(terminal=True)

    def interrupted(*_: Any) -> str:
        os.kill(os.getpid(), number)
        signal.pause()
        return "y\n"

    made.context.stdin.readline = interrupted  # type: ignore[union-attr, method-assign]
    with pytest.raises(Declined) as caught:
        ask(made, question(101))
    assert caught.value.exit_code == 128 + number
