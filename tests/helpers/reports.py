"""Reports of experiments, looked at as a reader does."""

import json

from resnet_hub.analysis.experiment_report import Report, plot_chart


def is_whole(report: Report) -> bool:
    content = json.loads(report.to_json())
    text = report.to_text()
    return (
        content["claim"] == report.claim
        and all(finding.statement in text for finding in report.findings)
        and all(min(plot_chart(chart).size) > 300 for chart in report.charts.values())
        and report.source.split(",")[0] in text
    )
