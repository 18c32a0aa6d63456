"""Find phrases that plain technical English avoids: `python -m tests.language [PATH ...]` lists them.

In: Python sources, Markdown and templates. Out: each phrase with its file and line. Only text for people is searched:
docstrings, comments and string literals. Names are not: text between backticks, fenced blocks, strings without a space
(keys of files, columns, options), expressions in f-strings, and tags and expressions of templates.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
ROOTS = ("screen", "export", "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
"""The files and folders that are searched by default."""

_ENDINGS = (".py", ".md", ".html")

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
PHRASES = re.compile(r"\b(" + "|".join(_PHRASES).replace(" ", r"\s+") + r")\b", re.IGNORECASE)

_CODE = re.compile(r"^```.*?^```$|``.+?``|`[^`\n]+(?:\n[^`\n]+)?`", re.DOTALL | re.MULTILINE)
_TEMPLATE = re.compile(r"{%.*?%}|{{.*?}}|{#.*?#}|<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL)
_EXPRESSION = re.compile(r"{[^{}]*}")
_NAME = re.compile(r"[rbfu]*(['\"]{3}|['\"])\S*\1", re.IGNORECASE)


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Each text of a file that a person reads, with the number of its first line; names are blanked out."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, _blank(_CODE if path.suffix == ".md" else _TEMPLATE, source)
        return
    middle = getattr(tokenize, "FSTRING_MIDDLE", None)  # from Python 3.12 on
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        text = token.string
        if token.type == tokenize.STRING:
            if _NAME.fullmatch(text):
                continue
            if "f" in text.partition(text[-1])[0].lower():
                text = _blank(_EXPRESSION, text)
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == middle:
            yield token.start[0], _blank(_CODE, text)


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """The text with dots for what matches, line by line."""
    return pattern.sub(lambda match: re.sub(r"[^\n]", ".", match[0]), text)


def find_phrases(path: Path) -> Iterator[str]:
    """Each phrase of a file, as `path:line: phrase in its line`."""
    for start, text in read_texts(path):
        for match in PHRASES.finditer(text):
            number = text.count("\n", 0, match.start())
            phrase, line = " ".join(match[0].split()), text.splitlines()[number].strip()
            yield f"{path}:{start + number}: {phrase!r} in {line[:160]}"


def find_files(names: Iterable[str] = ROOTS) -> list[Path]:
    """The Python sources, pages and templates below some files and folders of the repository."""
    found = []
    for root in (REPOSITORY / name for name in names):
        found += [root] if root.is_file() else [one for one in root.rglob("*") if one.suffix in _ENDINGS]
    return sorted(found)


def main(names: list[str]) -> None:
    """Print the phrases of the given files and folders."""
    for path in find_files(names or ROOTS):
        for phrase in find_phrases(path):
            print(phrase)


if __name__ == "__main__":
    main(sys.argv[1:])
