"""What stores a volume's bytes: an image file, a block device, or memory.

Nothing here knows what the bytes mean.
"""

from snapfs.device.base import Device, is_memory
from snapfs.device.direct import DirectReader
from snapfs.device.image import ImageDevice, open_device
from snapfs.device.locking import Lock
from snapfs.device.memory import MemoryDevice
from snapfs.device.ram import RamDevice

__all__ = ["Device", "DirectReader", "ImageDevice", "Lock", "MemoryDevice", "RamDevice", "is_memory", "open_device"]
