"""Completion scripts as static text: commands, sub-commands, flags, channels, files. They start no Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leadctl.cli.options import CHANNEL_FLAGS, FILE_OPTIONS

Kind = Literal["flag", "channels", "file", "format", "value"]
_MADE = "Made by: python -m leadctl.cli.reference --write"
_FORMATS = ("console", "json")


@dataclass(frozen=True, slots=True)
class Option:
    """An option with everything that a shell must know of it."""

    names: tuple[str, ...]
    kind: Kind
    help: str
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Node:
    """A command: its words, its options, its sub-commands, and whether it takes a channel's name."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    children: tuple["Node", ...]
    takes_channel: bool

    @property
    def name(self) -> str:
        return " ".join(self.path)

    def walk(self) -> Iterator["Node"]:
        """This command and all under it."""
        yield self
        for child in self.children:
            yield from child.walk()


def tree(command: Any, path: tuple[str, ...] = ()) -> Node:
    """The command line as data, read from Typer's own objects."""
    children = tuple(tree(child, (*path, name)) for name, child in getattr(command, "commands", {}).items())
    options = [_option(param) for param in command.params if param.param_type_name == "option"]
    helping = Option(("-h", "--help"), "flag", "Show the help.", repeatable=False)
    takes_channel = any(p.param_type_name == "argument" and p.metavar == "CHANNEL" for p in command.params)
    return Node(path, command.get_short_help_str(200), (*options, helping), children, takes_channel)


def _option(param: Any) -> Option:
    names = tuple(sorted([*param.opts, *param.secondary_opts], key=len))
    return Option(names, _kind(param, names), str(param.help or ""), repeatable=bool(param.multiple))


def _kind(param: Any, names: Sequence[str]) -> Kind:
    if param.is_flag:
        return "flag"
    if set(names) & {*CHANNEL_FLAGS, "--skip-channel"}:
        return "channels"
    if set(names) & FILE_OPTIONS:
        return "file"
    return "format" if "--log-format" in names else "value"


def _names(root: Node, *kinds: Kind) -> list[str]:
    """Every option of these kinds, over all commands."""
    found = {name for node in root.walk() for o in node.options if o.kind in kinds for name in o.names}
    return sorted(found)


def _with_value(root: Node) -> list[str]:
    return _names(root, "channels", "file", "format", "value")


# -- bash -----------------------------------------------------------------------------------------------------

_BASH = """\
# leadctl: completion for bash. {made}
_leadctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at="" words="" head="" word i
    local channels="{channels}"
    # bash splits --option=value into three words
    if [[ $cur == "=" ]]; then
        cur=""
    elif [[ $prev == "=" ]]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${{COMP_WORDS[i]}}
        case $word in
            {with_value})
                [[ ${{COMP_WORDS[i+1]}} == "=" ]] && ((i++))
                ((i++)) ;;
            -*) ;;
            *)
                case "${{at:+$at }}$word" in
                    {paths}) at="${{at:+$at }}$word" ;;
                esac ;;
        esac
    done
    COMPREPLY=()
    case $prev in
        {channel_options})
            [[ $cur == *,* ]] && head="${{cur%,*}},"
            COMPREPLY=($(compgen -P "$head" -W "$channels" -- "${{cur##*,}}"))
            return ;;
        {file_options})
            local IFS=$'\\n'
            compopt -o filenames 2>/dev/null
            COMPREPLY=($(compgen -f -- "$cur"))
            return ;;
        {format_options})
            COMPREPLY=($(compgen -W "{formats}" -- "$cur"))
            return ;;
        {value_options})
            return ;;
    esac
    case $at in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -F _leadctl leadctl
"""


def bash(root: Node, channels: Sequence[str]) -> str:
    """The script for bash."""
    cases = []
    for node in root.walk():
        flags = " ".join(name for option in node.options for name in option.names)
        words = " ".join(child.path[-1] for child in node.children) or ("$channels" if node.takes_channel else "")
        pattern = f'"{node.name}"' if node.path else '""'
        cases.append(f'        {pattern}) [[ $cur == -* ]] && words="{flags}" || words="{words}" ;;')
    return _BASH.format(
        made=_MADE,
        channels=" ".join(channels),
        with_value="|".join(_with_value(root)),
        paths="|".join(f'"{node.name}"' for node in root.walk() if node.path),
        channel_options="|".join(_names(root, "channels")),
        file_options="|".join(_names(root, "file")),
        format_options="|".join(_names(root, "format")),
        value_options="|".join(_names(root, "value")),
        formats=" ".join(_FORMATS),
        cases="\n".join(cases),
    )


# -- zsh ------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef leadctl
# leadctl: completion for zsh. {made}

_leadctl_channel_names() {{
    compadd "$@" - {channels}
}}

{functions}
if [[ $funcstack[1] == _leadctl ]]; then
    _leadctl "$@"
else
    compdef _leadctl leadctl
fi
"""


def zsh(root: Node, channels: Sequence[str]) -> str:
    """The script for zsh: a function per command."""
    functions = "\n".join(_zsh_function(node) for node in root.walk())
    return _ZSH.format(made=_MADE, channels=" ".join(channels), functions=functions)


def _zsh_function(node: Node) -> str:
    specs = [spec for option in node.options for spec in _zsh_option(option)]
    name = _zsh_name(node)
    if not node.children:
        argument = "'1:channel:_leadctl_channel_names'" if node.takes_channel else "'*: :'"
        return f"{name}() {{\n    _arguments -s {_zsh_lines([*specs, argument])}\n}}\n"
    commands = "\n".join(f"        {_quoted(f'{c.path[-1]}:{c.help}')}" for c in node.children)
    cases = "\n".join(f"        {c.path[-1]}) {_zsh_name(c)} ;;" for c in node.children)
    start = _zsh_lines([*specs, "'1:command:->command'", "'*::argument:->argument'"])
    return (
        f"{name}() {{\n    local curcontext=$curcontext state line\n    local -a commands=(\n{commands}\n    )\n"
        f"    _arguments -s -C {start}\n"
        "    case $state in\n    command) _describe command commands ;;\n"
        f"    argument) case $words[1] in\n{cases}\n        esac ;;\n    esac\n}}\n"
    )


def _zsh_name(node: Node) -> str:
    return "_".join(["_leadctl", *node.path]) if node.path else "_leadctl"


def _zsh_lines(specs: Sequence[str]) -> str:
    return " \\\n        ".join(["", *specs]).lstrip()


def _zsh_option(option: Option) -> Iterator[str]:
    actions = {
        "channels": ":channel:_sequence _leadctl_channel_names",
        "file": ":file:_files",
        "format": f":format:({' '.join(_FORMATS)})",
        "value": ":value: ",
        "flag": "",
    }
    text = option.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    for name in option.names:
        others = "*" if option.repeatable else f"({' '.join(option.names)})"
        equals = "=" if option.kind != "flag" and name.startswith("--") else ""
        yield _quoted(f"{others}{name}{equals}[{text}]{actions[option.kind]}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish -----------------------------------------------------------------------------------------------------

_FISH = """\
# leadctl: completion for fish. {made}

# Where the command line stands: the command's words, without options and their values.
function __leadctl_at
    set -l at
    set -l skip no
    for word in (commandline -opc)[2..-1]
        if test $skip = yes
            set skip no
            continue
        end
        switch $word
            case {with_value}
                set skip yes
            case '-*'
            case '*'
                contains -- "$at $word" {paths}; and set at "$at $word"
        end
    end
    test "$at" = "$argv[1]"
end

# email,am<TAB> goes on with the last of the list.
function __leadctl_channels
    set -l head (commandline -ct | string replace -r '^--?[a-z-]+=' '' | string match -r '.*,')
    printf "$head%s\\n" {channels}
end

complete -c leadctl -f
{lines}
"""


def fish(root: Node, channels: Sequence[str]) -> str:
    """The script for fish."""
    lines = [line for node in root.walk() for line in _fish_node(node)]
    return _FISH.format(
        made=_MADE,
        with_value=" ".join(_with_value(root)),
        paths=" ".join(f"' {node.name}'" for node in root.walk() if node.path),
        channels=" ".join(channels),
        lines="\n".join(lines),
    )


def _fish_node(node: Node) -> Iterator[str]:
    start = f"complete -c leadctl -n \"__leadctl_at '{' ' + node.name if node.path else ''}'\""
    for child in node.children:
        yield f"{start} -a {child.path[-1]} -d {_fish_quoted(child.help)}"
    if node.takes_channel:
        yield f"{start} -a '(__leadctl_channels)'"
    for option in node.options:
        yield f"{start} {_fish_option(option)}"


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
    actions = {
        "channels": " -x -a '(__leadctl_channels)'",
        "file": " -r -F",
        "format": f" -x -a '{' '.join(_FORMATS)}'",
        "value": " -x",
        "flag": "",
    }
    return f"{names}{actions[option.kind]} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
