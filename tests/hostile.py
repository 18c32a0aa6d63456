"""The hostile files, stores and environments that tests try, for the table in docs.

In: the sources of the tests. Out: for each mark `hostile`, the area, the input and the outcome. The sources are
parsed, not imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AREAS = {
    "input": "Input",
    "files": "Input",
    "decide": "Calibrations",
    "engine": "Passes",
    "output": "Results and runs",
    "run": "Results and runs",
    "cluster": "Results and runs",
    "review": "Review",
    "export": "Models",
}
"""Heading of the table by the folder of a test; other tests are about whole runs."""


@dataclass(frozen=True)
class HostileKind:
    """A kind of hostile input or environment.

    Attributes:
        area: heading under which it is listed.
        given: what is given.
        outcome: what happens.
    """

    area: str
    given: str
    outcome: str


def find_kinds(tests: Path) -> list[HostileKind]:
    """The kinds in all tests of a folder, by area, then in the order of files and lines.

    Raises:
        ValueError: a mark has other arguments than two texts.
    """
    found = [kind for path in sorted(tests.rglob("test_*.py")) for kind in _kinds_in(path, tests)]
    order = list(dict.fromkeys((*AREAS.values(), _WHOLE)))
    return sorted(dict.fromkeys(found), key=lambda kind: order.index(kind.area))


_WHOLE = "Commands and environments"


def _kinds_in(path: Path, tests: Path) -> Iterator[HostileKind]:
    folders = path.relative_to(tests).parts[:-1]
    area = next((AREAS[name] for name in folders if name in AREAS), _WHOLE)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.hostile":
                texts = [ast.literal_eval(argument) for argument in call.args]
                if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
                    raise ValueError(f"{path}:{call.lineno}: a mark `hostile` takes two texts")
                yield HostileKind(area, *texts)
