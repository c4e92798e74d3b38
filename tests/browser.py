"""A real browser for tests of pages: Chromium, told what to do through a pipe.

One idea: Chromium speaks the DevTools protocol over two pipes (--remote-debugging-pipe): JSON
messages that end in a zero byte. So no driver and no package is needed.

Used by test_report_live.py. Left out: other browsers.
"""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """The path of a Chromium; None if this machine has none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A headless Chromium with one tab, and no network. Use it in a `with`."""

    def __init__(self, folder: Path):
        to_browser, self.out = os.pipe()
        self.into, from_browser = os.pipe()
        command = [find_browser(), "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--no-first-run", "--disable-dev-shm-usage", "--disable-extensions"]
        command += ["--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]

        def plug() -> None:  # the browser reads from 3 and writes to 4
            os.dup2(os.dup(to_browser), 3)
            os.dup2(os.dup(from_browser), 4)

        # A copy first: 3 or 4 may be one of the four ends.
        ends = os.dup(to_browser), os.dup(from_browser)
        os.close(to_browser), os.close(from_browser)
        to_browser, from_browser = ends
        self.process = subprocess.Popen(
            command,
            preexec_fn=plug,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser), os.close(from_browser)
        self.buffer, self.number, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tab(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *error) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out), os.close(self.into)

    def call(self, method: str, session: str | None = None, **parameters) -> dict:
        """One command and its result; what else arrives goes to `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def receive(self) -> dict:
        while b"\0" not in self.buffer:
            more = os.read(self.into, 1 << 20)
            assert more, "the browser has gone"
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def tab(self, method: str, **parameters) -> dict:
        return self.call(method, self.session, **parameters)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """The size of the screen, and whether the reader likes it dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.tab("Emulation.setDeviceMetricsOverride", mobile=width < 500, **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tab("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path, anchor: str = "") -> None:
        """Open a file, and wait until it is there."""
        self.tab("Page.navigate", url="about:blank")
        self.tab("Page.navigate", url=path.resolve().as_uri() + anchor)
        self.wait_for("document.readyState === 'complete' && location.protocol === 'file:'")

    def run(self, script: str):
        """The value of a piece of JavaScript, or of its promise."""
        answer = self.tab(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 300) -> None:
        """Until a piece of JavaScript is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def picture(self, path: Path, selector: str = "html") -> None:
        """A screenshot of one element as PNG."""
        place = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        sides = f"[{place}].map((r) => [r.x + scrollX, r.y + scrollY, r.width, r.height])[0]"
        x, y, width, height = self.run(sides)
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        answer = self.tab("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def printed(self) -> bytes:
        """The page as PDF on A4."""
        return base64.b64decode(
            self.tab("Page.printToPDF", paperWidth=8.27, paperHeight=11.7)["data"]
        )

    def problems(self) -> list[str]:
        """Errors, console messages and requests since the start, but for the page itself."""
        self.run("0")  # what was on its way arrives first
        found = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(parameters)[:500])
            if method == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not url.startswith(("file:", "data:", "about:", "blob:")):
                    found.append(f"request: {url}")
        return found
