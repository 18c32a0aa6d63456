"""Remove user names, passwords and access keys from the addresses in a text.

In: text that may contain addresses such as `ftp://user:password@host/folder`. Out: the same text without the secrets of
these addresses. This module imports no other module of the project.
"""

from __future__ import annotations

import re

_CONTAINERS = frozenset({"abfs", "abfss", "adl", "az", "wasb", "wasbs"})
"""Protocols in which the text before `@` is the name of a container, optionally followed by `:` and a secret."""

_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://(?:([^\s/@:[]*:(?![:\d]*[/?#])(?!:)[^\s@/]*/\S*|[^\s/]*)@)")
"""Pattern for the user in an address: the text before the last `@` of the host, or, if a password contains `/`, before
the last `@` of the address."""

_QUERY = re.compile(r"(https?://[^\s?'\"]*)\?[^\s'\"<>]*|(://[^\s?'\"]*)\?[^\s/=?'\"]+=[^\s'\"<>]*")
"""Pattern for the query of an address; the query can contain a signature. In other protocols than http and https, a `?`
without `=` is a wildcard."""


def without_secrets(text: str, address: str = "") -> str:
    """The text without the query of each address, and without the user and the password before the host.

    A text that this function returned is returned unchanged. If `address` is "", a text that contains no address is
    also returned unchanged.

    Args:
        text: text that may contain addresses.
        address: an address whose user and password are removed from the text even where the protocol is missing, as in
            the errors of some clients of object stores.
    """
    if "://" not in text and "://" not in address:
        return text
    users = {found[2] for found in _USER.finditer(f"{address}\n{text}") if found[1] not in _CONTAINERS | {"github"}}
    text = _QUERY.sub(r"\1\2", _USER.sub(_without_user, text))
    for user in sorted(user for user in users if user and ":" in user):
        text = text.replace(f"{user}@", "")
    return text


def _without_user(found: re.Match[str]) -> str:
    protocol, user = found[1], found[2]
    if protocol == "github":  # github://organisation:repository@version/path
        return found[0]
    return f"{protocol}://" + (f"{user.partition(':')[0]}@" if protocol in _CONTAINERS else "")
