"""A project of a Label Studio server, through its SDK: import tasks that it does not have, and export labels.

In: address and project. Out: a `LabelStudioProject`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from export.errors import OptionRefused, WriteFailed
from screen.review.queue.classes import ClassNames
from screen.review.queue.file_targets import to_json
from screen.review.queue.labelstudio import KEY, ImageUrl, LabelForm, label_config, make_task, parse_form
from screen.review.queue.labelstudio_client import connect, server_address, talking
from screen.review.queue.ledger import Ledger, LedgerEntry
from screen.review.queue.row import QueueRow

VIEW_TITLE = "Most suspicious first"
_TITLE_LENGTHS = (3, 50)
_ASKED_AT_ONCE = 16  # keys in the address of a request, which many servers let have 8 KiB
_IMPORT_TASKS, _IMPORT_BYTES = 500, 8 * 2**20


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
            with talking(self.url, self.title):
                for task in self.client.tasks.list(project=self.id, query=query, include="id,data"):
                    found.add(bytes.fromhex(task.data[KEY]))
        return found

    def refuse_if_there(self) -> None:
        """Nothing of a project is overwritten."""

    def hand_on(self, rows: Iterable[QueueRow], handed: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Import tasks, some at a time; what was imported is in the ledger, whatever becomes of the rest.

        Raises:
            OodscreenError: the server refused.
        """
        done = 0
        try:
            for tasks in self._in_parts(rows):
                with talking(self.url, self.title, writes=True):
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
        with talking(self.url, self.title):
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
    address = server_address(url)
    client = connect(address)
    name = "oodscreen" if name is None else name
    with talking(address, name):
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
