"""snapfs: a filesystem in one image whose past states are directories under ``.snap``."""

__version__ = "0.1.0"
