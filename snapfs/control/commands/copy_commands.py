"""The commands about copies: beginning, asking about, pausing, resuming, cancelling one."""

from __future__ import annotations

from dataclasses import dataclass

from snapfs.control.commands.arguments import Commands, names_in, needed, place_of, rate_of
from snapfs.control.copies.copying import Copying
from snapfs.control.socket.caller import Caller
from snapfs.control.socket.protocol import NO_LIMIT, Result
from snapfs.copying import Wishes


@dataclass(frozen=True)
class CopyCommands:
    """Answers requests about the copies that a process makes."""

    copying: Copying

    @property
    def commands(self) -> Commands:
        """Those that are answered at once."""
        return {"copy.status": ({}, self.status), "copy.pause": ({}, self.pause)}

    @property
    def long(self) -> Commands:
        """Those that tell their caller how it goes."""
        return {
            "copy": (
                {
                    "destination": str,
                    "first": list,
                    "outside": bool,
                    "rate": int,
                    "copy_first": bool,
                    "force": bool,
                },
                self.begin,
            ),
            "copy.resume": ({"destination": str, "rate": int}, self.resume),
            "copy.cancel": ({"name": str}, self.cancel),
        }

    async def begin(
        self,
        uid: int,
        caller: Caller,
        destination: str | None,
        first: list[object] | None,
        outside: bool | None,
        rate: int | None,
        copy_first: bool | None,
        force: bool | None,
    ) -> Result:
        """Make a full copy of this moment."""
        wishes = Wishes(
            copy_first=bool(copy_first), rate=None if rate == NO_LIMIT else rate_of(rate)
        )
        return await self.copying.begin(
            caller, place_of(needed("destination", destination)), first=names_in(first, "first"),
            map_outside=outside, wishes=wishes,
            force=bool(force), owner=uid,
        )  # fmt: skip

    async def status(self, _uid: int) -> Result:
        """How far the copy is."""
        return self.copying.status()

    async def pause(self, _uid: int) -> Result:
        """Copy nothing behind for the time being."""
        return await self.copying.pause()

    async def resume(
        self, uid: int, caller: Caller, destination: str | None, rate: int | None
    ) -> Result:
        """Go on with a copy, at another rate if one is given."""
        return await self.copying.resume(
            caller, destination and place_of(destination), rate=rate_of(rate), owner=uid
        )

    async def cancel(self, _uid: int, caller: Caller, name: str | None) -> Result:
        """Give the copy up, or the one in memory of that name."""
        return await self.copying.cancel(caller, name)
