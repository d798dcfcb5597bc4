"""A browser without a window, driven over its own pipe: no library and no network needed.

    with browser.Browser(width=1280) as page:
        page.open(path)
        page.run("document.title")
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def program():
    """The browser's program, or None."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """One page. `problems` collects what the console and the page complain of."""

    def __init__(self, width=1280, height=900, phone=False, dark=False, timeout=120):
        self.size, self.phone, self.dark, self.timeout = (width, height), phone, dark, timeout
        self.problems, self.count, self.buffer, self.session = [], 0, b"", None
        self.own = ("file:", "data:")  # addresses that need no network

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="formwork-browser-", ignore_cleanup_errors=True) \
            if os.sys.version_info >= (3, 10) else tempfile.TemporaryDirectory(prefix="formwork-browser-")
        to_read, self.to = os.pipe()
        self.back, to_write = os.pipe()

        def wire():  # the browser reads file descriptor 3 and writes 4
            os.dup2(to_read, 100)
            os.dup2(to_write, 101)
            os.dup2(100, 3)
            os.dup2(101, 4)

        self.process = subprocess.Popen(
            [program(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--no-first-run", "--disable-dev-shm-usage", "--remote-debugging-pipe",
             f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=wire, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=self.size[0], height=self.size[1],
                  deviceScaleFactor=1, mobile=self.phone)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}])
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.back)
        self.profile.cleanup()

    def _message(self, deadline):
        while b"\0" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.back], [], [], left)[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self.back, 1 << 20)
            if not data:
                raise RuntimeError("the browser ended")
            self.buffer += data
        text, self.buffer = self.buffer.split(b"\0", 1)
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(str(params["args"]))
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith(self.own):
            self.problems.append("asked the network for " + params["request"]["url"])
        return message

    def call(self, method, **params):
        """Calls one method of the DevTools protocol and returns its result."""
        self.count += 1
        number = self.count
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self._message(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path):
        """Opens a file, or an address http://127.0.0.1..., and waits until it is loaded."""
        address = str(path)
        if address.startswith("http://127.0.0.1:"):
            self.own += (address,)
        else:
            address = "file://" + os.path.abspath(path)
        self.call("Page.navigate", url=address)
        deadline = time.monotonic() + self.timeout
        while self._message(deadline).get("method") != "Page.loadEventFired":
            pass

    def run(self, script):
        """The value of a JavaScript expression (a promise is awaited)."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def point_at(self, x, y):
        """Moves the pointer and waits for two frames."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def picture(self, path, whole=True):
        """Writes a PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
