"""What stores a volume's bytes: an image file, a block device, or memory.

Nothing here knows what the bytes mean.
"""

from snapfs.device.base import Device, is_memory
from snapfs.device.direct import DirectReader
from snapfs.device.image import ImageDevice, open_device, open_pinned, pin_image
from snapfs.device.locking import Lock
from snapfs.device.memory import MemoryDevice
from snapfs.device.pinned import Pinned, pin, pin_name
from snapfs.device.ram import RamDevice

__all__ = [
    "Device",
    "DirectReader",
    "ImageDevice",
    "Lock",
    "MemoryDevice",
    "Pinned",
    "RamDevice",
    "is_memory",
    "open_device",
    "open_pinned",
    "pin",
    "pin_image",
    "pin_name",
]
