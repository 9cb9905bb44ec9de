"""Everything that users do with a volume, done to a hostile one: each call succeeds or ends with
one of our errors.

``use`` raises whatever else comes: that is a defect, and so is ``Hang``, ``MemoryError`` or
``OutsideTheVolume``.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from snapfs import snapshots
from snapfs.blocks.claim import CLAIM_BYTES, CLAIM_PLACE, Claim
from snapfs.blocks.geometry import Geometry
from snapfs.blocks.group_header import GroupHeader, decode_records
from snapfs.blocks.log_record import LAYOUT, decode_log
from snapfs.blocks.pointer import decode_pointers
from snapfs.blocks.schema import unpack
from snapfs.blocks.superblock import CHECKSUM_OFFSET, Superblock
from snapfs.check import check_volume
from snapfs.check.repair import repair_volume
from snapfs.control.commands.handlers import Handlers
from snapfs.control.commands.offline import OfflineEngine, run
from snapfs.control.socket.protocol import Request
from snapfs.errors import CorruptBlock, SnapfsError
from snapfs.filesystem import Changes, Filesystem, Inode, View, designation
from snapfs.fuse.kernel.pause import Pause
from snapfs.fuse.options import parse_options
from snapfs.fuse.protocol.numbers import Numbers
from snapfs.fuse.requests import listing
from snapfs.fuse.requests.attributes import Attributes
from snapfs.ids import ROOT_INO
from snapfs.snapshots.naming import ancestry, path_of
from snapfs.store.commit.copy_map_space import allocate_map, free_map
from snapfs.store.commit.driver import commit, drive
from snapfs.store.commit.recovery import open_volume
from snapfs.store.commit.superblocks import newest_superblock
from snapfs.store.space.set_codec import decode_set
from snapfs.store.tables.copies import RunningCopy
from snapfs.store.tables.root_record import RootRecord
from snapfs.store.trees.bucket import Bucket
from tests.fuzz.forging import CHECKSUM, Image
from tests.fuzz.looking import look_inside
from tests.fuzz.mutations import NAMES, NUMBERS, Choices

#: Inodes that one walk visits in a view: what is cyclic goes on for ever.
WALK = 250

FILE, DIRECTORY, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


class User:
    """Does things to an open volume and does not mind errors."""

    def __init__(self, image: Image) -> None:
        self.image = image
        with contextlib.suppress(CorruptBlock):  # who has it open is asked before anything else
            Claim.decode(image.read(CLAIM_PLACE, CLAIM_BYTES))
        self.volume = open_volume(image)
        image.fence = self.volume.geometry.size
        self.fs = Filesystem(self.volume)
        self.numbers = Numbers()
        self.attributes = Attributes(
            parse_options(""), self.volume.geometry.block_size, Pause(), {}
        )
        self.seen: dict[int, list[tuple[int, bytes, Inode]]] = {}

    def do(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the core; None instead of one of our errors."""
        try:
            return drive(self.volume, function, *args, **kwargs)
        except SnapfsError:
            return None

    def commit(self) -> None:
        try:
            commit(self.volume)
        except SnapfsError:
            return

    @property
    def views(self) -> list[View]:
        found = [self.do(self.fs.view, one.id) for one in snapshots.all(self.fs)]
        return [self.fs.base, *(view for view in found if view is not None)]

    # Reading

    def walk(self) -> None:
        """Look at everything in every view, as a walk over the mount does."""
        for view in self.views:
            names: list[tuple[int, bytes, Inode]] = []
            work, visited = [ROOT_INO], 0
            while work and visited < WALK:
                ino = work.pop()
                visited += 1
                inode = self.do(self.fs.inode, view, ino)
                if inode is None:
                    continue
                self.look(view, inode)
                if not inode.is_directory:
                    continue
                after = 0
                for _ in range(4):
                    rows = self.do(listing.rows, self.fs, self.numbers, view, ino, after)
                    if not rows:
                        break
                    after = rows[-1].cookie
                    for row in rows:
                        names.append((ino, row.name, row.inode))
                        work.append(row.inode.ino)
            self.seen[view.id] = names

    def look(self, view: View, inode: Inode) -> None:
        """All that can be read of one inode."""
        ino = inode.ino
        self.attributes.entry(self.numbers.node(view.id, ino), inode)
        for name in self.do(self.fs.xattr_list, view, ino) or ():
            self.do(self.fs.xattr_get, view, ino, name)
        if inode.is_directory:
            self.attributes.snapdir(self.numbers.node(view.id, ino), inode)
            self.do(self.fs.lookup, view, ino, b"..")
            self.do(self.fs.lookup, view, ino, b"file")
            for one in self.do(snapshots.visible, self.fs, view, ino) or ():
                self.do(snapshots.view_inode, self.fs, one, ino)
            if self.do(ancestry, view, inode):
                self.do(path_of, self.fs, view, inode)
        elif stat.S_ISLNK(inode.mode):
            self.do(self.fs.readlink, view, ino)
        elif stat.S_ISREG(inode.mode):
            for offset in (0, 1 << 20, max(0, inode.size - 5000)):
                self.do(self.fs.read, view, ino, offset, 1 << 16)

    def report(self) -> None:
        """What commands tell of it."""
        handlers = Handlers(OfflineEngine(self.fs), self.fs)
        run(handlers.handle(Request("info", {}), 0))
        run(handlers.handle(Request("snapshot.list", {}), 0))
        with contextlib.suppress(SnapfsError):
            run(handlers.handle(Request("df", {}), 0))
        for one in snapshots.all(self.fs):
            self.compare(one)

    def compare(self, one: snapshots.Instance) -> None:
        """The difference between a snapshot and the present."""
        with contextlib.suppress(SnapfsError), self.volume.allocator.readers.open():
            steps = snapshots.Diff(
                self.fs,
                snapshots.State(self.volume.base_root),
                snapshots.State(one.root, one.copy()),
            ).steps()
            step = next(steps, None)
            while step is not None:
                try:
                    if isinstance(step, list):
                        self.volume.admit(self.volume.read_wants(step))
                except CorruptBlock as exc:
                    step = steps.throw(exc)
                else:
                    step = next(steps, None)

    # Changing

    def change(self, choices: Choices) -> None:
        """Some operations of all kinds, on whatever the walk has found."""
        operations = [
            self.make,
            self.write,
            self.truncate,
            self.unlink,
            self.rmdir,
            self.rename,
            self.attribute,
            self.chmod,
            self.link,
            self.snapshot,
            self.copy,
        ]
        for operation in operations:  # each one on what comes first
            operation(Choices(b""))
        for _ in range(min(12, choices.left)):
            choices.one(operations)(choices)
        self.work()
        self.commit()

    def somewhere(
        self, choices: Choices, kind: Callable[[int], bool] | None = None
    ) -> tuple[View, int, bytes, Inode]:
        """A view, a directory, a name and what it leads to."""
        views = self.views
        view = choices.one(views)
        names = [one for one in self.seen.get(view.id, ()) if kind is None or kind(one[2].mode)]
        if not names:
            return view, ROOT_INO, b"nothing", Inode(view, ROOT_INO, DIRECTORY)
        ino, name, inode = choices.one(names)
        return view, ino, name, inode

    def make(self, choices: Choices) -> None:
        view, parent, _, _ = self.somewhere(choices)
        name = choices.one((b"made", *NAMES))
        mode = choices.one((FILE, DIRECTORY, LINK))
        self.do(self.fs.make, view, parent, name, mode, 0, 0, target=b"t" * 300)
        for number in range(choices.below(100)):
            self.do(self.fs.make, view, parent, b"%0120d" % number, FILE, 0, 0)

    def write(self, choices: Choices) -> None:
        view, _, _, inode = self.somewhere(choices, stat.S_ISREG)
        offset = choices.one((0, 5000, 1 << 20, *NUMBERS))
        self.do(self.fs.write, view, inode.ino, offset, b"w" * choices.one((10000, 1, 1 << 18)))

    def truncate(self, choices: Choices) -> None:
        view, _, _, inode = self.somewhere(choices, stat.S_ISREG)
        self.do(
            self.fs.set_attributes,
            view,
            inode.ino,
            Changes(size=choices.one((0, 1, 5000, 1 << 20, *NUMBERS))),
            privileged=True,
        )

    def unlink(self, choices: Choices) -> None:
        view, parent, name, _ = self.somewhere(choices)
        self.do(self.fs.unlink, view, parent, name)

    def rmdir(self, choices: Choices) -> None:
        view, parent, name, _ = self.somewhere(choices, stat.S_ISDIR)
        self.do(self.fs.rmdir, view, parent, name)

    def rename(self, choices: Choices) -> None:
        view, parent, name, _ = self.somewhere(choices)
        other, new_parent, new_name, inode = self.somewhere(choices)
        if other.id == view.id:
            new_parent = inode.ino if inode.is_directory and choices.below(2) else new_parent
            self.do(
                self.fs.rename,
                view,
                parent,
                name,
                new_parent,
                new_name + b"x" * choices.below(2),
                choices.one((0, 1, 2)),
            )

    def link(self, choices: Choices) -> None:
        view, parent, _, inode = self.somewhere(choices)
        self.do(self.fs.link, view, inode.ino, parent, b"linked")

    def attribute(self, choices: Choices) -> None:
        view, _, _, inode = self.somewhere(choices)
        name = choices.one(
            (b"user.large", b"user.small", b"system.posix_acl_access", designation.NAME)
        )
        if choices.below(3):
            self.do(self.fs.xattr_remove, view, inode.ino, name)
        else:
            value = b"policy" if name == designation.NAME else bytes(choices.one((9000, 10, 65536)))
            self.do(self.fs.xattr_set, view, inode.ino, name, value)

    def chmod(self, choices: Choices) -> None:
        view, _, _, inode = self.somewhere(choices)
        self.do(
            self.fs.set_attributes,
            view,
            inode.ino,
            Changes(mode=0o777, uid=1, gid=1, atime=choices.value() >> 1),
            privileged=False,
        )

    def snapshot(self, choices: Choices) -> None:
        """Make, rename, delete, purge and restore snapshots, now or as it is scheduled."""
        view, _, _, inode = self.somewhere(choices)
        how = choices.below(8)
        live = [one.name for one in snapshots.all(self.fs)] or ["none"]
        if how == 0:
            target = choices.one(
                [inode.ino, ROOT_INO, [b"dir", b"sub"], [b"file"], snapshots.Designated("policy")]
            )
            self.do(snapshots.create, self.fs, "made", origin=view.id, targets=[target])
        elif how == 1:
            self.do(snapshots.delete, self.fs, choices.one(live))
        elif how == 2:
            self.do(snapshots.rename, self.fs, choices.one(live), "renamed")
        elif how == 3:
            self.do(snapshots.schedule, self.fs, choices.one(live), paths=["dir"])
        elif how == 4:
            found = self.do(
                snapshots.find_places,
                self.fs,
                choices.one(live),
                [choices.one([b"dir", b"file", b"dir/sub"])],
            )
            self.do(snapshots.take_out, self.fs, found.places if found else [])
        elif how == 5:
            self.commit()
            self.do(snapshots.restore_scheduled, self.fs)
        else:
            self.commit()
            paths = choices.one([[], [], ["dir"], ["file"], ["dir/sub", "file"]])
            try:
                self.do(snapshots.restore, self.fs, choices.one(live), paths=paths)
            finally:
                snapshots.give_up_restore(self.fs)
        self.commit()

    def copy(self, choices: Choices) -> None:
        """A copy begins, or writes its map, changes and ends."""
        copies, block_size = self.volume.copies, self.volume.geometry.block_size
        if copies.current is None:
            runs = self.do(allocate_map, self.volume, 2)
            if runs:
                copies.put(RunningCopy(b"again" * 3 + b".", 1, b"/again", runs))
        elif not self.volume.read_only:
            for start, length in copies.current.map_runs:
                self.image.write((start + length - 1) * block_size, b"map!" * (block_size // 4))
            copies.put(replace(copies.current, paused=True))
            if choices.below(2):
                self.commit()
            with contextlib.suppress(SnapfsError):
                drive(self.volume, free_map, self.volume, copies.current.map_runs)
                copies.put(None)
        self.commit()

    def work(self) -> None:
        """Work in the background, as far as it goes."""
        for _ in range(50):
            if not self.do(self.fs.work):
                break


def mend(image: Image) -> None:
    """Repair a copy of a hostile image."""
    image = image.copy()
    try:
        image.fence = newest_superblock(image).geometry.size
        repair_volume(image)
    except SnapfsError:
        return


def use(image: Image, choices: Choices) -> None:
    """Check a hostile image, open it, look at everything, change it, and do so again. Now and then,
    look into it and repair it.
    """
    if choices.below(4) == 3:
        look_inside(image)
        mend(image)
    for _ in range(2):
        with contextlib.suppress(SnapfsError):
            check_volume(image)
        try:
            user = User(image)
        except SnapfsError:
            return
        user.report()
        user.walk()
        user.change(choices)


#: The decoder (see ``decode``) of each kind of place.
DECODERS = {
    "superblock": 1,
    "root": 2,
    "header": 3,
    "records": 4,
    "node": 5,
    "names": 6,
    "table": 7,
    "copy": 9,
}


def forged_record(payload: bytes) -> bytes:
    """A first record of a log, under the function that ``forging`` has in place of the checksum."""
    return (
        LAYOUT.pack(b"SLog", len(payload), bytes(16), 1, 0, 0)
        + CHECKSUM.to_bytes(4, "little")
        + payload
    )


def decode(data: bytes) -> None:
    """A decoder, chosen by the first byte, on the rest."""
    kind, body = data[:1], data[1:]
    block = body[:4096].ljust(4096, b"\0")
    decoders: list[Callable[[], Any]] = [
        lambda: unpack(body, "anything"),
        lambda: Superblock.decode(block[:CHECKSUM_OFFSET] + CHECKSUM.to_bytes(4, "little")),
        lambda: RootRecord.decode(body, Geometry(4096, 1 << 20)),
        lambda: GroupHeader.decode(block, 0, 1 << 20),
        lambda: list(decode_records(body, 0, 4096 * 8)),
        lambda: decode_pointers(block),
        lambda: Bucket.decode_names(block),
        lambda: Bucket.decode_table(block),
        lambda: decode_set(unpack(body, "set")),
        lambda: RunningCopy.decode(body),
        lambda: decode_log(forged_record(body), 4096, bytes(16), 1),
    ]
    try:
        decoders[(kind or b"\0")[0] % len(decoders)]()
    except SnapfsError:
        return
