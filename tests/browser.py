"""A real Chromium for tests: chromedriver is spoken to by its HTTP interface (W3C WebDriver)."""

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 60  # no test waits longer for the page
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the name that WebDriver gives to references
KEYS = {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Tab": "\ue004",
        "Enter": "\ue007", "Escape": "\ue00c", "Shift": "\ue008"}


class Browser:
    """One window."""

    def __init__(self, address: str, session: str):
        self.session = f"{address}/session/{session}"

    def call(self, method: str, path: str, **body):
        """Send one command and return its value."""
        return _send(method, self.session + path, None if method == "GET" else body)

    def open(self, page: Path) -> None:
        """Open a file, and wait until it says that it has drawn. What was logged before is forgotten."""
        self.call("POST", "/url", url="about:blank")
        self.errors(), self.requests()
        self.call("POST", "/url", url=Path(page).resolve().as_uri())
        self.until("return document.body.dataset.ready === 'yes'")

    def run(self, script: str, *args):
        """Run JavaScript in the page, and return what it returns."""
        return self.call("POST", "/execute/sync", script=script, args=list(args))

    def until(self, script: str, *args):
        """Wait until the script returns something true, and return that."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(script, *args)):
            assert time.monotonic() < end, f"never became true: {script}; {self.errors()}"
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def move(self, selector: str, x: float, y: float, click: bool = False) -> None:
        """Move the mouse to a place in an element, given as shares of its width and height; click there."""
        box = self.run("const e = document.querySelector(arguments[0]); e.scrollIntoView({block: 'center'});"
                       "const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]", selector)
        actions = [{"type": "pointerMove", "duration": 0, "x": round(box[0] + x * box[2]),
                    "y": round(box[1] + y * box[3])}]
        if click:
            actions += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.call("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def press(self, *keys: str) -> None:
        """Press keys one after the other, by the names of KEYS or as characters."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def choose(self, selector: str, value: str) -> None:
        """Give a slider, box or list a value, as a person would."""
        self.run("const e = document.querySelector(arguments[0]);"
                 "if (e.type === 'checkbox') { if (e.checked !== (arguments[1] === 'yes')) e.click(); return; }"
                 "e.value = arguments[1];"
                 "for (const n of ['input', 'change']) e.dispatchEvent(new Event(n, {bubbles: true}))", selector, value)

    def resize(self, width: int, height: int) -> None:
        self.call("POST", "/window/rect", width=width, height=height)

    def scheme(self, name: str) -> None:
        """Make the page believe that the person prefers "light" or "dark"."""
        self.call("POST", "/goog/cdp/execute", cmd="Emulation.setEmulatedMedia",
                  params={"features": [{"name": "prefers-color-scheme", "value": name}]})

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("GET", "/screenshot"))

    def errors(self) -> list[str]:
        """The errors that the page has logged to the console since the last call."""
        entries = self.call("POST", "/se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses that the page has asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.call("POST", "/se/log", type="performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def _send(method: str, url: str, body: dict | None = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{method} {url}: {error.read().decode()[:500]}") from None


@contextlib.contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A headless Chromium. Skips the test where there is none."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and program):
        pytest.skip("no chromium or chromedriver here: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                   env=os.environ | {"HOME": profile})
        try:
            said = iter(process.stdout.readline, "")
            port = next(match[1] for line in said if (match := re.search(r"successfully on port (\d+)", line)))
            address = f"http://127.0.0.1:{port}"
            flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     f"--window-size={width},{height}", f"--user-data-dir={profile}/profile"]
            wanted = {"browserName": "chrome", "goog:chromeOptions": {"binary": program, "args": flags},
                      "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            session = _send("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            browser = Browser(address, session)
            yield browser
            browser.call("DELETE", "")
        finally:
            process.terminate()
            process.wait()
