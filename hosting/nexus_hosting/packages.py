"""Files of a package that is in memory, as `importlib.resources` reads them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from typing import Any


class Folder(Traversable):
    """A folder or a file among files that are held by path."""

    def __init__(self, files: Mapping[str, bytes], path: str) -> None:
        self._files = files
        self._path = path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.rpartition("/")[2]

    def iterdir(self) -> Iterator[Folder]:
        """Yield what is directly in the folder."""
        below = f"{self._path}/"
        for name in sorted({path[len(below) :].split("/", 1)[0] for path in self._files if path.startswith(below)}):
            yield Folder(self._files, below + name)

    def is_dir(self) -> bool:
        """Return whether files are in it."""
        return any(path.startswith(f"{self._path}/") for path in self._files)

    def is_file(self) -> bool:
        """Return whether it is a file."""
        return self._path in self._files

    def joinpath(self, *descendants: Any) -> Folder:
        """Return what has this path below the folder."""
        return Folder(self._files, "/".join([self._path, *(str(each) for each in descendants)]))

    def __truediv__(self, child: Any) -> Folder:
        return self.joinpath(child)

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """Return a file to read. Raises FileNotFoundError."""
        stream = io.BytesIO(self.read_bytes())
        return stream if "b" in mode else io.TextIOWrapper(stream, *args, **kwargs)

    def read_bytes(self) -> bytes:
        """Return the content. Raises FileNotFoundError."""
        try:
            return self._files[self._path]
        except KeyError as error:
            raise FileNotFoundError(self._path) from error

    def read_text(self, encoding: str | None = None) -> str:
        """Return the content as text. Raises FileNotFoundError."""
        return self.read_bytes().decode(encoding or "utf-8")
