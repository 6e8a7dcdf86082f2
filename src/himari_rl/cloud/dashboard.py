"""The dashboard and the alert policies as Cloud Monitoring's API takes them, made from the table of signals."""

from __future__ import annotations

from typing import Any

from himari_rl.cloud.signals import CARD, SIGNALS, MonitorConfig, WatchedSignal

COLUMNS, WIDE, HIGH = 48, 24, 16
LABELS = {"product": "himari-rl"}
TITLE = "HIMARI RL"
_FOUR = ("prediction_latency", "position_multiplier", "api_errors", "fallback_count")


def query_of(signal: WatchedSignal, config: MonitorConfig, service: str) -> str:
    """A signal's PromQL, every blank filled in."""
    return signal.query(config.profile, service).replace("@QUIET@", str(config.quiet_hours))


def threshold(signal: WatchedSignal, config: MonitorConfig) -> float:
    """Where a signal alarms."""
    name = signal.steady_limit if config.profile == "steady" and signal.steady_limit else signal.limit
    return float(name) if name.isdigit() else float(getattr(config, name))


def dashboard(config: MonitorConfig, service: str) -> dict[str, Any]:
    """Two tiles a row, the card's four first, each with its threshold drawn in."""
    tiles = []
    for place, signal in enumerate(SIGNALS):
        chart: dict[str, Any] = {
            "dataSets": [
                {
                    "timeSeriesQuery": {"prometheusQuery": query_of(signal, config, service)},
                    "plotType": "LINE",
                    "targetAxis": "Y1",
                }
            ],
            "yAxis": {"label": signal.unit, "scale": "LINEAR"},
        }
        if signal.alarm:
            chart["thresholds"] = [{"value": threshold(signal, config)}]
        name = f"{CARD}{signal.title}" if signal.key in _FOUR else signal.title
        tiles.append(
            {
                "xPos": WIDE * (place % 2),
                "yPos": HIGH * (place // 2),
                "width": WIDE,
                "height": HIGH,
                "widget": {"title": name, "xyChart": chart},
            }
        )
    return {
        "displayName": f"{TITLE} ({service}, {config.profile})",
        "labels": dict.fromkeys(LABELS.values(), ""),
        "mosaicLayout": {"columns": COLUMNS, "tiles": tiles},
    }


def alerts(config: MonitorConfig, service: str) -> list[dict[str, Any]]:
    """One alert policy for each signal that can alarm."""
    return [_alert(signal, config, service) for signal in SIGNALS if signal.alarm]


def _alert(signal: WatchedSignal, config: MonitorConfig, service: str) -> dict[str, Any]:
    limit = threshold(signal, config)
    query = f"({query_of(signal, config, service)}) {signal.alarm} {limit:g}"
    return {
        "displayName": f"{TITLE} {service}: {signal.title} {signal.alarm} {limit:g}",
        "combiner": "OR",
        "enabled": True,
        "userLabels": {**LABELS, "signal": signal.key},
        "documentation": {"content": f"{signal.cure}.", "mimeType": "text/markdown"},
        "conditions": [
            {
                "displayName": signal.title,
                "conditionPrometheusQueryLanguage": {
                    "query": query,
                    "duration": signal.lasts,
                    "evaluationInterval": "60s",
                },
            }
        ],
    }
