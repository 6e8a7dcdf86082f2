"""Pictures of the pages for docs/img, made by a headless Chromium: python docs/screenshots.py RUN/report.html [NAME].

Each page at 1280 and at 400 pixels, in the light and in the dark. The browser is spoken to in its own protocol (Chrome
DevTools, JSON over two pipes), so that nothing but Chromium is needed; the tests of the pages use it too.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS, SCHEMES = (1280, 400), ("light", "dark")
MOST = 2000  # pixels of height of a picture: the page goes on
PLACE = Path(__file__).resolve().parent / "img"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars --remote-debugging-pipe"
)
SILENT_S = 120  # of a machine that does much else
CUT_OFF = """
(() => {
  const wide = [], root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) wide.push(`page: ${root.scrollWidth} > ${root.clientWidth}`);
  for (const each of document.querySelectorAll('body *')) {
    const style = getComputedStyle(each);
    if (style.display === 'inline' || each.closest('svg, .u-over, .u-under, details:not([open])')) continue;
    if (each.clientWidth > 1 && each.scrollWidth > each.clientWidth + 1)
      wide.push(`${each.tagName.toLowerCase()}.${each.className}: ${each.scrollWidth} > ${each.clientWidth}`);
  }
  return wide;
})()
"""
"""Whatever is wider than the place it has; what one pixel wide is there for a screen reader alone."""


def chromium() -> str | None:
    """The browser's path, where there is one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One tab. `said` holds what went wrong in it, `asked` every address outside the file that it wanted."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.process, self._to, self._back = process, to, back
        self._rest, self._count, self._session = b"", 0, ""
        self.said: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """One command and its answer; what happens meanwhile is noted."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._count:
                if "error" in got:
                    raise RuntimeError(f"{method}: {got['error']['message']}")
                return got["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._back], [], [], SILENT_S)[0]:
                raise RuntimeError(f"the browser has said nothing for {SILENT_S} s")
            some = os.read(self._back, 1 << 20)
            if not some:
                raise RuntimeError("the browser has gone")
            self._rest += some
        one, _, self._rest = self._rest.partition(b"\0")
        got: dict[str, Any] = json.loads(one)
        self._note(got.get("method", ""), got.get("params", {}))
        return got

    def _note(self, event: str, of: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = of["exceptionDetails"]
            self.said.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and of["type"] in ("error", "warning", "assert"):
            self.said.append(" ".join(str(each.get("value", each)) for each in of["args"]))
        elif event == "Log.entryAdded" and of["entry"]["level"] in ("error", "warning"):
            self.said.append(of["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            url = of["request"]["url"]
            if not url.startswith(("file:", "data:", "about:", "blob:")):
                self.asked.append(url)

    def run(self, script: str) -> Any:
        """The value of a script."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return answer["result"].get("value")

    def open(self, page: Path | str, width: int, scheme: str = "light") -> None:
        """Loads a file or an address at a width and in a colour scheme, and waits until it is drawn: a page that draws
        says `data-ready="no"` until then."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        ready = "document.readyState === 'complete' && document.documentElement.dataset.ready !== 'no'"
        self.run(f"new Promise(done => {{ const look = () => {ready} ? done() : setTimeout(look, 20); look(); }})")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def picture(self, most: int | None = None) -> bytes:
        """The whole page as PNG, or as much of it as `most` pixels of height hold."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], most or size["height"])}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip={**clip, "scale": 1})
        return base64.b64decode(shot["data"])

    def print(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)["data"])


@contextmanager
def browser(path: str) -> Iterator[Browser]:
    """A headless Chromium with one tab."""
    from_us, to = os.pipe()
    back, from_it = os.pipe()

    def wire() -> None:  # the protocol is spoken on 3 and 4
        high = [os.dup(fd) for fd in (from_us, from_it)]
        for place, fd in zip((3, 4), high, strict=True):
            os.dup2(fd, place)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [path, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            command, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(from_us)
        os.close(from_it)
        try:
            yield Browser(process, to, back)
        finally:
            process.terminate()
            process.wait()
            os.close(to)
            os.close(back)


def main(argv: list[str] | None = None) -> int:
    """Writes docs/img/NAME-WIDTH-SCHEME.png."""
    asked = sys.argv[1:] if argv is None else argv
    path = chromium()
    if not asked or path is None:
        sys.stderr.write("python docs/screenshots.py PAGE.html [NAME] [FOLDER]; needs Chromium\n")
        return 2
    page = Path(asked[0]).resolve()
    name = asked[1] if len(asked) > 1 else page.stem
    place = Path(asked[2]) if len(asked) > 2 else PLACE
    place.mkdir(parents=True, exist_ok=True)
    with browser(path) as tab:
        for width in WIDTHS:
            for scheme in SCHEMES:
                tab.open(page, width, scheme)
                (place / f"{name}-{width}-{scheme}.png").write_bytes(tab.picture(MOST))
                for line in (*tab.run(CUT_OFF), *tab.said, *tab.asked):
                    sys.stdout.write(f"{width} {scheme}: {line}\n")
                tab.said.clear()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
