"""A real Label Studio server for tests, with SQLite on a free port of this machine.

In: nothing. Out: a `Server` with its address and a personal access token, created by logging in as a user would. The
dependencies of the server are pinned, so they are installed once, in a separate environment in a cache folder.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

REQUIREMENT = "label-studio==1.23.2"
_USER, _SECONDS_TO_START, _SECONDS_TO_INSTALL = "labeler@example.org", 150, 420
_QUIET = {"COLLECT_ANALYTICS": "False", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "", "LATEST_VERSION_CHECK": "False"}


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: address of the server.
        token: a personal access token of its only user.
    """

    url: str
    token: str


def install() -> Path:
    """Path of the command `label-studio`, installed on the first call; the variable LABEL_STUDIO overrides it.

    Skips the test with a reason if it cannot be installed.
    """
    given = os.environ.get("LABEL_STUDIO")
    if given:
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "oodscreen-tests"
    folder = cache / f"{REQUIREMENT}-py{sys.version_info.major}.{sys.version_info.minor}"
    command = folder / "bin" / "label-studio"
    stamp = folder / ".installed"
    if stamp.exists() and command.exists():
        return command
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True, timeout=120
        )
        pip = [
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            REQUIREMENT,
        ]
        subprocess.run(pip, check=True, capture_output=True, text=True, timeout=_SECONDS_TO_INSTALL)
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        pytest.skip(f"{REQUIREMENT} cannot be installed here: {lines[-1] if lines else error}")
    stamp.touch()
    return command


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """A server that runs within the block, with its data in a folder."""
    command = install()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, password = f"http://127.0.0.1:{port}", secrets.token_urlsafe(16)
    words = ["start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
    environment = {**os.environ, **_QUIET, "LABEL_STUDIO_BASE_DATA_DIR": str(folder)}
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(
            [command, *words, "--username", _USER, "--password", password],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(process, url, folder / "server.log")
        yield Server(url, _make_token(url, password))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with suppress(requests.RequestException):
            if requests.get(f"{url}/health", timeout=5).ok:
                return
        time.sleep(0.3)
    pytest.fail(f"Label Studio did not start: {log.read_text(errors='replace')[-2000:]}")


def _make_token(url: str, password: str) -> str:
    """A personal access token, created after logging in; legacy tokens are disabled by default."""
    with requests.Session() as session:
        session.get(f"{url}/user/login", timeout=30)
        form = {"csrfmiddlewaretoken": session.cookies["csrftoken"], "email": _USER, "password": password}
        session.post(f"{url}/user/login", data=form, headers={"Referer": url}, timeout=30).raise_for_status()
        headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": url}
        made = session.post(f"{url}/api/token/", headers=headers, timeout=30)
        made.raise_for_status()
        return str(made.json()["token"])
