"""Chromium without a window, asked over a pipe: what a page loads, what it complains of, what does not fit.

Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol/: one JSON document a message, each ended
by a zero byte, on the descriptors 3 and 4 (--remote-debugging-pipe). Scripts of the protocol run whatever the page's
own content security policy forbids.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-quic --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions --hide-scrollbars --remote-debugging-pipe"
)
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_LOOK = """(() => {
  const wide = document.documentElement.clientWidth, named = e => e.tagName + ": " + e.textContent.slice(0, 60);
  const shown = [...document.body.querySelectorAll("*")].filter(e => {
    const box = e.getBoundingClientRect(); return box.width > 1 && box.height > 1; });
  return {
    width: wide,
    scrolls: document.documentElement.scrollWidth > wide,
    outside: shown.filter(e => { const b = e.getBoundingClientRect(); return b.right > wide + .5 || b.left < -.5; })
      .map(named),
    cut: shown.filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && !(e instanceof SVGElement)
      && getComputedStyle(e).display !== "inline").map(named),
    text: document.body.innerText,
  };
})()"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A page in a window of one width."""

    width: int
    asked: list[str]  # addresses that were requested
    complaints: list[str]  # console errors and warnings, exceptions, what the security policy forbade
    scrolls: bool  # sideways
    outside: list[str]  # elements beyond either edge
    cut: list[str]  # elements whose content is wider than they are
    text: str


def chromium() -> str:
    """Where it is; skips the test where there is none."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine")


class Browser:
    """One process of it."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._number, self._rest = to, back, 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        said = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(said | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def until(self, method: str) -> None:
        """Waits for an event."""
        while not any(event["method"] == method for event in self.events):
            self._next()

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._rest:
            assert select.select([self._back], [], [], max(0.0, end - time.monotonic()))[0], "the browser is silent"
            read = os.read(self._back, 1 << 16)
            assert read, "the browser has ended"
            self._rest += read
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found

    def look(self, url: str, width: int, height: int = 900) -> Seen:
        """A page, once it has loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", session, **size)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session)
        self.events.clear()
        self.call("Page.navigate", session, url=url)
        self.until("Page.loadEventFired")
        found = self.call("Runtime.evaluate", session, expression=_LOOK, returnByValue=True)["result"]["value"]
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        entries = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        complaints = [each["text"] for each in entries if each["level"] in ("error", "warning")]
        words = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        complaints += [json.dumps(e["params"]) for e in self.events if e["method"] in words]
        self.call("Target.closeTarget", targetId=target)
        return Seen(asked=asked, complaints=complaints, **found)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Chromium with a profile of its own in a folder; skips the test where there is none."""
    program, (ours, to), (back, theirs) = chromium(), os.pipe(), os.pipe()
    high = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (ours, theirs)]  # not where 3 and 4 will be
    words = [sys.executable, "-c", _LAUNCH, *map(str, high), program, *FLAGS.split(), f"--user-data-dir={folder}"]
    with (folder / "stderr").open("wb") as log:
        process = subprocess.Popen(words, pass_fds=high, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for each in (ours, theirs, *high):
        os.close(each)
    try:
        yield Browser(to, back)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        for each in (to, back):
            os.close(each)
