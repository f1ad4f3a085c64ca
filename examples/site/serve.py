"""The site over HTTP while one writes on it: built anew when a source changes, reloaded by itself.

A page that is served gets a line of script which the files do not have; it listens to
``/_site/events`` (server-sent events), where the number of the build is told. The sources are
looked at twice a second: the standard library has no means to be told.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from examples.site.places import RECORD

__all__ = ["Builds", "serving", "watch"]

EVENTS: Final = "/_site/events"
_SCRIPT: Final = f"""<script>
new EventSource("{EVENTS}").onmessage = (event) => {{
  if (window.siteBuild && window.siteBuild !== event.data) location.reload();
  window.siteBuild = event.data;
}};
</script>
""".encode()
_LOOK_EVERY: Final = 0.5  # seconds
_STILL_THERE: Final = 15.0  # seconds between signs of life to a browser that waits


class Builds:
    """How many builds there were; whoever listens is woken by the next."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number = 0
        self._ended = False

    @property
    def number(self) -> int:
        return self._number

    @property
    def ended(self) -> bool:
        return self._ended

    def done(self) -> None:
        with self._changed:
            self._number += 1
            self._changed.notify_all()

    def end(self) -> None:
        """No more builds: those who listen go."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_beyond(self, number: int, timeout: float) -> int:
        """The number of builds once it is another than ``number``, or after ``timeout`` s."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._number != number, timeout)
            return self._number


@contextlib.contextmanager
def serving(root: Path, builds: Builds, port: int) -> Iterator[str]:
    """Serves ``root`` to this machine; gives the address. ``OSError`` if the port is taken."""

    class Handler(_Handler):
        folder = root
        news = builds

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # closing waits for them: they end with `builds`

    with Server(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="site-http")
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            builds.end()
            server.shutdown()
            thread.join()


class _Handler(SimpleHTTPRequestHandler):
    folder: Path
    news: Builds
    timeout = 30  # seconds for a request to arrive: a client that says nothing holds no thread

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(self.folder))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == EVENTS:
            self._tell_builds()
        elif (page := self._page()) is not None:
            self._send(page.replace(b"</body>", _SCRIPT + b"</body>"), "text/html; charset=utf-8")
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND, "no page here")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _page(self) -> bytes | None:
        path = Path(self.translate_path(self.path))
        if path.is_dir() and self.path.partition("?")[0].endswith("/"):
            path /= "index.html"
        try:
            return path.read_bytes() if path.suffix == ".html" else None
        except OSError:
            return None

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _tell_builds(self) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        told = -1
        with contextlib.suppress(ConnectionError, TimeoutError):
            while not self.news.ended:
                number = self.news.wait_beyond(told, _STILL_THERE)
                self.wfile.write(b": waiting\n\n" if number == told else b"data: %d\n\n" % number)
                self.wfile.flush()
                told = number


def watch(folder: Path, rebuild: Callable[[], object], stop: threading.Event) -> None:
    """Calls ``rebuild`` whenever a file below ``folder`` has changed, until ``stop`` is set."""
    seen = _looks(folder)
    while not stop.wait(_LOOK_EVERY):
        now = _looks(folder)
        if now != seen:
            seen = now
            rebuild()


def _looks(folder: Path) -> dict[str, tuple[int, int]]:
    """What tells of a change without reading: time and size of each file."""
    found = {}
    for parent, folders, files in os.walk(folder):
        if RECORD in files:
            folders.clear()
            continue
        for name in files:
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                status = os.stat(path)
                found[path] = (status.st_mtime_ns, status.st_size)
    return found
