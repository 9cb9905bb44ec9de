"""Entry of the command line: finds the command, runs it, turns every error into one line and an
exit code.

The program's name decides, too: linked as ``mount.snapfs``, ``umount.snapfs``, ``mkfs.snapfs`` or
``fsck.snapfs`` (also with ``fuse.`` in it) it is the helper that mount(8), umount(8), mkfs(8) and
fsck(8) call.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import snapfs
from snapfs.cli import descriptors, exits
from snapfs.cli.arguments import Parser
from snapfs.cli.exits import CommandFailed
from snapfs.errors import SnapfsError, UsageError


@dataclass(frozen=True)
class Command:
    """Where a command lives, and which exit codes its errors have."""

    module: str
    help: str
    usage_code: int = exits.USAGE
    error_code: int = exits.ERROR
    interrupt_code: int = exits.INTERRUPTED


class CommandModule(Protocol):
    """What a command's module has."""

    def configure(self, parser: Parser) -> None:
        """Declare the arguments."""

    def run(self, arguments: object) -> int:
        """Do it; return an exit code."""


COMMANDS: Final = {
    "mkfs": Command("mkfs", "make a volume in an image file or on a block device"),
    "mount": Command("mount", "mount a volume", exits.MOUNT_USAGE, exits.MOUNT_FAILED),
    "umount": Command("umount", "unmount a volume and wait until its image is released"),
    "snapshot": Command(
        "snapshot", "create, list, show, rename, describe, hold and delete snapshots"
    ),
    "restore": Command("restore", "go back to a snapshot; what was stays as a snapshot of its own"),
    "df": Command("df", "show where the space is, and what deleting snapshots would free"),
    "diff": Command(
        "diff", "show what differs between two snapshots, or a snapshot and the present"
    ),
    "versions": Command(
        "versions", "show the versions of a file, or the deleted names of a directory"
    ),
    "purge": Command("purge", "remove files and directories from snapshots, and free their space"),
    "copy": Command("copy", "copy a volume as it is now into other storage, usable at once"),
    "loglevel": Command("loglevel", "show or change what the daemon of a mount logs"),
    "info": Command("info", "show facts about a volume and its mount"),
    "trace": Command("trace", "record, show and replay the requests to a mounted volume"),
    "check": Command(
        "check",
        "check or repair an unmounted volume",
        exits.CHECK_USAGE,
        exits.CHECK_OPERATION,
        exits.CHECK_CANCELLED,
    ),
    "scrub": Command("scrub", "read everything, mounted or not, and verify every checksum"),
    "dump": Command("dump", "look into an image that is not mounted: what stands where, and why"),
    "install-helpers": Command(
        "install_helpers", "link the helpers that mount(8) and fsck(8) look for into /sbin"
    ),
}

#: Program names, without "fuse.": the command, and the words that stand for the name.
HELPERS: Final = {
    "mount.snapfs": "mount",
    "umount.snapfs": "umount",
    "mkfs.snapfs": "mkfs",
    "fsck.snapfs": "check",
}


def main(argv: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the command line ``argv`` (default: this process's) as the program of that name; return
    the exit code.
    """
    descriptors.complete()
    words = list(sys.argv[1:] if argv is None else argv)
    name = os.path.basename(sys.argv[0] if program is None else program).replace(".fuse.", ".")
    helper = HELPERS.get(name)
    chosen = helper or next((word for word in words if not word.startswith("-")), "")
    command = COMMANDS.get(chosen, Command("", ""))
    try:
        code = run_helper(helper, words) if helper else run_command(chosen, words)
        sys.stdout.flush()
    except CommandFailed as exc:
        exits.report(str(exc))
        return exc.code
    except UsageError as exc:
        exits.report(str(exc))
        return command.usage_code
    except SnapfsError as exc:
        exits.report(str(exc))
        return command.error_code
    except KeyboardInterrupt:
        exits.report("interrupted")
        try:
            sys.stdout.flush()
        except (OSError, KeyboardInterrupt):  # an interrupt ends the reader of a pipe as well
            _discard_output()
        return command.interrupt_code
    except BrokenPipeError:
        _discard_output()
        return exits.ERROR
    except OSError as exc:
        exits.report(exits.describe_os_error(exc))
        return command.error_code
    except Exception as exc:  # noqa: BLE001 - the last line of defence: no traceback ever reaches a user unasked
        exits.report(exits.describe_unexpected(exc))
        return command.error_code
    return code


def _discard_output() -> None:
    """Nobody reads what is still to be written: Python would fail over it once more at its end,
    with an exit code of its own.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(chosen: str, words: Sequence[str]) -> int:
    """``snapfs COMMAND ...``. Only the chosen command's module is imported."""
    parser = Parser(
        prog="snapfs",
        description="A filesystem in one image whose past states are directories under .snap.",
        allow_abbrev=False,
    )
    if chosen in COMMANDS:
        parser.usage_code = COMMANDS[chosen].usage_code
    parser.add_argument("--version", action="version", version=f"snapfs {snapfs.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    module: CommandModule | None = None
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name, help=command.help, description=command.help.capitalize() + ".", allow_abbrev=False
        )
        subparser.usage_code = command.usage_code
        if name == chosen:
            module = importlib.import_module(f"snapfs.cli.commands.{command.module}")
            module.configure(subparser)
    arguments = parser.parse_args(words)
    if module is None:
        parser.error("a command is missing")
    return module.run(arguments)


def run_helper(command: str, words: Sequence[str]) -> int:
    """As a helper of util-linux; the command's module knows the words that it is called with."""
    module = importlib.import_module(f"snapfs.cli.commands.{COMMANDS[command].module}")
    code: int = module.run_helper(words)
    return code
