"""A local server with false answers, called through the SDK of Label Studio as installed by users."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from export.errors import OodscreenError, OptionRefused, ReadFailed
from screen.review.queue.bounded_http import MOST_PAGES, BoundedTransport
from screen.review.queue.labelstudio_api import open_project
from screen.review.queue.labelstudio_client import TOKEN_VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the SDK

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serve(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """A server on a free port; yields its address and the paths that were requested."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            answer(self)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", paths
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, body: bytes, *, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "0123456789abcdef0123456789abcdef01234567")


@pytest.mark.hostile(
    "A Label Studio server that redirects to another host",
    "the command ends with exit code 2, and does not send the token to that host",
)
def test_a_redirect_is_not_followed() -> None:
    with serve(lambda handler: reply(handler, b"{}")) as (other, stolen):

        def redirect(handler: BaseHTTPRequestHandler) -> None:
            reply(handler, b"", status=307, Location=f"{other}/api/projects/")

        with serve(redirect) as (url, _), pytest.raises(OptionRefused, match="redirects") as refused:
            open_project(url, "oodscreen", None)
    assert stolen == []
    assert other in refused.value.found


@pytest.mark.hostile(
    "A Label Studio server that returns a list without a last page",
    "the command ends with exit code 1 after 1,000 pages",
)
def test_an_endless_list_ends() -> None:
    def one_more(handler: BaseHTTPRequestHandler) -> None:
        page = {"count": 10**9, "next": "x", "previous": None, "results": [{"id": 1, "title": "another"}]}
        reply(handler, json.dumps(page).encode())

    with serve(one_more) as (url, paths), pytest.raises(ReadFailed, match=f"more than {MOST_PAGES} pages"):
        open_project(url, "oodscreen", None)
    assert len(paths) <= MOST_PAGES + 1


@pytest.mark.hostile(
    "A Label Studio server that sends a gzip bomb",
    "the command ends with exit code 1, and does not decompress the response",
)
def test_a_compressed_response_is_refused() -> None:
    bomb = gzip.compress(b"[" + b" " * 2**24)

    with (
        serve(lambda handler: reply(handler, bomb, Content_Encoding="gzip")) as (url, _),
        pytest.raises(ReadFailed, match="compressed"),
    ):
        open_project(url, "oodscreen", None)


@pytest.mark.hostile(
    "A Label Studio server that sends values of wrong types",
    "the command ends with exit code 1, and the error names the server",
)
@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"', b'{"results": 7}', b'{"results": [[], 7, null]}', b"\xff"])
def test_wrong_types_end_with_an_error(body: bytes) -> None:
    with serve(lambda handler: reply(handler, body)) as (url, paths), pytest.raises(OodscreenError) as ended:
        open_project(url, "oodscreen", None)
    assert url in str(ended.value)
    assert len(paths) < 10


@pytest.mark.parametrize(("limits", "found"), [({"most_bytes": 99}, "99 bytes"), ({"most_seconds": 0.0}, "not end")])
def test_a_response_has_a_size_and_an_end(limits: dict[str, float], found: str) -> None:
    with serve(lambda handler: reply(handler, b"x" * 100)) as (url, _):
        transport = BoundedTransport(httpx.HTTPTransport(), **limits)  # type: ignore[arg-type]
        with httpx.Client(transport=transport) as client, pytest.raises(ReadFailed, match=found):
            client.get(f"{url}/export")
