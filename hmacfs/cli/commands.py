"""The commands as data, read off argparse's parser: for the manual page, for completion, and for the tests of both."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from attrs import frozen


@frozen
class Command:
    """One command, or a family of them.

    :ivar words: as they are typed, ``hmacfs`` first.
    :ivar brief: what the list of commands says of it.
    """

    words: str
    brief: str
    parser: argparse.ArgumentParser

    @property
    def subcommands(self) -> Iterator[Command]:
        """Those directly below it."""
        for action in self.parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                briefs = {choice.dest: choice.help or "" for choice in action._choices_actions}
                for name, below in action.choices.items():
                    yield Command(f"{self.words} {name}", briefs.get(name, ""), below)

    @property
    def arguments(self) -> list[argparse.Action]:
        """What it takes, in order: without its subcommands, and ``--help``."""
        passed_over = (argparse._SubParsersAction, argparse._HelpAction, argparse._VersionAction)
        return [action for action in self.parser._actions if not isinstance(action, passed_over)]


def every_command(top: argparse.ArgumentParser) -> Iterator[Command]:
    """The command itself, all families and all commands, in the order of the help."""
    waiting = [Command(top.prog, top.description or "", top)]
    while waiting:
        command = waiting.pop(0)
        waiting[:0] = command.subcommands
        yield command


def commands(top: argparse.ArgumentParser) -> Iterator[Command]:
    """Those that can be run."""
    return (command for command in every_command(top) if not [*command.subcommands])


def value_of(action: argparse.Action) -> str:
    """The name of what follows an option, or of an argument."""
    if action.option_strings and action.nargs == 0:
        return ""
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(map(str, action.choices)) if action.choices is not None else action.dest.upper()


def help_of(action: argparse.Action, owner: argparse.ArgumentParser) -> str:
    """What the help says of an option or argument, its default filled in."""
    return (action.help or "") % {**vars(action), "prog": owner.prog}
