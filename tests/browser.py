"""A headless Chromium, driven by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WORDS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
LIMIT_S = 60.0
# a browser reads commands from descriptor 3 and writes answers to 4
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], [*sys.argv[3:-1], "--user-data-dir=" + sys.argv[-1]])
"""


def chromium() -> str | None:
    """Return the program; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Page:
    """One page: `open` it, `run` expressions in it, look at `faults` and `picture`.

    Args:
        into: descriptor that commands are written to.
        outof: descriptor that answers are read from.
    """

    def __init__(self, into: int, outof: int) -> None:
        self._into, self._outof, self._rest, self._count = into, outof, b"", 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        said: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            said["sessionId"] = self._session
        os.write(self._into, json.dumps(said).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._events.append(answer)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + LIMIT_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._outof], [], [], max(end - time.monotonic(), 0))
            more = os.read(self._outof, 1 << 20) if ready else b""
            if not more:
                raise TimeoutError(f"no answer of the browser in {LIMIT_S:g} s")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def size(self, width: int, height: int) -> None:
        """Set the window in pixels; narrow ones count as a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def open(self, path: Path) -> None:
        """Open a file from disk."""
        url = path.absolute().as_uri()
        self.call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState !== 'loading'")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, expression: str, limit_s: float = LIMIT_S) -> float:
        """Wait until an expression is true; return the seconds that it took."""
        began = time.monotonic()
        while not self.run(expression):
            if time.monotonic() - began > limit_s:
                raise TimeoutError(f"{expression}: not true after {limit_s:g} s; {self.faults()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def faults(self) -> list[str]:
        """Return what the page complained of: console errors, exceptions, refused loads."""
        found = []
        for event in self._events:
            said = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(said["exceptionDetails"])[:500])
            elif event.get("method") == "Runtime.consoleAPICalled" and said["type"] == "error":
                found.append(json.dumps(said["args"])[:500])
            elif event.get("method") == "Log.entryAdded" and said["entry"]["level"] == "error":
                found.append(said["entry"]["text"])
        return found

    def loaded(self) -> list[str]:
        """Return the addresses of all that was asked for, data in the page left out."""
        asked = [
            e["params"] for e in self._events if e.get("method") == "Network.requestWillBeSent"
        ]
        addresses = [str(params["request"]["url"]) for params in asked]
        return [url for url in addresses if not url.startswith(("data:", "blob:"))]

    def picture(self, whole: bool = False) -> bytes:
        """Return a PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """Start a browser and give a blank page; end it afterwards.

    Args:
        program: from `chromium`.
        profile: an empty folder for its files.
    """
    (read, into), (outof, write) = os.pipe(), os.pipe()
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (read, write)]
    for end in (read, write):
        os.close(end)
    started = subprocess.Popen(
        [sys.executable, "-c", START, *map(str, theirs), program, *WORDS, str(profile)],
        pass_fds=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for end in theirs:
        os.close(end)
    try:
        yield Page(into, outof)
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()
        for end in (into, outof):
            os.close(end)
