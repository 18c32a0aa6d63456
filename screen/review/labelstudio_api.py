"""A project of a Label Studio server, through its SDK: import tasks that it does not have, and export labels.

In: address, project, and a token from the environment. Out: a `LabelStudioProject`. The only file that knows the
SDK; the token is in no message, file or log.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from export.errors import OodscreenError, OptionRefused, ReadFailed, WriteFailed
from screen.review.classes import ClassNames
from screen.review.handoff import to_json
from screen.review.labelstudio import KEY, ImageUrl, LabelForm, label_config, make_task, parse_form
from screen.review.ledger import HandedOn, Ledger
from screen.review.queue_row import QueueRow

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"  # noqa: S105  the name of a variable
URL_VARIABLE = "LABEL_STUDIO_URL"
VIEW_TITLE = "Most suspicious first"
_TITLE_LENGTHS = (3, 50)
_ASKED_AT_ONCE = 16  # keys in the address of a request, which many servers let have 8 KiB
_IMPORT_TASKS, _IMPORT_BYTES = 500, 8 * 2**20
_SECONDS = 300.0


@dataclass(frozen=True)
class LabelStudioProject:
    """A project that is there.

    Attributes:
        client: of the SDK.
        url: of the server.
        id: of the project.
        title: of the project.
        created: when it was, so that a new project of an old number is known as new.
        form: what of its labeling configuration we fill; None where only labels are read.
        url_template: where images are found; None embeds them.
    """

    client: Any
    url: str
    id: int
    title: str
    created: str
    form: LabelForm | None
    url_template: ImageUrl | None

    @property
    def project(self) -> str:
        """Whose ledger counts."""
        return f"{self.url}/projects/{self.id} of {self.created}"

    def describe(self) -> str:
        """For people."""
        return f"Label Studio project {self.title!r} ({self.url}/projects/{self.id})"

    def has(self, keys: Sequence[bytes]) -> set[bytes]:
        """Which images have a task in the project.

        Raises:
            OodscreenError: the server does not answer as it should.
        """
        found: set[bytes] = set()
        texts = [key.hex() for key in keys]
        for start in range(0, len(texts), _ASKED_AT_ONCE):
            asked = texts[start : start + _ASKED_AT_ONCE]
            items = [
                {"filter": f"filter:tasks:data.{KEY}", "operator": "equal", "type": "String", "value": text}
                for text in asked
            ]
            query = json.dumps({"filters": {"conjunction": "or", "items": items}}, separators=(",", ":"))
            with _talking(self.url, self.title):
                for task in self.client.tasks.list(project=self.id, query=query, include="id,data"):
                    found.add(bytes.fromhex(task.data[KEY]))
        return found

    def refuse_if_there(self) -> None:
        """Nothing of a project is overwritten."""

    def hand_on(self, rows: Iterable[QueueRow], handed: Sequence[HandedOn], ledger: Ledger) -> None:
        """Import tasks, some at a time; what was imported is in the ledger, whatever becomes of the rest.

        Raises:
            OodscreenError: the server refused.
        """
        done = 0
        try:
            for tasks in self._in_parts(rows):
                with _talking(self.url, self.title, writes=True):
                    told = self.client.projects.import_tasks(id=self.id, request=tasks)
                if told.task_count not in (None, len(tasks)):
                    raise WriteFailed(
                        f"{self.describe()} took {told.task_count} of {len(tasks)} tasks.",
                        wanted="all of them",
                        next_step="look at the project; the next run asks it which images it has",
                    )
                done += len(tasks)
        finally:
            if done:
                ledger.add(handed[:done])

    def export_labels(self, file: IO[bytes]) -> None:
        """Write the project's annotated tasks as Label Studio's JSON.

        Raises:
            OodscreenError: the server refused.
        """
        with _talking(self.url, self.title):
            for block in self.client.projects.exports.download_sync(
                self.id, export_type="JSON", download_resources=False
            ):
                _write(file, block)

    def _in_parts(self, rows: Iterable[QueueRow]) -> Iterator[list[dict[str, Any]]]:
        if self.form is None:
            raise AssertionError("a project that is only read is handed nothing")
        tasks: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            task = make_task(row, self.form, self.url_template)
            text = to_json(task)
            if tasks and (size + len(text) > _IMPORT_BYTES or len(tasks) == _IMPORT_TASKS):
                yield tasks
                tasks, size = [], 0
            tasks.append(json.loads(text))
            size += len(text)
        if tasks:
            yield tasks


def open_project(
    url: str | None, name: str | None, classes: ClassNames | None, image_url: ImageUrl | None = None
) -> LabelStudioProject:
    """Find a project by its number or title; for a queue it is made if missing, with a view that orders it.

    Args:
        url: of the server; None takes it from the environment.
        name: number or title.
        classes: what a labeler can choose; None where labels are read: the project must be there.
        image_url: where images are found; None embeds them.

    Raises:
        OptionRefused: the SDK is not installed, the token is missing or refused, there is no such server or project,
            or the project asks for other labels.
    """
    address = _address(url)
    client = _connect(address)
    name = "oodscreen" if name is None else name
    with _talking(address, name):
        found = _find(client, name)
        if found is None:
            if classes is None or name.isdecimal():
                there = [f"{one.id} {one.title!r}" for one in _first(client.projects.list(), 5)]
                raise OptionRefused(
                    f"Label Studio at {address} has no project {name!r}.",
                    wanted="the number or the title of a project that this token may see",
                    next_step=f"there are: {', '.join(there)}"
                    if there
                    else "there is none; `oodscreen queue` makes one",
                )
            found = _create(client, name, classes)
        project = client.projects.get(id=found.id)
        form = None
        if classes is not None:
            parsed = parse_form(project.parsed_label_config, classes.choices)
            if isinstance(parsed, str):
                raise OptionRefused(
                    f"The project {project.title!r} {parsed}.",
                    wanted="a labeling configuration with these choices for one image: " + ", ".join(classes.choices),
                    next_step="add them in the project's settings, or let a new project be made by another --project",
                )
            form = parsed
            _add_view(client, project.id)
    created = project.created_at.isoformat() if project.created_at else ""
    return LabelStudioProject(client, address, int(project.id), str(project.title), created, form, image_url)


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
    except OSError as error:
        raise WriteFailed(
            f"A temporary file could not be written: {error.strerror or error}.",
            wanted="room for the project's export",
            next_step="make room, or set TMPDIR to another folder",
        ) from error


def _address(url: str | None) -> str:
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


def _connect(address: str) -> Any:
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
    with _talking(address, ""):
        return LabelStudio(base_url=address, api_key=token, timeout=_SECONDS)


def _find(client: Any, name: str) -> Any:
    """The project of a number or title; None where there is none.

    Raises:
        OptionRefused: several have the title.
    """
    if name.isdecimal():
        return next((one for one in client.projects.list(ids=name) if one.id == int(name)), None)
    found = [one for one in client.projects.list(title=name) if one.title == name]
    if len(found) > 1:
        raise OptionRefused(
            f"{len(found)} projects have the title {name!r}: {', '.join(str(one.id) for one in found)}.",
            wanted="one project",
            next_step="give its number by --project",
        )
    return found[0] if found else None


def _create(client: Any, name: str, classes: ClassNames) -> Any:
    least, most = _TITLE_LENGTHS
    if not least <= len(name) <= most:
        raise OptionRefused(
            f"--project {name!r} is no title for a new project.",
            wanted=f"{least} to {most} characters, or the number of a project",
            next_step="give such a title",
        )
    return client.projects.create(title=name, label_config=label_config(classes))


def _add_view(client: Any, project: int) -> None:
    """A view with the most suspicious first, unless it is there."""
    for view in client.views.list(project=project):
        data = view.data if isinstance(view.data, dict) else {}
        if data.get("title") == VIEW_TITLE:
            return
    client.views.create(
        project=project,
        data={
            "title": VIEW_TITLE,
            "type": "list",
            "target": "tasks",
            "ordering": ["-tasks:data.suspicion"],
            "filters": {"conjunction": "and", "items": []},
        },
    )


def _first(many: Iterable[Any], count: int) -> list[Any]:
    return [one for one, _ in zip(many, range(count), strict=False)]


@contextmanager
def _talking(url: str, project: str, *, writes: bool = False) -> Iterator[None]:
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
