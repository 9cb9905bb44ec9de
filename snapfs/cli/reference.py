"""The reference of all commands and mount options, as Markdown: made from the argument parsers and
from the table of options.

``python -m snapfs.cli.reference`` prints it (``make reference`` stores it); a test compares it with
``doc/reference.md``.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import textwrap
from collections.abc import Iterator
from typing import Final

from snapfs.cli import exits
from snapfs.cli.arguments import Parser
from snapfs.cli.main import COMMANDS, Command
from snapfs.fuse.common_options import ACCEPTED, ACCEPTED_WITH_VALUE, DEPENDING, REFUSED
from snapfs.fuse.option_texts import CANCELS, MEANINGS
from snapfs.fuse.options import value_forms

_WIDTH: Final = 100

_HEAD: Final = """\
# Reference: commands and mount options

This page is made from the argument parsers and the table of mount options by `make reference`; a
test compares it with them. Tasks are described in the [user's guide](guide/README.md).

TARGET is an image, a mount point, or any path inside a mount. When the volume is mounted, its
daemon is asked; otherwise the image is opened. What reports has `--json`. Every error is one line
on standard error, which says what is wrong and what to do.
"""

_CODES: Final = (
    ("most commands", ((exits.OK, "done"), (exits.ERROR, "error"), (exits.USAGE, "usage"))),
    (
        "`mount`",
        (
            (exits.OK, "mounted"),
            (exits.MOUNT_USAGE, "usage or permission"),
            (exits.MOUNT_SYSTEM, "system"),
            (exits.MOUNT_FAILED, "mount failure"),
        ),
    ),
    (
        "`check`",
        (
            (exits.OK, "clean"),
            (exits.CHECK_CORRECTED, "mended"),
            (exits.CHECK_UNCORRECTED, "findings are left"),
            (exits.CHECK_OPERATION, "could not check"),
            (exits.CHECK_USAGE, "usage"),
            (exits.CHECK_CANCELLED, "cancelled"),
        ),
    ),
    (
        "`scrub`",
        (
            (exits.OK, "no damage"),
            (exits.DAMAGED, "damaged blocks"),
            (exits.ERROR, "error"),
            (exits.USAGE, "usage"),
        ),
    ),
    (
        "`dump`",
        (
            (exits.OK, "done"),
            (exits.DAMAGED, "something could not be read or makes no sense"),
            (exits.ERROR, "error"),
            (exits.USAGE, "usage"),
        ),
    ),
    (
        "`diff` with `--exit-code` or `--quiet`",
        (
            (exits.OK, "nothing differs"),
            (exits.DIFFERENT, "something differs"),
            (exits.TROUBLE, "trouble"),
        ),
    ),
    ("any command", ((exits.INTERRUPTED, "interrupted"),)),
)


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, "## Exit codes\n", *_exit_codes(), "\n## Commands\n"]
    for name, command in COMMANDS.items():
        parts.extend(_command(name, command))
    parts.extend(_options())
    return "\n".join(parts).rstrip() + "\n"


def _exit_codes() -> Iterator[str]:
    for who, codes in _CODES:
        yield _item(f"{who}: " + ", ".join(f"{code} {meaning}" for code, meaning in codes))


def _command(name: str, command: Command) -> Iterator[str]:
    parser = Parser(
        prog=f"snapfs {name}", description=command.help.capitalize() + ".", allow_abbrev=False
    )
    importlib.import_module(f"snapfs.cli.commands.{command.module}").configure(parser)
    yield from _parser(parser, "###")


def _parser(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    yield f"{heading} {parser.prog}\n"
    if parser.description:
        yield _filled(parser.description) + "\n"
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not inner:
        yield "```text\n" + _usage(parser) + "\n```\n"
    arguments = [_argument(action) for action in _shown(parser)]
    if arguments:
        yield "\n".join(arguments) + "\n"
    if parser.epilog:
        yield _filled(parser.epilog) + "\n"
    for actions in inner:
        texts = {one.dest: one.help for one in actions._choices_actions}
        for name, below in actions.choices.items():
            below.description = below.description or f"{str(texts.get(name)).capitalize()}."
            yield from _parser(below, heading + "#")


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = (argparse._HelpAction, argparse._SubParsersAction)
    return [
        action
        for action in parser._actions
        if not isinstance(action, hidden) and action.help != argparse.SUPPRESS
    ]


def _usage(parser: argparse.ArgumentParser) -> str:
    if parser.usage:
        lines = [
            " ".join(line.split())
            for line in parser.usage.replace("%(prog)s", parser.prog).split("\n")
        ]
    else:
        words = [parser.prog]
        done: set[int] = set()
        optional = [action for action in _shown(parser) if action.option_strings]
        for action in optional:
            group = next(
                (
                    group
                    for group in parser._mutually_exclusive_groups
                    if action in group._group_actions
                ),
                None,
            )
            if group is None:
                words.append(_bracketed(_form(action), is_needed=action.required))
            elif id(group) not in done:
                done.add(id(group))
                members = [
                    _form(one) for one in group._group_actions if one.help != argparse.SUPPRESS
                ]
                words.append(
                    _bracketed(
                        " | ".join(members), is_needed=group.required, among=len(members) > 1
                    )
                )
        words.extend(_form(action) for action in _shown(parser) if not action.option_strings)
        lines = [" ".join(words)]
    return "\n".join(
        textwrap.fill(line, _WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        for line in lines
    )


def _bracketed(text: str, *, is_needed: bool, among: bool = False) -> str:
    if is_needed:
        return f"({text})" if among else text
    return f"[{text}]"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    name = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    )
    text = name if isinstance(name, str) else " ".join(name)
    if action.nargs == "?":
        return f"[{text}]"
    if action.nargs == "*":
        return f"[{text} ...]"
    return f"{text} [{text} ...]" if action.nargs == "+" else text


def _form(action: argparse.Action) -> str:
    value = _value(action)
    if not action.option_strings:
        return value
    return f"{_name(action)} {value}".rstrip()


def _name(action: argparse.Action) -> str:
    return max(action.option_strings, key=len)


def _argument(action: argparse.Action) -> str:
    value = _value(action)
    names = [f"{option} {value}".rstrip() for option in action.option_strings]
    names = names or [str(action.metavar or action.dest)]
    text = " ".join((action.help or "").replace("%%", "%").split())
    return _item(", ".join(f"`{name}`" for name in names) + (f": {text}" if text else ""))


def _options() -> Iterator[str]:
    yield "## Mount options\n"
    yield "After `-o`, with commas between. Of several values for one thing the last one counts.\n"
    cancelled: dict[str, list[str]] = {}
    for name, other in CANCELS.items():
        cancelled.setdefault(other, []).append(name)
    forms = value_forms()
    lines = []
    for name, meaning in MEANINGS.items():
        form = f"{name}={forms[name]}" if name in forms else name
        against = "".join(f" `{word}` cancels it." for word in cancelled.get(name, ()))
        lines.append(_item(f"`{form}`: {meaning}{against}"))
    yield "\n".join(lines) + "\n"
    yield "These are accepted, because what they say is so anyway or is meant for others:\n"
    with_value = [f"`{name}=...`" for name in sorted(ACCEPTED_WITH_VALUE)]
    yield (
        _filled(
            ", ".join([f"`{name}`" for name in sorted(ACCEPTED)] + with_value + ["`x-...`"]) + "."
        )
        + "\n"
    )
    yield "These are refused, because what they say cannot be so:\n"
    yield "\n".join(_item(f"`{name}`: {reason}") for name, reason in REFUSED.items()) + "\n"
    yield "These are accepted or refused depending on other options:\n"
    yield (
        "\n".join(
            _item(f"`{name}`: refused otherwise, since {reason}")
            for name, (_, _, reason) in DEPENDING.items()
        )
        + "\n"
    )


def _item(text: str) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _filled(text: str) -> str:
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(
        textwrap.fill(" ".join(one.split()), _WIDTH, break_on_hyphens=False, break_long_words=False)
        for one in paragraphs
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
