"""The results of an experiment, for the terminal, for programs and as plots. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from resnet_hub.analysis.plots import Chart


class Finding(NamedTuple):
    """A statement of a paper, beside what was measured."""

    statement: str
    expected: str
    measured: str
    holds: bool | None  # None: for information, nothing is claimed


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an experiment, with what is needed to repeat it."""

    claim: str
    source: str  # the papers
    settings: Mapping[str, Any]
    findings: Sequence[Finding]
    numbers: Mapping[str, Any]  # everything measured, as types that JSON has
    charts: Mapping[str, Chart]  # by the name of the file
    hardware: str
    seconds: float
    date: str  # 2026-01-31

    def to_json(self) -> str:
        content = vars(self) | {
            "findings": [finding._asdict() for finding in self.findings],
            "charts": {name: chart.to_dict() for name, chart in self.charts.items()},
        }
        return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

    def to_text(self) -> str:
        """Format the findings as a table for the terminal."""
        rows = [("", "expected", "measured", "")]
        for finding in self.findings:
            verdict = {True: "holds", False: "does not hold", None: ""}[finding.holds]
            rows.append((finding.statement, finding.expected, finding.measured, verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(f"{row[i]:<{widths[i]}}" for i in range(3)), row[3]]).rstrip() for row in rows]
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines += ["", f"{settings}; {self.seconds:.0f} seconds on {self.hardware}, {self.date}", self.source]
        return "\n".join(lines) + "\n"
