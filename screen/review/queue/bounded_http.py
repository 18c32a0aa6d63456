"""HTTP for a server that is not trusted: no redirects, and limits on pages, bytes and time.

In: requests of an HTTP client. Out: responses, or `ReadFailed` and `OptionRefused`. A redirect is refused because the
client would send its token to the other address. Compressed responses are not requested, and are refused, because a few
compressed bytes can expand to gigabytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import cast

import httpx

from export.errors import OptionRefused, ReadFailed

MOST_PAGES = 1000
"""Maximum page number of a paginated list, because a loop over an endless list would not end."""

MOST_BYTES = 2**31
"""Maximum size of a response in bytes, large enough for an export of labels with embedded images."""

MOST_SECONDS = 3600.0
"""Maximum duration of a response in seconds; the timeout of a read does not limit a response in many small parts."""


class BoundedTransport(httpx.BaseTransport):
    """A transport that refuses redirects, and limits the size and the duration of responses.

    Args:
        inner: the transport that sends the requests.
        most_bytes: maximum size of a response in bytes.
        most_seconds: maximum duration of a response in seconds.
    """

    def __init__(
        self, inner: httpx.BaseTransport, *, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS
    ) -> None:
        self._inner, self._most_bytes, self._most_seconds = inner, most_bytes, most_seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request.

        Raises:
            OptionRefused: the server redirects to another address.
            ReadFailed: the response is compressed, or the list has too many pages.
        """
        request.headers["Accept-Encoding"] = "identity"
        page = request.url.params.get("page", "")
        if page.isdecimal() and int(page) > MOST_PAGES:
            raise _too_much(request, f"a list of more than {MOST_PAGES} pages")
        response = self._inner.handle_request(request)
        if response.has_redirect_location:
            target = request.url.join(response.headers["Location"])
            response.close()
            raise OptionRefused(
                f"{_address(request.url)} redirects {request.url.path} to {_address(target)}{target.path}.",
                wanted="the address of the server itself, because oodscreen does not send the token to other addresses",
                next_step=f"if {_address(target)} is your server, give this address with --url",
            )
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise _too_much(request, "an unrequested compressed response")
        stream = cast(httpx.SyncByteStream, response.stream)
        response.stream = _BoundedStream(stream, request, self._most_bytes, time.monotonic() + self._most_seconds)
        return response

    def close(self) -> None:
        """Close all connections."""
        self._inner.close()


class _BoundedStream(httpx.SyncByteStream):
    """The bytes of a response, up to a maximum size and until a deadline."""

    def __init__(self, inner: httpx.SyncByteStream, request: httpx.Request, most: int, deadline: float) -> None:
        self._inner, self._request, self._most, self._deadline = inner, request, most, deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for block in self._inner:
            size += len(block)
            if size > self._most:
                raise _too_much(self._request, f"more than {self._most} bytes")
            if time.monotonic() > self._deadline:
                raise _too_much(self._request, "a response that did not end within the time limit")
            yield block

    def close(self) -> None:
        self._inner.close()


def _address(url: httpx.URL) -> str:
    """Scheme, host and port of an address, without user and password."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _too_much(request: httpx.Request, found: str) -> ReadFailed:
    return ReadFailed(
        f"{_address(request.url)} sent {found} for {request.url.path}.",
        wanted="a Label Studio server",
        next_step="check --url; if the address is right, export the labels to a file in the browser, and give the file "
        "as LABELS",
    )
