"""What a check can find: one typed value each, with the invariant that it breaks."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Severity(enum.StrEnum):
    """How bad it is: ``error`` threatens files, ``warning`` wastes space or misinforms."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """``invariant`` is "I1" to "I10" as numbered in DESIGN.md, or "format" for a structure that cannot be read or makes no sense."""

    invariant: str
    rule: str
    place: str
    detail: str
    severity: Severity = Severity.ERROR

    def message(self) -> str:
        """One line for people."""
        return f"{self.severity}: {self.place}: {self.detail} ({self.rule}, {self.invariant})"


@dataclass(slots=True)
class Findings:
    """Collects findings; of each rule, so many that one can see what is wrong without drowning in it."""

    limit: int = 1000
    found: list[Finding] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, invariant: str, rule: str, place: str, detail: str, severity: Severity = Severity.ERROR) -> None:
        """Note one finding."""
        count = self._counts[rule] = self._counts.get(rule, 0) + 1
        if count <= self.limit:
            self.found.append(Finding(invariant, rule, place, detail, severity))
