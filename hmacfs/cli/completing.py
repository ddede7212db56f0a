"""Completion for bash, made from the parser: ``python -m hmacfs.cli.completing > hmacfs.bash``.

What is made is plain bash, which starts no Python while somebody types. zsh takes it as well, with ``bashcompinit``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from shlex import quote

from hmacfs.cli import parser
from hmacfs.cli.arguments import is_of_file
from hmacfs.cli.commands import Command, every_command

_SCRIPT = r"""# Completion of hmacfs for bash. Made from the command itself.
_hmacfs() {
    local word=${COMP_WORDS[COMP_CWORD]} command=hmacfs words='' files='' index line
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$command ${COMP_WORDS[index]}" in
@COMMANDS@
                command="$command ${COMP_WORDS[index]}" ;;
        esac
    done
    case "$command ${COMP_WORDS[COMP_CWORD - 1]}" in
@OPERANDS@
        *)
            case "$command" in
@WORDS@
            esac ;;
    esac
    COMPREPLY=()
    if [[ $files && $word != -* ]]; then
        compopt -o filenames 2> /dev/null
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
    fi
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$words" -- "$word")
}
complete -F _hmacfs hmacfs
"""


def completion(top: argparse.ArgumentParser) -> str:
    """The script."""
    commands = [*every_command(top)]
    names = "|".join(quote(command.words) for command in commands[1:])
    return (
        _SCRIPT.replace("@COMMANDS@", f"            {names})")
        .replace("@OPERANDS@", "\n".join(line for command in commands for line in _operands(command)))
        .replace("@WORDS@", "\n".join(map(_words, commands)))
    )


def _operands(command: Command) -> Iterator[str]:
    """What may follow each option that doesn't stand alone."""
    for action in command.arguments:
        if action.option_strings and action.nargs != 0:
            after = "|".join(quote(f"{command.words} {option}") for option in action.option_strings)
            yield f"        {after}) {_candidates(action)} ;;"


def _candidates(action: argparse.Action) -> str:
    if is_of_file(action):
        return "files=yes"
    return f"words={quote(' '.join(map(str, action.choices or ())))}"


def _words(command: Command) -> str:
    """What may stand anywhere else: subcommands, options, and files where an argument is one."""
    words = [below.words.rpartition(" ")[2] for below in command.subcommands]
    words += [option for action in command.arguments for option in action.option_strings]
    positionals = [action for action in command.arguments if not action.option_strings]
    words += [str(choice) for action in positionals for choice in action.choices or ()]
    files = " files=yes" if any(map(is_of_file, positionals)) else ""
    return f"                {quote(command.words)}) words={quote(' '.join([*words, '--help']))}{files} ;;"


if __name__ == "__main__":
    sys.stdout.write(completion(parser()))
