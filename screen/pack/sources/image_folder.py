"""Images of a folder: the name of a class folder becomes the label, the relative path becomes the id.

In: a folder. Out: `ImageFile`s in the order of their paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from screen.files.endings import is_image
from screen.pack.config import LabelChoice
from screen.pack.findings import Findings
from screen.pack.image_file import ImageFile
from screen.pack.sources.walk import walk


@dataclass(frozen=True)
class ImageFolder:
    """A folder of image files.

    Attributes:
        root: the folder, resolved.
        label_from: which folder in the path of an image has the label as its name; `none`: labels are null.
    """

    root: Path
    label_from: LabelChoice

    @property
    def identity(self) -> dict[str, str]:
        """The settings on which the rows depend."""
        return {"source": "folder of images", "--label-from": self.label_from}

    @property
    def columns(self) -> pa.Schema:
        """The columns after `image`."""
        return pa.schema([("label", pa.string()), ("id", pa.string())])

    def files(self, findings: Findings) -> Iterator[ImageFile]:
        """The images, one at a time.

        Raises:
            OSError: the folder cannot be listed.
            ReadFailed: the disk or the store failed.
        """
        for found in walk(self.root, is_image, findings):
            values = (self._label(found.name), found.name)
            yield ImageFile(found.name, found.place, found.size, found.version, values, problem=found.problem)

    def _label(self, name: str) -> str | None:
        folders = name.split("/")[:-1]
        if self.label_from == "none" or not folders:
            return None
        return folders[0 if self.label_from == "first" else -1]
