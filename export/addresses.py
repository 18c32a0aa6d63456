"""Names of addresses for people: without user names, passwords and access keys.

In: text that may contain addresses such as `ftp://user:password@host/folder`. Out: the same text without their secrets.
This module imports no other module of the project.
"""

from __future__ import annotations

import re

_CONTAINERS = frozenset({"abfs", "abfss", "adl", "az", "wasb", "wasbs"})
"""Protocols in which the text before `@` names a container, and may be followed by a secret after `:`."""

_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://(?:([^\s/@:[]*:(?![:\d]*[/?#])(?!:)[^\s@/]*/\S*|[^\s/]*)@)")
"""The user of an address: the text before the last `@` of the host, or, if a password contains `/`, of the address."""

_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"<>]*|(://[^\s?'\"]*)\?[^\s/=?'\"]+=[^\s'\"<>]*")
"""The query of an address, which can sign a request; in other protocols than http, a `?` without `=` is a wildcard."""


def without_secrets(text: str) -> str:
    """The text, in which each address has neither the user and the password before its host, nor its query.

    Text without an address is unchanged, and so is a result of this function.
    """
    return text if "://" not in text else _QUERY.sub(r"\1\2", _USER.sub(_without_user, text))


def _without_user(found: re.Match[str]) -> str:
    protocol, user = found[1], found[2]
    if protocol == "github":  # github://organisation:repository@version/path
        return found[0]
    return f"{protocol}://" + (f"{user.partition(':')[0]}@" if protocol in _CONTAINERS else "")
