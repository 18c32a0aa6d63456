"""Reach a Label Studio server by its SDK, and say what is wrong where it cannot be reached.

In: an address, and a token from the environment. Out: the SDK's client; what it raises comes out as one of our errors,
with nothing of the token, the headers or the cookies in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from export.errors import OodscreenError, OptionRefused, ReadFailed, WriteFailed

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"  # noqa: S105  the name of a variable
URL_VARIABLE = "LABEL_STUDIO_URL"
_SECONDS = 300.0


def server_address(url: str | None) -> str:
    """The address of a server, given or from the environment.

    Raises:
        OptionRefused: it is none, or holds a password.
    """
    given = url or os.environ.get(URL_VARIABLE, "")
    try:
        parts = urlsplit(given)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.username or parts.password)
    except ValueError:
        fits = False
    if not fits:
        raise OptionRefused(
            "--url is missing." if not given else "--url is no address of a server: it must be http(s)://host[:port].",
            wanted="the address of Label Studio, without user and password",
            next_step=f"for example --url http://localhost:8080, or set {URL_VARIABLE}",
        )
    return given.rstrip("/")


def connect(address: str) -> Any:
    """A client of the SDK with the token of the environment.

    Raises:
        OptionRefused: the SDK is not installed, or there is no token that could be used.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        from label_studio_sdk import LabelStudio
    except ImportError as error:
        raise OptionRefused(
            f"label-studio-sdk is not installed: {error}.",
            wanted="the library by which Label Studio is spoken to",
            next_step="pip install 'oodscreen[label-studio]'; or write a file to import: --to label-studio-tasks",
        ) from error
    if not token:
        raise OptionRefused(
            f"{TOKEN_VARIABLE} is not set.",
            wanted="a token of Label Studio in the environment",
            next_step="make a personal access token under Account & Settings, and set it; it is never written anywhere",
        )
    with talking(address, ""):
        return LabelStudio(base_url=address, api_key=token, timeout=_SECONDS)


@contextmanager
def talking(url: str, project: str, *, writes: bool = False) -> Iterator[None]:
    """What the SDK raises, as one of our errors; headers and cookies of an answer are in none of them."""
    try:
        yield
    except OodscreenError:
        raise
    except Exception as error:  # noqa: BLE001  the SDK and what it stands on raise nearly anything
        status, body = getattr(error, "status_code", None), getattr(error, "body", None)
        told = _hide(str(body.get("detail", body)) if isinstance(body, dict) else type(error).__name__)
        raise _explain(url, project, status, told, writes=writes) from None


def _explain(url: str, project: str, status: int | None, told: str, *, writes: bool) -> OodscreenError:
    if status in (401, 403):
        return OptionRefused(
            f"Label Studio at {url} refused the token ({status}: {told}).",
            wanted=f"a token in {TOKEN_VARIABLE} that may use the project",
            next_step="make a personal access token under Account & Settings; legacy tokens are off by default "
            "since Label Studio 1.23",
        )
    if status == 404:
        return OptionRefused(
            f"There is no Label Studio at {url} (404: {told}).",
            wanted="the address of the server, and of no page in it",
            next_step=f"open {url}/health in a browser, and check --url",
        )
    kind = WriteFailed if writes else ReadFailed
    if status is None:
        return kind(
            f"No Label Studio answers at {url} ({told}).",
            wanted="a server that runs",
            next_step=f"open {url}/health in a browser, check --url and the network, and run again: "
            "nothing is imported twice",
        )
    return kind(
        f"Label Studio at {url} answered {status} for {project!r}: {told[:300]}",
        wanted="a server that takes the request",
        next_step="look into the server's log and run again: nothing is imported twice",
    )


def _hide(text: str) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    text = text.replace(token, "***") if token else text
    return re.sub(r"eyJ[\w.-]{20,}", "***", text)
