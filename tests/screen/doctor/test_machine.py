"""Machines with fake CUDA libraries: objects whose functions write through ctypes pointers, like real functions."""

from __future__ import annotations

from typing import Any

from screen.doctor.machine import find_libraries


class FakeLibrary:
    """A fake libcudart and libcudnn."""

    def __init__(self) -> None:
        self.cudnnGetVersion = lambda: 91002

    def cudaRuntimeGetVersion(self, version: Any) -> int:  # noqa: N802  # the library's name
        version._obj.value = 13010
        return 0


def test_libraries_tell_the_version_found_beside_the_one_wanted() -> None:
    libraries = {library.name: library for library in find_libraries("13.0", lambda name: FakeLibrary())}
    (cudart,) = (library for name, library in libraries.items() if "cudart" in name)
    (cudnn,) = (library for name, library in libraries.items() if "cudnn" in name)
    assert "13" in cudart.name
    assert (cudart.wanted, cudart.found, cudnn.found) == ("13.0", "13.1", "9.10.2")


def test_libraries_that_do_not_load_are_missing() -> None:
    def load(name: str) -> Any:
        raise OSError(name)

    libraries = find_libraries("12.8", load)
    assert libraries
    assert not any(library.loads or library.found for library in libraries)
    assert {library.wanted for library in libraries if "cudart" in library.name} == {"12.8"}
