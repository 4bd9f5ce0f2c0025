"""Chromium without a window, steered over its debugging pipe, with a record of all that it complains of or fetches."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--disable-sync"),
    "--remote-debugging-pipe",
)
_PATIENCE = 300  # seconds for any answer, on a busy machine


class Chromium:
    """One page in one browser; `with Chromium(binary, folder) as browser`.

    Attributes:
        complaints: What the console, the page's errors and its policy said.
        requests: Addresses of everything that was asked for, but data in the page itself.
    """

    def __init__(self, binary: str, folder: Path) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._held, self._number, self._session = b"", 0, None
        self._arrived: dict[int, dict[str, Any]] = {}
        command = [binary, *_OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        # The browser reads from 3 and writes to 4, whatever numbers the pipes have here.
        script = f'exec 8<&{commands} 9>&{answers}; exec 3<&8 4>&9 8<&- 9>&-; exec "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *command], pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE)
        os.close(self._to)
        os.close(self._from)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command of the DevTools protocol."""
        self._number += 1
        session = {"sessionId": self._session} if self._session and not method.startswith("Browser") else {}
        message = {"id": self._number, "method": method, "params": parameters, **session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while self._number not in self._arrived:
            self._read()
        answer = self._arrived.pop(self._number)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path: Path, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Open a file in a window of that size."""
        mobile = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri())
        end = time.monotonic() + _PATIENCE
        while not self.run(f"document.readyState === 'complete' && location.href === {json.dumps(path.as_uri())}"):
            assert time.monotonic() < end, "the page does not end loading"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and let go of a key such as "ArrowRight", "Enter", "Escape"."""
        code = {"ArrowRight": 39, "ArrowLeft": 37, "Enter": 13, "Tab": 9, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def point(self, x: float, y: float) -> None:
        """Move the pointer there, in pixels of the window."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, **clip: float) -> None:
        """The window, or the part of the page at x, y, width, height, as a PNG file."""
        part = {"clip": {**clip, "scale": 1}, "captureBeyondViewport": True} if clip else {}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", **part)["data"]))

    def _read(self) -> None:
        assert select.select([self._from], [], [], _PATIENCE)[0], "the browser does not answer"
        found = os.read(self._from, 1 << 20)
        assert found, "the browser has ended"
        *whole, self._held = (self._held + found).split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self._arrived[message["id"]] = message
            else:
                self._note(message["method"], message["params"])

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith("data:"):
            self.requests.append(parameters["request"]["url"])
        elif method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(parameters))
