"""Rows 1 and 2: what it costs to start, and to show help."""

import keyword
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import LEADCTL, PYTHON, ROOT, Ratio, Row, Sizes, at_most, in_turn, run

#: What is typed → what bash must offer.
_COMPLETED = {
    ("leadctl", "re"): "resend",
    ("leadctl", "plan", "--jsonl"): "--jsonl",
    ("leadctl", "plan", "-c", "nob"): "",
    ("leadctl", "plan", "-c", "amo"): "amocrm",
}
_COMPLETE = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _leadctl; echo "${COMPREPLY[*]}"'


def version(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 1."""
    ours = _starts([LEADCTL, "--version"], sizes.starts, folder)
    theirs = _starts([PYTHON, "-c", "pass"], sizes.starts, folder)
    leadctl, python = in_turn(sizes.rounds, ours, theirs, warm=True)
    ratio = Ratio.of(leadctl, python)
    per_start = 1000 / sizes.starts
    return [
        Row("1", "`leadctl --version`, CPU, to `python -c pass`", "≤ 3 ×", str(ratio), at_most(ratio.value, 3.0),
            f"{min(leadctl) * per_start:.0f} ms to {min(python) * per_start:.0f} ms at best"),
        _completion(folder),
    ]  # fmt: skip


def _starts(command: Sequence[str], times: int, folder: Path) -> Callable[[], float]:
    return lambda: sum(run(command, folder=folder).cpu for _ in range(times))


def _completion(folder: Path) -> Row:
    """bash completes with a PATH in which there is no program at all."""
    what, target = "completion of commands, flags, channels (bash)", "starts no Python"
    bash = shutil.which("bash")
    if bash is None:
        return Row("1", what, target, "–", "not measured", "there is no bash here")
    nothing = folder / "empty"
    nothing.mkdir(exist_ok=True)
    failed = [words for words, offered in _COMPLETED.items() if _offered(bash, words, nothing) != offered]
    figure = f"{len(_COMPLETED) - len(failed)} of {len(_COMPLETED)} without any program in PATH"
    return Row("1", what, target, figure, "missed" if failed else "met")


def _offered(bash: str, words: Sequence[str], nothing: Path) -> str:
    script = str(ROOT / "completions" / "leadctl.bash")
    command = [bash, "--norc", "-c", _COMPLETE, "bash", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": str(nothing)}, timeout=10)
    return done.stdout.strip()


def help_texts(sizes: Sizes, folder: Path) -> list[Row]:
    """Row 2."""
    from typer.main import get_command

    from leadctl.cli.app import build

    tree = get_command(build())
    (folder / "bare_app.py").write_text(bare_app(tree))
    paths = list(_paths(tree))
    ratios = {path: _help(path, sizes, folder) for path in (paths if sizes.every_command else paths[:2])}
    root = ratios[()]
    worst = max((path for path in ratios if path), key=lambda path: ratios[path].value)
    target = "≤ 1.25 ×"
    return [
        Row("2", "`leadctl --help`, CPU, to a bare Typer app of the same size", target, str(root),
            at_most(root.value, 1.25), f"{_size(tree)}; without Rich, which would cost the bare app more"),
        Row("2", f"`--help` of {len(ratios) - 1} command(s): the worst", target, str(ratios[worst]),
            at_most(ratios[worst].value, 1.25), f"`{' '.join(('leadctl', *worst))} --help`"),
    ]  # fmt: skip


def _help(path: Sequence[str], sizes: Sizes, folder: Path) -> Ratio:
    bare = [PYTHON, "-c", "import bare_app; bare_app.app()", *path, "--help"]
    ours, theirs = in_turn(
        sizes.rounds,
        lambda: run([LEADCTL, *path, "--help"], folder=folder).cpu,
        lambda: run(bare, folder=folder, path=folder).cpu,
        warm=True,
    )
    return Ratio.of(ours, theirs)


def _paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from _paths(child, (*path, name))


def _size(tree: Any) -> str:
    found = [_at(tree, path) for path in _paths(tree)]
    return f"{len(found)} commands, {sum(len(command.params) for command in found)} options and arguments"


def _at(command: Any, path: Sequence[str]) -> Any:
    for name in path:
        command = command.commands[name]
    return command


def bare_app(tree: Any) -> str:
    """A Typer module with the commands, options and help texts of ``tree``, and nothing else."""
    lines = ["from typing import Annotated", "import typer"]
    for path in _paths(tree):
        command = _at(tree, path)
        group = hasattr(command, "commands")
        name, parent = "_".join(("app", *path)).replace("-", "_"), "_".join(("app", *path[:-1])).replace("-", "_")
        if group:
            settings = "add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None"
            lines += [f"{name} = typer.Typer({settings})", f"@{name}.callback(help={command.help!r})"]
        else:
            lines.append(f"@{parent}.command({path[-1]!r}, help={command.help!r})")
        parameters = ", ".join(_parameter(parameter) for parameter in command.params if parameter.name != "help")
        lines.append(f"def {name}_({parameters}): pass")
        if group and path:
            lines.append(f"{parent}.add_typer({name}, name={path[-1]!r})")
    return "\n".join(lines) + "\n"


def _parameter(parameter: Any) -> str:
    name = f"{parameter.name}_" if keyword.iskeyword(parameter.name) else parameter.name
    many = parameter.multiple if parameter.param_type_name == "option" else parameter.nargs == -1
    flag = getattr(parameter, "is_flag", False)
    kind, default = ("bool", "False") if flag else ("list[str] | None", "None") if many else ("str | None", "None")
    if parameter.param_type_name == "argument":
        return f"{name}: Annotated[{kind}, typer.Argument(metavar={parameter.metavar!r})] = {default}"
    said = f"metavar={parameter.metavar!r}, help={parameter.help!r}, hidden={parameter.hidden!r}"
    flags = ", ".join(repr(text) for text in parameter.opts)
    return f"{name}: Annotated[{kind}, typer.Option({flags}, {said})] = {default}"
