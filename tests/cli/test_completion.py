"""Completion in real shells, and the freshness of everything that is generated."""

import os
import shutil
import subprocess
from pathlib import Path

import pexpect
import pytest
import typer

from leadctl.channels import channel_names
from leadctl.cli import reference
from leadctl.cli.app import build
from leadctl.cli.completion import bash, fish, tree, zsh
from tests.support.needs import leave_out

FOLDER = reference.ROOT / "completions"
ROOT = tree(typer.main.get_command(build()))

#: What stands on the line → what must be offered, and what must not.
CASES: dict[str, tuple[set[str], set[str]]] = {
    "leadctl ": ({"resend", "bulk-resend", "plan", "channels", "runs", "demo"}, {"show", "amocrm"}),
    "leadctl re": ({"resend"}, {"plan", "runs"}),
    "leadctl runs ": ({"list", "show", "resume"}, {"resend"}),
    "leadctl --config x.toml runs ": ({"list", "show", "resume"}, {"resend"}),
    "leadctl channels ": ({"list", "check", "schema"}, {"resend"}),
    "leadctl channels check ": (set(channel_names()), {"list"}),
    "leadctl channels schema te": ({"telegram"}, {"amocrm"}),
    "leadctl plan --jso": ({"--json", "--jsonl"}, {"--since"}),
    "leadctl resend 42 --force --rea": ({"--reason"}, {"--since"}),
    "leadctl runs list --unf": ({"--unfinished"}, {"--reason"}),
    "leadctl plan 1 --log-f": ({"--log-format", "--log-file"}, {"--since"}),
    "leadctl plan -c ": (set(channel_names()), {"--json"}),
    "leadctl plan -c email,a": ({"email,amocrm"}, {"email,telegram"}),
    "leadctl plan --skip-channel am": ({"amocrm"}, {"telegram"}),
    "leadctl plan --log-format ": ({"console", "json"}, {"amocrm"}),
    "leadctl plan --ids-file ids_o": ({"ids_of_march.txt"}, {"resend"}),
    "leadctl bulk-resend --reason ": (set(), {"amocrm", "--json", "resend"}),
}


def shell(name: str) -> str:
    """The shell's path. Where it is missing a CI fails, and a desk skips."""
    path = shutil.which(name)
    if path is None:
        leave_out(f"{name} is not installed (apt-get install {name})")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ids_of_march.txt").write_text("1\n")
    return tmp_path


def offered_by_bash(line: str, folder: Path) -> set[str]:
    script = (
        f'source "{FOLDER}/leadctl.bash"\nread -ra COMP_WORDS <<< "$1"\n'
        '[[ $1 == *" " ]] && COMP_WORDS+=("")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_leadctl\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [shell("bash"), "--norc", "-c", script, "bash", line], capture_output=True, text=True, cwd=folder, timeout=20
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def offered_by_fish(line: str, folder: Path) -> set[str]:
    script = f"source {FOLDER}/leadctl.fish; function leadctl; end; complete -C $argv[1]"
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", script, line], capture_output=True, text=True, cwd=folder, timeout=20,
        env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    assert done.stderr == ""
    return {row.split("\t")[0] for row in done.stdout.splitlines()}


@pytest.mark.parametrize("line", CASES)
@pytest.mark.parametrize("offered", [offered_by_bash, offered_by_fish])
def test_bash_and_fish(offered: object, line: str, folder: Path) -> None:
    wanted, unwanted = CASES[line]
    found = offered(line, folder)  # type: ignore[operator]
    assert wanted <= found
    assert not unwanted & found


def test_bash_with_an_equals_sign(folder: Path) -> None:
    assert offered_by_bash("leadctl plan --channel = am", folder) == {"amocrm"}
    assert "list" in offered_by_bash("leadctl --config = x.toml runs ", folder)


def test_zsh(folder: Path) -> None:
    """In a real interactive zsh, since its completion has no other face."""
    path = shell("zsh")
    (folder / ".zshrc").write_text(
        f"fpath=({FOLDER} $fpath)\nautoload -Uz compinit && compinit -D -u\nPS1='READY '\n"
        "unsetopt list_beep auto_menu menu_complete list_ambiguous\nunset zle_bracketed_paste\n"
        "LISTMAX=9999\nleadctl() { : }\n"
    )
    environ = {**os.environ, "ZDOTDIR": str(folder), "TERM": "dumb"}
    child = pexpect.spawn(
        path, ["-i"], env=environ, cwd=str(folder), encoding="utf-8", dimensions=(200, 200), timeout=10
    )
    try:
        child.expect("READY ")
        for number, (line, (wanted, unwanted)) in enumerate(CASES.items()):
            child.send(f"{line}\t")
            child.sendcontrol("u")
            child.send(f"print END$((1000 + {number}))\n")
            child.expect_exact(f"END{1000 + number}")
            rows = [row.split(" -- ")[0] for row in (child.before or "").replace(":", " ").splitlines()]
            words = {word.strip(",") for row in rows for word in row.split()}
            assert wanted <= words, (line, child.before)
            assert not unwanted & words, (line, child.before)
    finally:
        child.close(force=True)


def test_the_scripts_start_no_python() -> None:
    for text in (bash(ROOT, ["a"]), zsh(ROOT, ["a"]), fish(ROOT, ["a"])):
        assert "python" not in text.replace("python -m leadctl.cli.reference", "")
        assert "$(leadctl" not in text


def test_what_is_generated_is_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    code = reference.main(["--check"])
    assert (code, capsys.readouterr().err) == (0, "")


def test_check_names_what_is_stale_and_write_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {tmp_path / "completions" / "x": "new\n"}
    monkeypatch.setattr(reference, "generated", lambda: made)
    assert reference.main(["--check"]) == 1
    assert "x: stale" in capsys.readouterr().err
    assert reference.main(["--write"]) == 0
    assert reference.main(["--check"]) == 0
    assert reference.main([]) == 2


@pytest.mark.parametrize("name", ["help", "exit-codes", "channels", "config", "errors"])
def test_sections_of_readme_are_filled_between_their_markers(name: str) -> None:
    text = f"before\n<!-- generated:{name} -->\nto be replaced\n<!-- /generated:{name} -->\nafter\n"
    filled = reference.with_sections(text, reference.sections(ROOT))
    assert filled.startswith("before\n")
    assert filled.endswith("after\n")
    assert "to be replaced" not in filled
    assert len(filled.splitlines()) > 8
    assert reference.with_sections(filled, reference.sections(ROOT)) == filled


def test_a_readme_without_markers_is_left_alone_and_an_unknown_one_is_said() -> None:
    assert reference.with_sections("plain\n", {}) == "plain\n"
    with pytest.raises(SystemExit, match="nope"):
        reference.with_sections("<!-- generated:nope -->\n<!-- /generated:nope -->", {})
