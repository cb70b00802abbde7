# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""A headless Chromium for the tests of pages, driven by its DevTools protocol over a pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "PageDown": 34, "Tab": 9}


class Browser:
    """One page in a browser. Messages of the protocol are JSON, each ended by a zero byte."""

    def __init__(self, write: int, read: int):
        self.write, self.read = write, read
        self.received = b""
        self.count = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            if not select.select([self.read], [], [], PATIENCE)[0]:
                raise TimeoutError(f"Chromium has not answered for {PATIENCE} seconds.")
            part = os.read(self.read, 1 << 20)
            if not part:
                raise RuntimeError("Chromium has ended.")
            self.received += part
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def open(self, page: Path, fragment: str = "", width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Opens a page of this package's, and waits until it is drawn."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.as_uri() + (f"#{fragment}" if fragment else ""))
        self.evaluate(
            "new Promise((done) => { const look = () => document.body?.dataset.ready ? done() : setTimeout(look, 10);"
            " look(); })"
        )

    def problems(self) -> list[str]:
        """Everything that was thrown, logged as an error or asked of the network since the page was opened."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or (
                method == "Log.entryAdded" and params["entry"]["level"] == "error"
            ):
                found.append(json.dumps(params))
            if method == "Network.requestWillBeSent":
                address = params["request"]["url"]
                if not address.startswith(("file:", "data:", "about:", "blob:")):
                    found.append(address)
        return found

    def point_at(self, x: float, y: float, click: bool = False) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle_of(self, element: str) -> tuple[float, float]:
        """Scrolls the element that an expression gives into the middle of the window, and returns its own middle."""
        x, y = self.evaluate(
            f"(() => {{ const element = {element}; element.scrollIntoView({{block: 'center'}});"
            " const box = element.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return x, y

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with its profile in `folder`; it ends with the block."""
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    options += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]

    def connect() -> None:  # the numbers that Chromium expects its pipe under
        read, write = os.dup(their_read), os.dup(their_write)
        os.dup2(read, 3)
        os.dup2(write, 4)

    with open(os.devnull, "wb") as nowhere:
        process = subprocess.Popen(
            [str(CHROMIUM), *options], preexec_fn=connect, close_fds=False, stdout=nowhere, stderr=nowhere
        )
    os.close(their_read)
    os.close(their_write)
    try:
        yield Browser(our_write, our_read)
    finally:
        os.close(our_write)
        process.terminate()
        process.wait(timeout=30)
        os.close(our_read)
