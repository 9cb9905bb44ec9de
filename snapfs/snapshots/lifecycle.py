"""Creating, renaming and deleting snapshots: what happens in front of the user. The caller commits
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from snapfs.blocks.pointer import EPOCH_MASK
from snapfs.errors import (
    MountsInside,
    NameTaken,
    NoSuchFact,
    SnapshotBusy,
    SnapshotHeld,
    TooManySnapshots,
)
from snapfs.ids import BASE_VIEW
from snapfs.interrupts import CommitNeeded
from snapfs.snapshots.naming import check_name, default_name, free_name, get
from snapfs.snapshots.rights import Permit, anyone, check_permitted
from snapfs.snapshots.shares import check_share
from snapfs.snapshots.targets import Target, parts_of, sized, subjects
from snapfs.store.commit import costs
from snapfs.store.commit.commit import name_live
from snapfs.store.tables.facts import NO_FACTS, Facts
from snapfs.store.tables.instances import Instance

if TYPE_CHECKING:
    from snapfs.filesystem import Filesystem
    from snapfs.store.tables.parts import Part


def new_instance(
    fs: Filesystem,
    name: str | None,
    *,
    origin: int | Instance,
    targets: Sequence[Target] = (),
    parts: Sequence[Part] | None = None,
    owner: int,
    now_ns: int | None,
    permit: Permit = anyone,
    urgency: int = 0,
) -> Instance:
    """An instance with a bit of its own, for the caller to publish. ``urgency`` is that of
    ``Allocator.prepare``. No name: the time.

    It is of ``targets``; of ``parts``, where a caller has them ready, and then also of such where
    nothing stands. Raises ``NameTaken``, ``BadName``, ``TooManySnapshots``, ``NoSpace``,
    ``NotFound``, ``UsageError``, and what ``permit`` raises.
    """
    volume = fs.volume
    volume.check_writable()
    now = fs.now() if now_ns is None else now_ns
    if name is None:
        name = free_name(fs, default_name(now))
    check_name(name)
    check_free(fs, name)
    view = fs.view(origin if isinstance(origin, int) else get(fs, origin).id)
    if parts is None:
        chosen, (covered, passed) = parts_of(fs, view, targets)
    else:
        chosen, (covered, passed) = sized(parts, view.instance.kept if view.instance else None)
    for ino in subjects(chosen):
        permit(view.inode(ino))
    if volume.epoch >= EPOCH_MASK:
        raise TooManySnapshots(
            f"{EPOCH_MASK} snapshots have been made of this volume, and there cannot be "
            "more: copy it to a new one"
        )
    check_share(fs, owner)
    volume.allocator.prepare(
        0, urgency=urgency, metadata=volume.dirtied + costs.of_instances(volume)
    )
    bit = volume.instances.take_bit(fs.view_ids_in_use())
    # The order of making: by the clock, one that is made after the clock was set back would be
    # older.
    serial = volume.next_inode_generation
    volume.next_inode_generation += 1
    return Instance(
        bit,
        name,
        created_ns=now,
        changed_ns=now,
        origin=view.id,
        owner=owner,
        parts=chosen,
        covered=covered,
        passed=passed,
        serial=serial,
        listed_ns=volume.instances.listed_after(now),
    )


def create(
    fs: Filesystem,
    name: str | None,
    *,
    origin: int | Instance = BASE_VIEW,
    targets: Sequence[Target] = (),
    owner: int = 0,
    now_ns: int | None = None,
    permit: Permit = anyone,
    facts: Facts = NO_FACTS,
) -> Instance:
    """Make a snapshot of a view, or of the directories and files ``targets`` in it: the state that
    the next commit seals (A2).

    Without a name it gets one that nothing has: the time, in UTC. An ``origin`` that was found
    before a wait is given as itself. Nothing is walked and nothing copied. Raises ``NameTaken``,
    ``BadName``, ``TooManySnapshots``, ``NoSuchSnapshot``, ``NoSpace``, ``NotFound`` for targets
    that are not there, ``ReadOnly``, ``UsageError`` for impossible facts and too many targets, and
    what ``permit`` raises.
    """
    facts.checked()
    instance = new_instance(
        fs, name, origin=origin, targets=targets, owner=owner, now_ns=now_ns, permit=permit
    )
    instance.facts = facts
    fs.volume.instances.pending.append(instance)
    return instance


def abandon(fs: Filesystem, instance: Instance) -> None:
    """Take back a ``create`` whose commit failed: it must not come into being later, when nobody
    expects it any more.

    Once sealed it comes into being with a commit that is tried again, and is deleted like any
    other. Raises as ``delete``.
    """
    fs.volume.instances.abandon(instance)
    if fs.volume.instances.by_name(instance.name) is instance:
        delete(fs, instance.name)


def check_free(fs: Filesystem, name: str) -> None:
    """Raises ``NameTaken``."""
    instances = fs.volume.instances
    if instances.by_name(name) is not None or any(one.name == name for one in instances.pending):
        raise NameTaken(f"a snapshot named {name!r} exists already")


def rename(
    fs: Filesystem, which: str | Instance, new_name: str, *, permit: Permit = anyone
) -> Instance:
    """Give a snapshot another name. ``which`` is as for ``get``. Raises ``NoSuchSnapshot``,
    ``NameTaken``, ``BadName``, ``ReadOnly``.
    """
    fs.volume.check_writable()
    instance = get(fs, which)
    check_permitted(fs, instance, permit)
    check_name(new_name)
    if new_name != instance.name:
        check_free(fs, new_name)
        fs.volume.allocator.prepare(
            0, urgency=1, metadata=fs.volume.dirtied + costs.of_instances(fs.volume)
        )
        fs.volume.instances.rename(instance, new_name)
    return instance


def change_facts(
    fs: Filesystem, name: str, change: Callable[[Facts], Facts], *, permit: Permit = anyone
) -> Instance:
    """Say something else about a snapshot: ``change`` gets what is said now. A read-only view can
    be changed no more by anyone.

    Raises ``NoSuchSnapshot``, ``NoSpace``, ``ReadOnly``, and what ``permit`` and ``change`` raise.
    """
    volume = fs.volume
    volume.check_writable()
    instance = get(fs, name)
    check_permitted(fs, instance, permit)
    facts = facts_after(instance, change)
    if facts != instance.facts:
        # Of a full volume, what can be deleted must be: releasing may take what only commits may.
        urgency = 2 if len(facts.holds) < len(instance.facts.holds) else 1
        volume.allocator.prepare(
            0, urgency=urgency, metadata=volume.dirtied + costs.of_instances(volume)
        )
        volume.instances.describe(instance, facts)
    return instance


def facts_after(instance: Instance, change: Callable[[Facts], Facts]) -> Facts:
    """What is said about an instance after a change. Errors name it."""
    try:
        return change(instance.facts)
    except (NameTaken, NoSuchFact) as exc:
        raise type(exc)(f"snapshot {instance.name!r}: {exc}") from None


def check_not_held(instance: Instance) -> None:
    """Raises ``SnapshotHeld``, which says by whom it can be let go."""
    if instance.facts.holds:
        holds = ", ".join(
            f"{hold.name!r}" + (f" ({hold.reason})" if hold.reason else "")
            for hold in instance.facts.holds
        )
        raise SnapshotHeld(
            f"snapshot {instance.name!r} is held as {holds}: 'snapfs snapshot release' lets it go"
        )


def check_not_scheduled(fs: Filesystem, instance: Instance) -> None:
    """Raises ``SnapshotBusy`` for a snapshot that the next mount goes back to: nobody is to find
    out then that it is gone.
    """
    chosen = fs.volume.restores.scheduled
    if chosen is not None and chosen.instance == instance.id:
        raise SnapshotBusy(
            f"the next mount goes back to snapshot {instance.name!r}: 'snapfs restore "
            "--cancel' takes that back"
        )


def check_not_mounted(fs: Filesystem, instance: Instance) -> None:
    """Raises ``SnapshotBusy`` for a snapshot that has a mount of its own beside that of the volume,
    ``MountsInside`` for one in which something is mounted: it would be gone without a word.
    """
    if instance.id in fs.rules.fixed:
        raise SnapshotBusy(
            f"snapshot {instance.name!r} is mounted: unmount it first ('grep snapfs "
            "/proc/mounts' shows where)"
        )
    if instance.id in fs.rules.carriers:
        raise MountsInside(
            f"{fs.rules.carriers[instance.id]}: something is mounted there, in snapshot "
            f"{instance.name!r}: unmount it first"
        )


def delete(fs: Filesystem, name: str, *, permit: Permit = anyone) -> Instance:
    """Delete a snapshot: its name and its view are gone with the next commit, its space comes back
    in the background (A9).

    Raises ``NoSuchSnapshot``, ``SnapshotHeld``, ``SnapshotBusy``, ``ReadOnly``, and what ``permit``
    raises.
    """
    volume = fs.volume
    volume.check_writable()
    instance = deletable(fs, name, permit)
    volume.allocator.prepare(
        0, urgency=2, metadata=volume.dirtied + costs.of_instances(volume, grow=False)
    )
    leave(fs, instance)
    return instance


def deletable(fs: Filesystem, which: str | Instance, permit: Permit) -> Instance:
    """The snapshot, if it can be deleted now. Raises as ``delete``; ``CommitNeeded`` while a
    snapshot of it is being made.
    """
    instance = get(fs, which)
    check_permitted(fs, instance, permit)
    check_not_held(instance)
    check_not_scheduled(fs, instance)
    check_not_mounted(fs, instance)
    if any(one.origin == instance.id for one in fs.volume.instances.pending):
        raise CommitNeeded
    return instance


def leave(fs: Filesystem, instance: Instance) -> None:
    """Delete a snapshot that is ``deletable``; the caller has seen to the
    room for it. Cannot fail.
    """
    volume = fs.volume
    volume.instances.leave(instance)
    for other in volume.instances.table.values():
        if (
            other.origin == instance.id
        ):  # a snapshot of this snapshot: it is found where this one was
            other.origin = instance.origin
            volume.instances.dirty.add(other.id)
    fs.drop_view(instance.id)
    name_live(volume)
