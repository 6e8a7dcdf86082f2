"""Makes dashboard, alerts, log-based metrics and channel what they should be: twice is as good as once.

What is there is read and compared first, so that the second time nothing is written, and `--dry-run` prints the
differences. Things are recognised by name: log-based metrics by their own, the channel by its address, alerts and
dashboard by label and signal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from himari_rl.cloud.config import CloudConfig
from himari_rl.cloud.dashboard import LABELS, TITLE, alerts, dashboard
from himari_rl.cloud.patience import LostAnswerError, Patience
from himari_rl.cloud.rest import RestApi
from himari_rl.cloud.signals import MonitorConfig, log_metrics
from himari_rl.errors import CloudError

MONITORING, LOGGING = "monitoring.googleapis.com", "logging.googleapis.com"
_OF_THE_SERVER = (
    "name",
    "etag",
    "creationRecord",
    "mutationRecord",
    "mutationRecords",
    "verificationStatus",
    "createTime",
    "updateTime",
    "version",
    "validity",
)


@dataclass(frozen=True)
class MonitorChange:
    """One thing that is not as it should be."""

    what: str
    verb: str
    """create or update."""
    differences: tuple[str, ...]
    apply: Callable[[], Any]


def changes(config: MonitorConfig, service: str, cloud: CloudConfig, patience: Patience) -> list[MonitorChange]:
    """What must be written for all of it to be right; nothing is written yet.

    Raises:
        CloudError: what is there cannot be read.
    """
    project = f"projects/{cloud.project_or_refusal()}"
    monitoring, logging = RestApi(cloud, MONITORING), RestApi(cloud, LOGGING)
    found = _Changes()
    for name, document in log_metrics(service).items():
        wanted = {"name": name, **document}
        path = f"v2/{project}/metrics/{quote(name, safe='')}"
        there = patience.repeat(partial(logging.call, "GET", path))
        found.compare(f"log-based metric {name}", wanted, there, partial(logging.call, "PUT", path, wanted))
    channels: list[dict[str, Any]] = []
    if config.email:
        listed = patience.repeat(
            partial(monitoring.pages, f"v3/{project}/notificationChannels", "notificationChannels")
        )
        channels = [c for c in listed if c.get("type") == "email" and _address(c) == config.email]
        channel = {
            "type": "email",
            "displayName": config.email,
            "labels": {"email_address": config.email},
            "enabled": True,
        }
        found.compare(
            f"channel {config.email}",
            channel,
            channels[0] if channels else None,
            _writing(monitoring, f"v3/{project}/notificationChannels", channel, channels, ""),
        )
    policies = patience.repeat(partial(monitoring.pages, f"v3/{project}/alertPolicies", "alertPolicies"))
    named = f"{TITLE} {service}: "  # whole: himari-rl is part of himari-rl-api's name
    own = {
        p["userLabels"].get("signal"): p
        for p in policies
        if _labelled(p) and str(p.get("displayName", "")).startswith(named)
    }
    for policy in alerts(config, service):
        signal = policy["userLabels"]["signal"]
        there = own.get(signal)
        if channels:
            policy["notificationChannels"] = [channels[0]["name"]]
        elif config.email:  # its name is known when it is made: see `apply_all`
            policy["notificationChannels"] = [config.email]
        found.compare(
            f"alert {policy['displayName']}",
            policy,
            there,
            _writing(monitoring, f"v3/{project}/alertPolicies", policy, [there] if there else [], "*"),
        )
    wanted = dashboard(config, service)
    boards = patience.repeat(partial(monitoring.pages, f"v1/{project}/dashboards", "dashboards"))
    mine = [
        b for b in boards if set(LABELS.values()) <= set(b.get("labels", {})) and f"({service}," in b["displayName"]
    ]
    found.compare(
        f"dashboard {wanted['displayName']}",
        wanted,
        mine[0] if mine else None,
        _writing(monitoring, f"v1/{project}/dashboards", wanted, mine, ""),
    )
    return found.all


def apply_all(config: MonitorConfig, service: str, cloud: CloudConfig, patience: Patience) -> list[MonitorChange]:
    """Writes what must be written. Returns it.

    Raises:
        CloudError: something is refused.
    """
    done: list[MonitorChange] = []
    for _ in range(patience.attempts):
        found = changes(config, service, cloud, patience)
        channel = [each for each in found if each.what.startswith("channel")]
        for each in channel or found:  # alerts name the channel by a name that it has only when it is made
            try:
                each.apply()
            except LostAnswerError as error:  # what was carried out is seen in the next round, and not made twice
                patience.tell(f"{error}; looking again")
                patience.pauses(1)
                break
            done.append(each)
        else:
            if not channel:
                return done
    raise CloudError(f"{MONITORING} did not answer {patience.attempts} times", "", "run it again: it goes on")


class _Changes:
    def __init__(self) -> None:
        self.all: list[MonitorChange] = []

    def compare(
        self, what: str, wanted: dict[str, Any], there: dict[str, Any] | None, write: Callable[[], Any]
    ) -> None:
        found = () if there is None else tuple(differences(wanted, there))
        if there is None or found:
            verb = "create" if there is None else "update"
            self.all.append(MonitorChange(what, verb, found, write))


def differences(wanted: Any, there: Any, path: str = "") -> list[str]:
    """Where two documents differ, apart from what only the server writes and from zeros that it leaves out."""
    if isinstance(wanted, dict) and isinstance(there, dict):
        names = [name for name in {**wanted, **there} if name in wanted or name not in _OF_THE_SERVER]
        return [
            line
            for name in names
            for line in differences(wanted.get(name), there.get(name), f"{path}.{name}" if path else name)
        ]
    if isinstance(wanted, list) and isinstance(there, list) and len(wanted) == len(there):
        pairs = enumerate(zip(wanted, there, strict=True))
        return [line for place, (one, other) in pairs for line in differences(one, other, f"{path}[{place}]")]
    if wanted == there or (not wanted and not there):
        return []
    return [f"{path}: {_short(there)} -> {_short(wanted)}"]


def _writing(
    api: RestApi, collection: str, wanted: dict[str, Any], there: list[dict[str, Any]], mask: str
) -> Callable[[], Any]:
    if not there:
        return lambda: api.call("POST", collection, wanted)
    name, etag = str(there[0]["name"]), there[0].get("etag")
    version = collection.partition("/")[0]
    document = {**wanted, "name": name, **({"etag": etag} if etag else {})}
    query = {"updateMask": ",".join(wanted)} if mask else {}
    return lambda: api.call("PATCH", f"{version}/{name}", document, **query)


def _address(channel: dict[str, Any]) -> str:
    return str(channel.get("labels", {}).get("email_address", ""))


def _labelled(policy: dict[str, Any]) -> bool:
    return bool(LABELS.items() <= policy.get("userLabels", {}).items())


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 160 else f"{text[:157]}..."
