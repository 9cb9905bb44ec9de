"""What it means for the volume that a core call has ended with an exception: one rule for all who
drive the core.

They are ``store.commit.driver``, ``fuse.driving.calls``, ``fuse.serving.quick``,
``fuse.driving.commits`` and ``control.commands.comparing``. A core call changes the volume whole,
or says by an error of ours that it has changed nothing. There are two exceptions to that. A
``CorruptBlock`` may come out of the middle of a change, where the metadata turns out to contradict
itself. And whatever is no error of ours, a defect, a lack of memory, a signal, may come out of
anywhere. Memory may have half of a change then, which must never become durable (I8): so writing
ends, and the volume stays as it was committed last.

Scrubbing is the exception: it was asked to look for damage, and what it finds is its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from snapfs.errors import (
    CorruptBlock,
    CorruptData,
    FsError,
    SnapfsError,
    SnapshotError,
)
from snapfs.interrupts import Interrupt

if TYPE_CHECKING:
    from snapfs.store.trees.block_store import BlockStore

#: A call that ends with one of these has changed nothing, and may be made anew. A failing device
#: must not be asked again unasked.
REPEATABLE: Final = (Interrupt, FsError, SnapshotError)


def broke_off(store: BlockStore, exc: BaseException, what: str = "a change") -> None:
    """A core call has ended with ``exc``. Ends writing if that does not say that nothing has
    changed; ``what`` is for the reason.
    """
    if isinstance(exc, CorruptBlock):
        # Data is what only its file depends on, and it is read before anything is changed.
        if not isinstance(exc, CorruptData):
            store.end_writing(
                f"its metadata is damaged ({exc}): unmount it, then run 'snapfs check'"
            )
    elif not isinstance(exc, (SnapfsError, Interrupt)):
        store.end_writing(f"{what} broke off: {type(exc).__name__}: {exc}")
