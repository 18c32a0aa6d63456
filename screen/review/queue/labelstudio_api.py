"""Import tasks into a project of a Label Studio server, and export its labels.

In: the address of a server, and a project. Out: a `LabelStudioProject`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from export.errors import OptionRefused, WriteFailed
from screen.files.paths import name_place
from screen.review.classes import ClassNames
from screen.review.queue.file_targets import to_json
from screen.review.queue.labelstudio import (
    HIDDEN_COLUMNS,
    KEY,
    ImageUrl,
    LabelForm,
    label_config,
    make_task,
    parse_form,
)
from screen.review.queue.labelstudio_client import connect, sdk_errors, server_address
from screen.review.queue.ledger import Ledger, LedgerEntry
from screen.review.queue.row import QueueRow

VIEW_TITLE = "Most suspicious first"
_TITLE_LENGTHS = (3, 50)
_KEYS_PER_REQUEST = 16
"""Maximum keys per request; keys are part of the request's address, whose length many servers limit to 8 KiB."""

_IMPORT_TASKS, _IMPORT_BYTES = 500, 8 * 2**20
"""Maximum number of tasks, and their maximum total size in bytes, per import request."""


@dataclass(frozen=True)
class LabelStudioProject:
    """A project as the destination of a queue or the source of labels.

    Attributes:
        client: client of the SDK.
        url: address of the server.
        id: number of the project; None for a project that a dry run does not create.
        title: title of the project.
        created: time of creation, which distinguishes a project from a deleted project with the same number.
        form: names in the labelling configuration to which tasks refer; None if only labels are read.
        url_template: template for the addresses of the images; None to embed the images.
    """

    client: Any
    url: str
    id: int | None
    title: str
    created: str
    form: LabelForm | None
    url_template: ImageUrl | None

    @property
    def project(self) -> str:
        """Name of the project in the ledger."""
        return f"{name_place(self.url)}/projects/{self.id} of {self.created}"

    def describe(self) -> str:
        """Description for messages."""
        if self.id is None:
            return f"the new Label Studio project {self.title!r} ({name_place(self.url)})"
        return f"Label Studio project {self.title!r} ({name_place(self.url)}/projects/{self.id})"

    def find_existing(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of `keys` whose images have a task in the project.

        Raises:
            OodscreenError: the server cannot be reached or refused the request.
        """
        found: set[bytes] = set()
        texts = [key.hex() for key in keys] if self.id is not None else []
        for start in range(0, len(texts), _KEYS_PER_REQUEST):
            asked = texts[start : start + _KEYS_PER_REQUEST]
            items = [
                {"filter": f"filter:tasks:data.{KEY}", "operator": "equal", "type": "String", "value": text}
                for text in asked
            ]
            query = json.dumps({"filters": {"conjunction": "or", "items": items}}, separators=(",", ":"))
            with sdk_errors(self.url, self.title):
                for task in self.client.tasks.list(project=self.id, query=query, include="id,data"):
                    found.add(bytes.fromhex(task.data[KEY]))
        return found

    def refuse_overwrite(self) -> None:
        """Do nothing, because an import does not overwrite tasks of the project."""

    def export(self, rows: Iterable[QueueRow], entries: Sequence[LedgerEntry], ledger: Ledger) -> None:
        """Import tasks in batches; imported images are recorded in the ledger even if a later batch fails.

        Raises:
            OodscreenError: the server cannot be reached or refused a batch.
        """
        done = 0
        try:
            for tasks in self._in_batches(rows):
                with sdk_errors(self.url, self.title, writes=True):
                    response = self.client.projects.import_tasks(id=self.id, request=tasks)
                if response.task_count not in (None, len(tasks)):
                    raise WriteFailed(
                        f"{self.describe()} imported {response.task_count} of {len(tasks)} tasks.",
                        wanted="an import of all tasks",
                        next_step="check in Label Studio whether the project can import tasks, then run the same "
                        "command again (no image is imported twice)",
                    )
                done += len(tasks)
        finally:
            if done:
                ledger.add(entries[:done])

    def export_labels(self, file: IO[bytes]) -> None:
        """Write the project's annotated tasks to a file, as Label Studio's JSON export.

        Raises:
            OodscreenError: the server cannot be reached or refused the request.
        """
        with sdk_errors(self.url, self.title):
            for block in self.client.projects.exports.download_sync(
                self.id, export_type="JSON", download_resources=False
            ):
                _write(file, block)

    def _in_batches(self, rows: Iterable[QueueRow]) -> Iterator[list[dict[str, Any]]]:
        if self.form is None:
            raise AssertionError("a project opened for reading labels cannot import tasks")
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
    url: str | None,
    name: str | None,
    classes: ClassNames | None,
    image_url: ImageUrl | None = None,
    *,
    dry_run: bool = False,
) -> LabelStudioProject:
    """The project with the given number or title.

    For a queue, a project with a new title is created, and the project gets a view in the order of the queue.

    Args:
        url: address of the server; None for the address in the environment.
        name: number or title of the project; None for `oodscreen`.
        classes: the choices available to an annotator; None to read labels, which requires an existing project.
        image_url: template for the addresses of the images; None to embed the images.
        dry_run: whether only to read from the server, and to create neither a project nor a view.

    Raises:
        OptionRefused: the SDK is not installed, the token is missing or refused, the server or project does not exist,
            or the project lacks some choices.
    """
    address = server_address(url)
    client = connect(address)
    name = "oodscreen" if name is None else name
    with sdk_errors(address, name):
        found = _find(client, name)
        if found is None:
            if classes is None or name.isdecimal():
                existing = [f"{one.id} {one.title!r}" for one in _first(client.projects.list(), 5)]
                raise OptionRefused(
                    f"Label Studio at {address} has no project {name!r}.",
                    wanted="the number or the title of a project that is visible to this token",
                    next_step=f"give one of: {', '.join(existing)}"
                    if existing
                    else "create a project with `oodscreen queue --to label-studio`",
                )
            _check_title(name)
            if dry_run:
                return LabelStudioProject(client, address, None, name, "", None, image_url)
            found = client.projects.create(title=name, label_config=label_config(classes))
        project = client.projects.get(id=found.id)
        form = None
        if classes is not None:
            parsed = parse_form(project.parsed_label_config, classes.choices)
            if isinstance(parsed, str):
                raise OptionRefused(
                    f"The project {project.title!r} {parsed}.",
                    wanted="a labelling configuration with these choices for one image: " + ", ".join(classes.choices),
                    next_step="add the choices in the project's settings, or give a new title with --project",
                )
            form = parsed
            if not dry_run:
                _add_view(client, project.id)
    created = project.created_at.isoformat() if project.created_at else ""
    return LabelStudioProject(client, address, int(project.id), str(project.title), created, form, image_url)


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
    except OSError as error:
        raise WriteFailed(
            f"A temporary file could not be written: {error.strerror or error}.",
            wanted="temporary disk space for the project's export",
            next_step="free disk space, or set TMPDIR to another folder",
        ) from error


def _find(client: Any, name: str) -> Any:
    """The project with the given number or title; None if that project does not exist.

    Raises:
        OptionRefused: several projects have the title.
    """
    if name.isdecimal():
        return next((one for one in client.projects.list(ids=name) if one.id == int(name)), None)
    found = [one for one in client.projects.list(title=name) if one.title == name]
    if len(found) > 1:
        raise OptionRefused(
            f"{len(found)} projects have the title {name!r}: {', '.join(str(one.id) for one in found)}.",
            wanted="a title that only one project has, or the number of a project",
            next_step="give the number of the project with --project",
        )
    return found[0] if found else None


def _check_title(name: str) -> None:
    least, most = _TITLE_LENGTHS
    if not least <= len(name) <= most:
        raise OptionRefused(
            f"--project {name!r} is not a valid title for a new project.",
            wanted=f"{least} to {most} characters, or the number of an existing project",
            next_step="give another title",
        )


def _add_view(client: Any, project: int) -> None:
    """Create a view with the most suspicious tasks first, unless a view with the title `VIEW_TITLE` exists."""
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
            "hiddenColumns": {"explore": list(HIDDEN_COLUMNS), "labeling": list(HIDDEN_COLUMNS)},
        },
    )


def _first(items: Iterable[Any], count: int) -> list[Any]:
    return [one for one, _ in zip(items, range(count), strict=False)]
