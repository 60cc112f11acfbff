"""Writes, or checks, what is generated from the code: completions, the example config, sections of README.

``python -m leadctl.cli.reference --write`` or ``--check`` (exit 1 and a list if something is stale).
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import typer

from leadctl.cli.app import build, help_text
from leadctl.cli.completion import Node, bash, fish, tree, zsh
from leadctl.cli.exit_codes import ExitCode
from leadctl.cli.render import keys
from leadctl.testing.fault_matrix import matrix_markdown

ROOT = Path(__file__).resolve().parents[2]
_MARK = re.compile(r"(<!-- generated:([a-z-]+) -->\n).*?(<!-- /generated:\2 -->)", re.DOTALL)


def generated(root: Path = ROOT) -> dict[Path, str]:
    """Every generated file with the text that it should have."""
    from leadctl.channels import channel_names
    from leadctl.services.config_template import render_config

    commands, channels = tree(typer.main.get_command(build())), channel_names()
    files = {
        root / "completions" / "leadctl.bash": bash(commands, channels),
        root / "completions" / "_leadctl": zsh(commands, channels),
        root / "completions" / "leadctl.fish": fish(commands, channels),
        root / "config.example.toml": render_config(),
    }
    readme = root / "README.md"
    if readme.is_file():
        files[readme] = with_sections(readme.read_text(encoding="utf-8"), sections(commands))
    return files


def with_sections(text: str, makers: Mapping[str, Callable[[], str]]) -> str:
    """The text with what stands between its markers made anew; without markers it is left alone."""

    def fill(match: re.Match[str]) -> str:
        name = match.group(2)
        if name not in makers:
            raise SystemExit(f"README.md: there is no generated section {name!r}; known: {', '.join(makers)}")
        return f"{match.group(1)}{makers[name]().rstrip()}\n{match.group(3)}"

    return _MARK.sub(fill, text)


def sections(commands: Node) -> dict[str, Callable[[], str]]:
    """What README can hold, by the name of its markers."""
    return {
        "help": lambda: _help_section(commands),
        "exit-codes": _exit_code_section,
        "channels": _channel_section,
        "config": _config_section,
        "errors": _error_section,
        "fault-matrix": matrix_markdown,
    }


def _help_section(commands: Node) -> str:
    parts = []
    for node in commands.walk():
        typed = " ".join(["leadctl", *node.path, "--help"])
        parts.append(f"```\n$ {typed}\n{help_text(node.path, width=80)}```")
    return "\n\n".join(parts)


def _exit_code_section() -> str:
    return _markdown(("code", "meaning"), ((str(int(code)), code.meaning) for code in ExitCode))


def _channel_section() -> str:
    from leadctl.services.catalog import channel_rows

    rows = [
        (
            f"`{row['name']}`",
            str(row["batch"]),
            row["limits"],
            row["repeat"],
            keys(row["data_keys"]),
            keys(row["settings_keys"]),
        )
        for row in channel_rows()
        if row["state"] == "supported"
    ]
    headers = ("channel", "batch", "limits", "a repeated send", "keys of `data`", "keys of `settings`")
    return _markdown(headers, rows)


def _config_section() -> str:
    from leadctl.services.config_template import render_config

    return f"```toml\n{render_config()}```"


def _error_section() -> str:
    from leadctl.services.catalog import channel_rows

    rows = [
        (f"`{row['name']}`", condition, f"`{error}`")
        for row in channel_rows()
        for condition, error in row["errors"].items()
    ]
    return _markdown(("channel", "what the vendor says", "read as"), rows)


def _markdown(headers: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return "\n".join([line(headers), line(["---"] * len(headers)), *(line(row) for row in rows)])


def main(arguments: Sequence[str]) -> int:
    """Write the files, or name the stale ones."""
    if list(arguments) not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m leadctl.cli.reference --write|--check\n")
        return 2
    stale = []
    for path, text in generated().items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if arguments[0] == "--write":
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    verb = "written" if arguments[0] == "--write" else "stale, run: python -m leadctl.cli.reference --write"
    for name in stale:
        sys.stderr.write(f"{name}: {verb}\n")
    return 1 if stale and arguments[0] == "--check" else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
