"""Marketplaces that need no network: a directory, a ConfigMap, and the one that ships with Nexus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from nexus_marketplace.sources.ports import FileMissing, FileTooLarge, check_path
from nexus_marketplace.troubles import MarketplaceTrouble


class Directory:
    """Files below a directory of this machine."""

    signed = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self.base_url = f"{root.absolute().as_uri()}/"
        self.for_people = f"the directory {root}"

    def begin(self) -> None:
        """A directory is read anew for each file."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """See `SourcePort.read`. Symbolic links may lead elsewhere within the directory, as a mounted ConfigMap's do, not out of it."""
        file = self._root / check_path(path)
        try:
            root, resolved = self._root.resolve(strict=True), file.resolve()
            if not resolved.is_relative_to(root):
                raise MarketplaceTrouble(
                    "MarketplaceInvalid",
                    f"{file} leads out of {root}.",
                    "Put the file itself there in place of the link.",
                )
            with resolved.open("rb") as opened:
                data = opened.read(max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self._root.is_dir():
                raise FileMissing(f"{file} does not exist.") from error
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                f"{self._root} is not a directory.",
                "Mount or create it where operator or gateway run.",
                retryable=True,
            ) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a ring
            raise MarketplaceTrouble(
                "MarketplaceUnreachable", f"{file} cannot be read: {error}.", "Check its permissions.", retryable=True
            ) from error
        if len(data) > max_bytes:
            raise FileTooLarge(f"{file} has more than {max_bytes} bytes.")
        return data


class ConfigMap:
    """Files in a ConfigMap; `/` in their paths is `__` in its keys."""

    signed = True

    def __init__(
        self, namespace: str, name: str, fetch: Callable[[str, str], Mapping[str, bytes | str] | None]
    ) -> None:
        """fetch: returns its content, None when there is none; called once between one `begin` and the next."""
        self._namespace, self._name, self._fetch = namespace, name, fetch
        self.base_url = f"configmap://{namespace}/{name}/"
        self.for_people = f"the ConfigMap {namespace}/{name}"
        self._files: Mapping[str, bytes | str] | None = None

    def begin(self) -> None:
        """Read the ConfigMap again at the next `read`."""
        self._files = None

    def read(self, path: str, max_bytes: int) -> bytes:
        """See `SourcePort.read`."""
        key = check_path(path).replace("/", "__")
        if self._files is None:
            self._files = self._fetch(self._namespace, self._name)
        if self._files is None:
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                f"There is no ConfigMap {self._namespace}/{self._name}.",
                "Create it from the files of a marketplace, `/` in their paths written `__`.",
                retryable=True,
            )
        found = self._files.get(key)
        if found is None:
            raise FileMissing(f"{self.for_people} has no key {key}.")
        data = found.encode() if isinstance(found, str) else found
        if len(data) > max_bytes:
            raise FileTooLarge(f"{key} of {self.for_people} has more than {max_bytes} bytes.")
        return data


class Bundled:
    """The index that ships with Nexus. It is as trusted as the code beside it, so no metadata signs it; its releases are signed."""

    signed = False
    base_url = ""
    for_people = "the index that ships with Nexus"

    def begin(self) -> None:
        """What is installed does not change while it runs."""

    def read(self, path: str, max_bytes: int) -> bytes:
        """See `SourcePort.read`."""
        if path != "index.json":
            raise FileMissing(f"Nexus ships with an index alone, not with {path}.")
        try:
            data = resources.files("nexus_plugins").joinpath(path).read_bytes()
        except (ModuleNotFoundError, OSError) as error:
            raise MarketplaceTrouble(
                "MarketplaceUnreachable",
                f"The index that ships with Nexus cannot be read: {error}.",
                "Install Nexus with its plugins.",
            ) from error
        if len(data) > max_bytes:
            raise FileTooLarge(f"The index that ships with Nexus has more than {max_bytes} bytes.")
        return data
