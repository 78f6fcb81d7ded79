"""Opens every page of build/docs in a headless Chromium, without a network: make check-docs.

A page passes if nothing is written to the console as an error, nothing it asks for is missing, every picture and every formula
is drawn, every link leads to a page and a place in it, and nothing sticks out sideways, on a wide and on a narrow screen.
Screenshots are in build/docs-screenshots, to be looked at. Speaks the browser's debugging protocol over two pipes, with the
standard library alone. Must not know what the pages say.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

from tqdm import tqdm

ROOT = Path(__file__).parents[1]
SITE, SCREENSHOTS = ROOT / "build" / "docs", ROOT / "build" / "docs-screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"wide": 1280, "narrow": 390}
TALLEST = 12000  # of a screenshot, in pixels

# What a page looks like from within, once its formulas are set.
LOOK = """(async () => {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    const all = (selector) => [...document.querySelectorAll(selector)];
    return {
        links: all("a[href]").map((a) => a.href),
        places: all("[id]").map((e) => e.id),
        pictures: all("img").filter((i) => !(i.complete && i.naturalWidth)).map((i) => i.src),
        formulas: all(".math").length,
        drawn: all(".math mjx-container svg").length,
        wrong: all("[data-mjx-error], mjx-merror, .problematic, .system-message").map((e) => e.textContent),
        width: document.scrollingElement.scrollWidth,
        height: document.scrollingElement.scrollHeight,
    };
})()"""


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, program, profile):
        # The browser reads from its file descriptor 3 and writes to 4.
        inward, self._out = os.pipe()
        self._in, outward = os.pipe()
        options = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        options += [f"--user-data-dir={profile}", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND"]
        options += ["--no-sandbox"] * (os.geteuid() == 0)
        script = f'exec "$0" "$@" 3<&{inward} 4>&{outward}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *options, "about:blank"],
            pass_fds=(inward, outward),
            stderr=subprocess.DEVNULL,
        )
        os.close(inward)
        os.close(outward)
        self._number, self._buffer, self._session, self.events = 0, b"", None, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 16)
            if not part:
                raise SystemExit("the browser has ended")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event):
        while not any(each.get("method") == event for each in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression):
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["text"])
        return done["result"]["value"]

    def open(self, url, width):
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)
        self.wait_for("Page.loadEventFired")
        return self.evaluate(LOOK)

    def complaints(self):
        """Errors and warnings in the console, exceptions, requests that failed."""
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                yield parameters["exceptionDetails"]["text"]
            elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                yield parameters["entry"]["text"]
            elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                yield " ".join(str(each.get("value", "")) for each in parameters["args"])
            elif method == "Network.loadingFailed" and not parameters.get("canceled"):
                yield f"not loaded: {parameters['errorText']}"
            elif method == "Network.requestWillBeSent" and not parameters["request"]["url"].startswith(
                ("file:", "data:")
            ):
                yield f"asks for {parameters['request']['url']}"

    def screenshot(self, path, width, height):
        clip = dict(x=0, y=0, width=width, height=min(height, TALLEST), scale=1)
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.call("Browser.close")
        self._process.wait(timeout=60)


def file_of(url):
    return Path(unquote(urlparse(urldefrag(url).url).path))


def broken_links(seen):
    """(page, link) of all links that lead to no file, or to no place in a page."""
    for page, look in seen.items():
        for link in look["links"]:
            if not link.startswith("file:"):
                continue
            file, place = file_of(link), unquote(urldefrag(link).fragment)
            if not file.exists() or (place and file in seen and place not in seen[file]["places"]):
                yield page, link


def problems(browser, page, name, width):
    """What is wrong with one page at one width; its screenshot is taken."""
    look = browser.open(page.as_uri(), width)
    browser.screenshot(SCREENSHOTS / name / page.relative_to(SITE).with_suffix(".png"), width, look["height"])
    found = [*browser.complaints(), *(f"no picture: {source}" for source in look["pictures"]), *look["wrong"]]
    if look["drawn"] != look["formulas"]:
        found.append(f"{look['drawn']} of {look['formulas']} formulas are drawn")
    if look["width"] > width:
        found.append(f"{look['width']} pixels wide on a screen of {width}")
    return look, found


def main():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not program:
        raise SystemExit("There is no Chromium here: apt install chromium")
    pages = sorted(SITE.rglob("*.html"))
    if not pages:
        raise SystemExit("There are no pages here: make docs")
    failed, seen, formulas = 0, {}, 0
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        version = browser.call("Browser.getVersion")["product"]
        for page in tqdm(pages, unit="page"):
            for name, width in WIDTHS.items():
                seen[page], found = problems(browser, page, name, width)
                for text in found:
                    failed += 1
                    tqdm.write(f"{page.relative_to(SITE)}, {name}: {' '.join(text.split())}")
            formulas += seen[page]["formulas"]
        browser.close()
    for page, link in broken_links(seen):
        failed += 1
        print(f"{page.relative_to(SITE)}: {link} leads nowhere")
    links = sum(link.startswith("file:") for look in seen.values() for link in look["links"])
    print(
        f"{version}: {len(pages)} pages, {links} links, {formulas} formulas; {failed} problems. Look at {SCREENSHOTS}"
    )
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
