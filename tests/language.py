"""Find phrases that plain technical English avoids: `python -m tests.language [PATH ...]` lists them.

In: Python sources, Markdown and templates. Out: each phrase with its file and line. Code is not looked at, only what a
person reads: docstrings, comments and string literals.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

_PHRASES = (
    r"such(?! as\b)",
    r"so (many|much|few)",
    r"as (many|much) as there",
    r"anew",
    r"nobody",
    r"somebody",
    r"whoever",
    r"whom",
    r"(none )?of (ours|theirs)",
    r"(is|are|was|were|be|been) told",
    r"(that|which) (is|are) had",
    r"(is|are|not) to be had",
    r"can(not)? be had",
    r"of another mind",
    r"wants? (to|it|one|them)",
    r"(lies?|lay|lying) (in|beside|below|above|before|behind|under|there|where|elsewhere|outside)",
    r"what is left",
    r"hand(s|ed|ing)? on",
    r"by itself says",
    r"is no (result|row|file|column|class|score|option|folder)",
    r"has no such",
    r"(bank|banks)",
    r"surprises?",
    r"judges?",
    r"thinned(?! network)",
    r"leftovers?",
)
PHRASES = re.compile(r"\b(" + "|".join(_PHRASES) + r")\b", re.IGNORECASE)


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Each text of a file that a person reads, with the number of its first line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(source.splitlines(), 1)
        return
    middle = getattr(tokenize, "FSTRING_MIDDLE", None)  # from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == middle:
            yield from enumerate(token.string.splitlines(), token.start[0])


def find_phrases(path: Path) -> Iterator[str]:
    """Each phrase of a file, as `path:line: phrase in its line`."""
    for line, text in read_texts(path):
        for match in PHRASES.finditer(text):
            yield f"{path}:{line}: {match[0]!r} in {text.strip()[:160]}"


def main(names: list[str]) -> None:
    """Print the phrases of the given files and folders."""
    for name in names or [str(REPOSITORY / one) for one in ("screen", "export", "docs", "README.md")]:
        root = Path(name)
        paths = [root] if root.is_file() else [one for one in root.rglob("*") if one.suffix in (".py", ".md", ".html")]
        for path in sorted(paths):
            for told in find_phrases(path):
                print(told)


if __name__ == "__main__":
    main(sys.argv[1:])
