"""The checker: walks everything, recomputes everything, and says where the volume disagrees. It
changes nothing.
"""

from snapfs.check.checker import check_volume
from snapfs.check.findings import Finding, Severity

__all__ = ["Finding", "Severity", "check_volume"]
