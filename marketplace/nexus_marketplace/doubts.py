"""Why the files of a marketplace are not believed, in words for its users."""

from __future__ import annotations

from pathlib import Path

from nexus_marketplace.troubles import MarketplaceTrouble


class Doubts:
    """for_people: how messages name the marketplace. state: its directory here. forget: how people have it trusted anew, as the end of
    a sentence."""

    def __init__(self, for_people: str, state: Path, forget: str) -> None:
        self._for_people = for_people
        self._state = state
        self._forget = forget

    def of(self, error: Exception, path: str) -> MarketplaceTrouble:
        """Return the trouble that a RepositoryError of the workflow means. path: of the file that was read last."""
        from tuf.api import exceptions
        from tuf.api.serialization import DeserializationError

        if isinstance(error, exceptions.ExpiredMetadataError):
            from nexus_marketplace import tufs

            return MarketplaceTrouble(
                "MarketplaceExpired",
                f"The metadata of {self._for_people} has expired: {tufs.expiries(self._state, str(error))}. "
                "Its owner has stopped signing it, or somebody keeps newer files from us.",
                "Run `nexus marketplace refresh` where it is published (or `build`, when the index has expired), and see that the new "
                "files are served.",
                retryable=True,
            )
        if isinstance(error, exceptions.BadVersionNumberError):
            return self.rolled_back(str(error))
        if isinstance(error, exceptions.LengthOrHashMismatchError):
            return self.swapped(path, str(error))
        if isinstance(error, exceptions.UnsignedMetadataError):
            return MarketplaceTrouble(
                "MarketplaceNotTrusted",
                f"{path} of {self._for_people} is not signed by the keys that its root metadata names: {error}.",
                "Publish it with the marketplace's keys. If it was not you who changed it, find out who did.",
                retryable=True,
            )
        if isinstance(error, DeserializationError):
            return MarketplaceTrouble(
                "MarketplaceInvalid",
                f"{path} of {self._for_people} is no TUF metadata: {error}.",
                "Serve the files as `nexus marketplace build` wrote them.",
                retryable=True,
            )
        return MarketplaceTrouble(
            "MarketplaceInvalid",
            f"The metadata of {self._for_people} cannot be used: {error}.",
            "Build it with `nexus marketplace build`.",
            retryable=True,
        )

    def rolled_back(self, how: str) -> MarketplaceTrouble:
        """Return what is said of metadata that is older than some that was trusted. how: which."""
        return MarketplaceTrouble(
            "MarketplaceRolledBack",
            f"{self._for_people} serves older metadata than was trusted here before: {how.rstrip('.')}.",
            f"Serve the newest files again. If its owner made the marketplace anew on purpose, {self._forget}.",
            retryable=True,
        )

    def swapped(self, path: str, how: str) -> MarketplaceTrouble:
        """Return what is said of a file that is not the one that was signed. how: what tells so."""
        return MarketplaceTrouble(
            "MarketplaceNotTrusted",
            f"{path} of {self._for_people} is not the file that its signed metadata means: {how.rstrip('.')}.",
            "Copy all files of the marketplace there, `metadata/timestamp.json` last. If it was not you who changed the file, find out "
            "who did.",
            retryable=True,
        )
