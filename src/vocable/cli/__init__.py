"""The `vocable` command: finds the function behind the words, runs it, and prints errors in one line.

Every module of this package offers `COMMANDS`, a table from command words, with the words that follow them in capitals,
to a function. Its parameters are its command line: `vocable.cli.command`. A module is imported when a command begins
with its name.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from vocable import __version__
from vocable.cli.command import Command
from vocable.errors import VocableError
from vocable.registry import unknown_name_message

HOMES = {
    "audio": "manifest",
    "compare": "evaluate",
    "corpus": "manifest",
    "evaluate": "testsets",
    "generate": "lm",
    "quickstart": "lm",
    "speak": "testsets",
    "stories": "testsets",
    "subwords": "sequences",
    "tokenize": "tokenizer",
    "train": "lm",
}
"""The module, beside the one of its name, that has commands which begin with a word."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code (2: the user's input was wrong)."""
    # Before torch is imported: threads that wait sleep instead of spinning, or one busy neighbour takes the core of a
    # thread that all others spin for, and a run becomes many times slower (docs/decisions.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"vocable {__version__}")
        return 0
    commands = find_commands(arguments[0] if arguments else None) or find_commands()
    name = _command_name(arguments, commands)
    if name is None:
        return _help_or_unknown(arguments, commands)
    try:
        rest = arguments[len(name.split()) :]
        if {"-h", "--help"} & set(rest):
            print(commands[name].help(name))
        else:
            commands[name].run(rest)
    except VocableError as error:
        print(f"vocable {name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, `head` say, has gone: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"vocable {name}: stopped. What was written stays; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def find_commands(first: str | None = None) -> dict[str, Command]:
    """Collect the commands of this package, or those whose first word is `first`, by the words that call each."""
    commands: dict[str, Command] = {}
    modules = [module.name for module in pkgutil.iter_modules(__path__)]
    for name in modules if first is None else {first, HOMES.get(first)} & set(modules):
        table = getattr(importlib.import_module(f"{__name__}.{name}"), "COMMANDS", {})
        for usage, entry in table.items():
            words = " ".join(word for word in usage.split() if not word.strip(".").isupper())
            command = entry if isinstance(entry, Command) else Command(entry)
            commands[words] = replace(command, words=usage[len(words) :].strip())
    return dict(sorted(commands.items()))


def _command_name(arguments: Sequence[str], commands: dict[str, Command]) -> str | None:
    for num_words in (3, 2, 1):
        name = " ".join(arguments[:num_words])
        if name in commands and len(arguments) >= num_words:
            return name
    return None


def _help_or_unknown(arguments: Sequence[str], commands: dict[str, Command]) -> int:
    words = [word for word in arguments if not word.startswith("-")]
    group = {name: command for name, command in commands.items() if words and name.split()[0] == words[0]}
    if words and not group:
        print(unknown_name_message("command", words[0], {name.split()[0] for name in commands}), file=sys.stderr)
        return 2
    if len(words) > 1:
        print(unknown_name_message("command", " ".join(words[:2]), group), file=sys.stderr)
        return 2
    print("usage: vocable COMMAND ...\n\nSpeech to tokens, language models on them, and back to speech.\n\ncommands:")
    for name, command in (group or commands).items():
        print(f"  {name:26s} {command.summary}")
    print("\n'vocable COMMAND --help' explains one.")
    return 0 if not arguments or words == list(arguments) or set(arguments) & {"-h", "--help"} else 2
