"""Connect to a Label Studio server through its SDK, and map the SDK's exceptions to errors of oodscreen.

In: an address, and a token from the environment. Out: the SDK's client, and errors without token, headers and cookies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from export.errors import OodscreenError, OptionRefused, ReadFailed, WriteFailed

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"  # noqa: S105  name of a variable, not a secret
URL_VARIABLE = "LABEL_STUDIO_URL"
_TIMEOUT = 300.0
"""Seconds after which a request times out."""


def server_address(url: str | None) -> str:
    """The address of the server, from the option or from the environment.

    Raises:
        OptionRefused: the address is missing or invalid, or contains a user or password.
    """
    address = url or os.environ.get(URL_VARIABLE, "")
    try:
        parts = urlsplit(address)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.username or parts.password)
    except ValueError:
        is_valid = False
    if not is_valid:
        raise OptionRefused(
            "--url is missing." if not address else "--url is not an address of the form http(s)://host[:port].",
            wanted="the address of Label Studio, without user and password",
            next_step=f"give an address such as --url http://localhost:8080, or set {URL_VARIABLE}",
        )
    return address.rstrip("/")


def connect(address: str) -> Any:
    """A client of the SDK, with the token from the environment.

    Raises:
        OptionRefused: the SDK is not installed, or no token is set.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        from label_studio_sdk import LabelStudio
    except ImportError as error:
        raise OptionRefused(
            f"label-studio-sdk is not installed: {error}.",
            wanted="Label Studio's SDK",
            next_step="pip install 'oodscreen[label-studio]', or exchange files with Label Studio: `oodscreen queue "
            "--to label-studio-tasks` writes tasks to import, and `oodscreen labels` reads a JSON export",
        ) from error
    if not token:
        raise OptionRefused(
            f"{TOKEN_VARIABLE} is not set.",
            wanted="an access token of Label Studio in the environment",
            next_step="create a personal access token under Account & Settings, and set the variable to the token; "
            "oodscreen does not write the token to any file",
        )
    import httpx

    from screen.review.queue.bounded_http import BoundedTransport

    client = httpx.Client(transport=BoundedTransport(httpx.HTTPTransport()), timeout=_TIMEOUT, follow_redirects=False)
    with sdk_errors(address, ""):
        return LabelStudio(base_url=address, api_key=token, timeout=_TIMEOUT, httpx_client=client)


@contextmanager
def sdk_errors(url: str, project: str, *, writes: bool = False) -> Iterator[None]:
    """Map the SDK's exceptions in the block to errors of oodscreen, without token, headers and cookies."""
    try:
        yield
    except OodscreenError:
        raise
    except Exception as error:  # noqa: BLE001  the SDK and its dependencies raise many types
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        detail = _hide(str(body.get("detail", body)) if isinstance(body, dict) else type(error).__name__)
        raise _explain(url, project, status, detail, writes=writes) from None


def _explain(url: str, project: str, status: int | None, detail: str, *, writes: bool) -> OodscreenError:
    if status in (401, 403):
        return OptionRefused(
            f"Label Studio at {url} refused the token ({status}: {detail}).",
            wanted=f"a token in {TOKEN_VARIABLE} with access to the project",
            next_step="create a personal access token under Account & Settings; Label Studio 1.23 and later disable "
            "legacy tokens by default",
        )
    if status == 404:
        return OptionRefused(
            f"There is no Label Studio at {url} (404: {detail}).",
            wanted="the base address of the server, not the address of a page",
            next_step=f"open {url}/health in a browser, and check --url",
        )
    kind = WriteFailed if writes else ReadFailed
    if status is None:
        return kind(
            f"Label Studio at {url} did not return a valid response ({detail}).",
            wanted="a running server",
            next_step=f"open {url}/health in a browser, check --url and the network, and run the command again; "
            "no image is imported twice",
        )
    return kind(
        f"Label Studio at {url} returned the HTTP status {status} for project {project!r}: {detail[:300]}",
        wanted="a server that accepts the request",
        next_step="read the server's log, and run the command again; no image is imported twice",
    )


def _hide(text: str) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    text = text.replace(token, "***") if token else text
    return re.sub(r"eyJ[\w.-]{20,}", "***", text)
