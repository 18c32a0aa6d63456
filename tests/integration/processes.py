"""The Ray processes of this machine."""

from __future__ import annotations

from pathlib import Path


def ray_processes(kind: str = "") -> dict[int, str]:
    """Command lines of running Ray processes by process id; `kind` selects those that contain it."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes().decode().replace("\0", " ")
            state = (process / "stat").read_text().rpartition(") ")[2][0]
        except (OSError, UnicodeDecodeError):
            continue
        is_ray = "ray::" in command or ("/ray/" in command and "raylet" in command) or "gcs_server" in command
        if process.name.isdecimal() and is_ray and state != "Z" and kind in command:
            found[int(process.name)] = command
    return found
