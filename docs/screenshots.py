"""Pictures of the pages for docs/img, made by a headless Chromium.

    make docs && python docs/screenshots.py                 every page, of synthetic bars that it makes itself
    python docs/screenshots.py RUN/report.html [NAME] [FOLDER]      one page, at both widths and in both schemes

Run card, `evaluate --html`, `certify --html`, the index of runs and the runner's live page come from the commands that
anybody runs, on a market that is named synthetic on every page. The browser is spoken to in its own protocol (Chrome
DevTools, JSON over two pipes), so that the tests of the pages, which use it too, need nothing but Chromium.
"""

from __future__ import annotations

import base64
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS, SCHEMES = (1280, 400), ("light", "dark")
MOST = 1400  # pixels of height of a picture: the page goes on
COLOURS = 64
BUDGET = 1_500_000  # bytes of all pictures together
SHOWN = {  # which pictures stand in docs/img: both widths, and both schemes
    "run_card": ((1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")),
    "evaluation": ((1280, "light"), (400, "dark")),
    "certification": ((1280, "light"), (400, "dark")),
    "runs": ((1280, "light"), (400, "dark")),
    "live": ((1280, "light"), (400, "dark")),
}
ROWS, LIVE_ROWS = 9_000, 200  # synthetic hours: a year, and the last of them as a stream
PLACE = Path(__file__).resolve().parent / "img"
HOME, HOME_SHOWN = PLACE.parents[1] / "build" / "site" / "index.html", ((1280, "light"), (400, "light"))
"""Of the documentation, as `make docs` builds it."""
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


def squeezed(picture: bytes) -> bytes:
    """The same picture in 64 colours of its own: a third of the bytes. Needs Pillow, which comes with TensorBoard."""
    from PIL import Image

    found = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    out = io.BytesIO()
    found.save(out, "png", optimize=True)
    return out.getvalue()


def himari(folder: Path, *words: str) -> None:
    """One command, in a folder of its own."""
    done = subprocess.run([sys.executable, "-m", "himari_rl", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: refused by a gate, which is a page too
        raise RuntimeError(f"himari {' '.join(words)}: {done.stderr[-500:]}")


@contextmanager
def pages(folder: Path, rows: int = ROWS) -> Iterator[dict[str, Path | str]]:
    """Every page by name: files, and the address of a runner that has sized a few days."""
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.data.table import write_bars
    from himari_rl.features.signals import with_signals

    market = with_signals(synthetic_bars(rows, seed=0))
    bars, before = folder / f"{market.symbol}_1h.csv", folder / "before" / f"{market.symbol}_1h.csv"
    before.parent.mkdir()
    write_bars(market, bars)
    write_bars(market[:-LIVE_ROWS], before)
    judged = ["--data", str(bars), "--train", "6mo", "--test", "1mo", "--folds", "4", "--num-episodes", "100"]
    himari(folder, "walk-forward", "base", *judged, "--seeds", "2", "--out", "runs/base")
    himari(folder, "walk-forward", "base", *judged, "--seeds", "1", "--allow-short", "--out", "runs/short")
    himari(folder, "report", "runs/base", "--out", "run_card.html")
    himari(folder, "runs", "runs", "--html", "runs.html")
    himari(folder, "train", "base", "--data", str(bars), "--num-episodes", "100", "--out", "trained")
    himari(folder, "evaluate", "trained/bundle", "--data", str(bars), "--html", "evaluation.html")
    himari(folder, "certify", "base", "--market", "M1", "M2", "--seeds", "2", "--html", "certification.html")
    files = {name: folder / f"{name}.html" for name in SHOWN if name != "live"}
    with runner(folder, before) as address:
        for row in range(len(market) - LIVE_ROWS, len(market)):
            told(address, market, row)
        yield {**files, "live": f"{address}/ui"}


@contextmanager
def runner(folder: Path, history: Path) -> Iterator[str]:
    """The address of a runner on the trained bundle."""
    words = ["run", "--bundle", "trained/bundle", "--clock", "bar", "--port", "0", "--history", str(history)]
    command = [sys.executable, "-m", "himari_rl", *words, "--journal", "journal.sqlite"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = ""
    try:
        for line in process.stderr or ():
            said += line
            if line.startswith("Listening"):
                yield line.split()[1].removesuffix("/signals")
                break
        else:
            raise RuntimeError(f"the runner has not begun to listen: {said[-500:]}")
    finally:
        process.terminate()
        process.wait()


def told(address: str, market: Any, row: int) -> None:
    """Sends one closed bar with its signal."""
    said = market.signals
    bar = {name: float(getattr(market, name)[row]) for name in ("open", "close", "volume")}
    signal = {
        "action": ("SELL", "HOLD", "BUY")[said.action[row] + 1],
        "confidence": float(said.confidence[row]),
        "tier": f"T{said.tier[row]}",
        "cascade_risk": float(said.cascade_risk[row]),
    }
    whole = {"strategy": "trend", "symbol": market.symbol, "bar": {"timestamp": int(market.timestamp[row])} | bar}
    asked = urllib.request.Request(f"{address}/signals", json.dumps(whole | {"signal": signal}).encode())
    with urllib.request.urlopen(asked, timeout=SILENT_S) as answer:  # our own process, over http
        answer.read()


def shoot(tab: Browser, page: Path | str, name: str, place: Path, shown: Any, cut_off: str = CUT_OFF) -> list[str]:
    """Writes PLACE/NAME-WIDTH-SCHEME.png; what is wrong with the page, a line each.

    Args:
        cut_off: a script that lists what is wider than its place.
    """
    found = []
    for width, scheme in shown:
        tab.said.clear()
        tab.asked.clear()
        tab.open(page, width, scheme)
        (place / f"{name}-{width}-{scheme}.png").write_bytes(squeezed(tab.picture(MOST)))
        others = [each for each in tab.asked if each != page]
        found += [f"{name} {width} {scheme}: {line}" for line in (*tab.run(cut_off), *tab.said, *others)]
    return found


def main(argv: list[str] | None = None) -> int:
    """Writes docs/img/NAME-WIDTH-SCHEME.png. Exit code 1 where something is wrong with a page, or all are too large."""
    asked = sys.argv[1:] if argv is None else argv
    path = chromium()
    if path is None:
        sys.stderr.write("python docs/screenshots.py [PAGE.html [NAME] [FOLDER]]; needs Chromium\n")
        return 2
    place = Path(asked[2]) if len(asked) > 2 else PLACE
    place.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder, browser(path) as tab:
        if asked:
            page = Path(asked[0]).resolve()
            every = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]
            found += shoot(tab, page, asked[1] if len(asked) > 1 else page.stem, place, every)
        else:
            with pages(Path(folder)) as made:
                for name, shown in SHOWN.items():
                    found += shoot(tab, made[name], name, place, shown)
            if HOME.is_file():  # its theme scrolls within a page, by design
                found += shoot(tab, HOME, "docs_home", place, HOME_SHOWN, "[]")
            else:
                found.append("docs_home: make docs builds it first")
    total = sum(each.stat().st_size for each in place.glob("*.png"))
    found += [f"{total:,} bytes of pictures; at most {BUDGET:,}"] if total > BUDGET and not asked else []
    sys.stdout.write("".join(f"{line}\n" for line in found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
