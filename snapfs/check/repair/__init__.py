"""Repair: what is derived is written anew, what has lost its name is found again, and only what
cannot be read is dropped.
"""

from snapfs.check.repair.rounds import Repaired, repair_volume
from snapfs.check.repair.undo import UndoDevice, undo

__all__ = ["Repaired", "UndoDevice", "repair_volume", "undo"]
