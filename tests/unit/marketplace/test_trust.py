"""Following a marketplace in a directory: what is trusted, and each attack that is not."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nexus_core.marketplace import signed_bytes
from nexus_core.snapshot import Release
from nexus_marketplace import durable
from nexus_marketplace.publishing import Artefact, build_index, public_key
from nexus_marketplace.refusing import PublishRefused
from nexus_marketplace.repository import Keys, Repository
from nexus_marketplace.sources.local import Bundled, ConfigMap, Directory
from nexus_marketplace.troubles import MarketplaceTrouble
from nexus_marketplace.trust import Followed, Pins, Versions

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
THIRD = Ed25519PrivateKey.generate()
PINS = Pins((public_key(KEY),))
NOW = datetime.now(UTC)


def index_of(*versions: str) -> bytes:
    made = []
    for version in versions:
        unsigned = Release(
            name="demo", version=version, api=">=1,<2", package="demo", entry_point="demo.plugin:Demo", sha256="0" * 64, url="x.zip",
            publisher="me",
        )  # fmt: skip
        signature = base64.b64encode(KEY.sign(signed_bytes(unsigned))).decode()
        made.append(Artefact(msgspec.structs.replace(unsigned, signature=signature), b""))
    return build_index(made)


class Market:
    """A marketplace in a directory, and who follows it."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "market"
        self.state = folder / "state"
        self.repository = Repository(self.directory)
        self.publish("1.0")

    def publish(self, *versions: str, keys: Keys = Keys.one(KEY), now_utc: datetime = NOW) -> None:  # noqa: B008
        self.repository.publish(index_of(*versions), {}, keys, now_utc)

    def follow(self, pins: Pins = PINS, floor: Versions | None = None) -> tuple[list[str], Versions]:
        index, versions = Followed(Directory(self.directory), pins, self.state, floor).update()
        return [release.version for release in index.releases], versions

    def refused(self, reason: str, pins: Pins = PINS, floor: Versions | None = None) -> MarketplaceTrouble:
        with pytest.raises(MarketplaceTrouble) as caught:
            self.follow(pins, floor)
        assert caught.value.reason == reason, str(caught.value)
        return caught.value

    def keep(self, name: str) -> Path:
        return Path(shutil.copytree(self.directory, self.directory.parent / name))

    def put_back(self, kept: Path) -> None:
        shutil.rmtree(self.directory)
        shutil.copytree(kept, self.directory)


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change signed metadata and leave its signatures as they are."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def test_what_is_published_is_followed_and_newer_is_taken(market: Market) -> None:
    assert market.follow()[0] == ["1.0"]
    market.publish("1.0", "1.1")
    releases, versions = market.follow()
    assert releases == ["1.0", "1.1"]
    assert (versions.root, versions.timestamp, versions.snapshot, versions.targets) == (1, 2, 2, 2)
    expires = datetime.fromisoformat(versions.expires_utc)
    assert NOW + timedelta(days=29) < expires < NOW + timedelta(days=31), "the timestamp expires first, after 30 days"


def test_releases_are_resolved_against_the_marketplaces_address(market: Market) -> None:
    index, _ = Followed(Directory(market.directory), PINS, market.state).update()
    assert index.origin == market.directory.as_uri() + "/"


def test_a_key_that_is_not_pinned_is_refused(market: Market) -> None:
    trouble = market.refused("MarketplaceNotTrusted", Pins((public_key(OTHER),)))
    assert "1 of the 1 pinned keys" in trouble.what
    market.refused("MarketplaceNotTrusted", Pins((public_key(KEY), public_key(OTHER)), threshold=2))
    assert market.follow(Pins((public_key(OTHER), public_key(KEY))))[0] == ["1.0"]


def test_a_threshold_counts_keys_and_not_signatures(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "market")
    repository.publish(index_of("1.0"), {}, Keys((KEY, OTHER), KEY, KEY, root_threshold=2), NOW)
    both = Pins((public_key(KEY), public_key(OTHER)), threshold=2)
    assert Followed(Directory(tmp_path / "market"), both, tmp_path / "state").update()[1].root == 1
    doubled = Pins((public_key(KEY), public_key(KEY)), threshold=2)
    with pytest.raises(MarketplaceTrouble, match="pinned keys"):
        Followed(Directory(tmp_path / "market"), doubled, tmp_path / "state").update()


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json", "1.root.json"])
def test_a_changed_file_is_refused(market: Market, name: str) -> None:
    edit(
        market.directory / "metadata" / name, lambda document: document["signed"].update(expires="2999-01-01T00:00:00Z")
    )
    trouble = market.refused("MarketplaceNotTrusted")
    assert name in trouble.what or "root metadata" in trouble.what


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_a_file_signed_by_a_stranger_is_refused(market: Market, name: str, tmp_path: Path) -> None:
    Repository(tmp_path / "forged").publish(index_of("6.6"), {}, Keys.one(OTHER), NOW)
    shutil.copy(tmp_path / "forged" / "metadata" / name, market.directory / "metadata" / name)
    market.refused("MarketplaceNotTrusted")


def test_a_swapped_index_is_refused(market: Market) -> None:
    path = next((market.directory / "targets").iterdir())
    path.write_bytes(path.read_bytes().replace(b'"1.0"', b'"6.6"'))
    trouble = market.refused("MarketplaceNotTrusted")
    assert path.name in trouble.what


@pytest.mark.parametrize("role", ["timestamp", "1.snapshot", "1.targets"])
def test_endless_data_is_not_read(market: Market, role: str) -> None:
    with (market.directory / "metadata" / f"{role}.json").open("ab") as file:
        file.write(b" " * 6_000_000)
    trouble = market.refused("MarketplaceNotTrusted")
    assert "bytes" in trouble.what


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"[" * 16_000, b"\xff", b'{"signed": {"_type": "root"}, "signatures": []}']
)
def test_nonsense_is_refused_as_such(market: Market, data: bytes) -> None:
    (market.directory / "metadata" / "timestamp.json").write_bytes(data)
    market.refused("MarketplaceInvalid")


def test_no_metadata_at_all_is_told(tmp_path: Path, market: Market) -> None:
    shutil.rmtree(market.directory / "metadata")
    assert "1.root.json" in market.refused("MarketplaceInvalid").what
    shutil.rmtree(market.directory)
    assert market.refused("MarketplaceUnreachable").retryable


def test_missing_files_are_told_by_name(market: Market) -> None:
    (market.directory / "metadata" / "1.snapshot.json").unlink()
    assert "1.snapshot.json" in market.refused("MarketplaceInvalid").what


@pytest.mark.parametrize(("days", "named"), [(31, "timestamp"), (200, "timestamp"), (400, "root")])
def test_expired_metadata_is_refused(tmp_path: Path, days: int, named: str) -> None:
    market = Market.__new__(Market)
    market.directory, market.state = tmp_path / "market", tmp_path / "state"
    market.repository = Repository(market.directory)
    market.publish("1.0", now_utc=NOW - timedelta(days=days))
    trouble = market.refused("MarketplaceExpired")
    assert named in trouble.what
    assert "nexus marketplace refresh" in trouble.fix


def test_a_frozen_timestamp_is_refused_once_it_expires(tmp_path: Path) -> None:
    """Whoever keeps newer files from us can do so until what they serve expires, and no longer."""
    market = Market(tmp_path)
    frozen = market.keep("frozen")
    market.repository.refresh([KEY], NOW)
    assert market.follow()[1].timestamp == 2
    market.put_back(frozen)
    market.refused("MarketplaceRolledBack")
    expired = Market(tmp_path / "late")
    shutil.rmtree(expired.directory)
    expired.publish("1.0", now_utc=NOW - timedelta(days=31))
    assert "keeps newer files" in expired.refused("MarketplaceExpired").what


def test_refreshing_revives_an_expired_marketplace(market: Market) -> None:
    shutil.rmtree(market.directory)
    market.publish("1.0", now_utc=NOW - timedelta(days=100))
    market.refused("MarketplaceExpired")
    assert market.repository.refresh([KEY], NOW) == ("snapshot", "targets", "timestamp")
    assert market.follow()[0] == ["1.0"]


def test_a_rolled_back_index_is_refused(market: Market) -> None:
    old = market.keep("old")
    market.publish("1.0", "1.1")
    market.follow()
    market.put_back(old)
    trouble = market.refused("MarketplaceRolledBack")
    assert str(market.state) in trouble.fix


def test_a_rollback_is_seen_without_the_state_directory(market: Market) -> None:
    old = market.keep("old")
    market.publish("1.0", "1.1")
    _, versions = market.follow()
    market.put_back(old)
    shutil.rmtree(market.state)
    trouble = market.refused("MarketplaceRolledBack", floor=versions)
    assert "timestamp metadata 1, and 2 was trusted before" in trouble.what
    assert market.follow()[1].timestamp == 1, "without a floor nobody can know"


def test_a_damaged_state_directory_costs_nothing_but_reading_again(market: Market) -> None:
    old = market.keep("old")
    market.publish("1.0", "1.1")
    _, versions = market.follow()
    for path in market.state.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            path.write_bytes(b"\0" * 10)
    assert market.follow(floor=versions)[0] == ["1.0", "1.1"]
    market.put_back(old)
    market.refused("MarketplaceRolledBack", floor=versions)


def test_metadata_of_two_states_does_not_mix(market: Market) -> None:
    """The newest timestamp and snapshot over an index of former targets."""
    market.publish("1.0", "1.1")
    metadata = market.directory / "metadata"
    shutil.copy(metadata / "1.targets.json", metadata / "2.targets.json")
    assert "2.targets.json" in market.refused("MarketplaceNotTrusted").what


def test_the_last_good_index_is_there_when_the_marketplace_is_not(market: Market) -> None:
    followed = Followed(Directory(market.directory), PINS, market.state)
    assert followed.last() is None
    index, versions = followed.update()
    shutil.rmtree(market.directory)
    with pytest.raises(MarketplaceTrouble):
        followed.update()
    assert Followed(Directory(market.directory), PINS, market.state).last() == (index, versions)
    next(market.state.rglob("index.json")).write_bytes(b"{}")
    assert followed.last() is None, "a damaged file is nothing to rely on"


def test_other_pins_do_not_build_on_what_the_former_ones_trusted(market: Market) -> None:
    market.follow()
    market.refused("MarketplaceNotTrusted", Pins((public_key(OTHER),)))
    assert market.follow()[0] == ["1.0"]


def test_a_rotated_root_is_followed_from_the_old_pin_and_from_the_new_one(market: Market) -> None:
    market.follow()
    assert market.repository.rotate_root([KEY], Keys.one(OTHER), [], NOW) == 2
    assert market.follow()[1].root == 2
    market.publish("1.0", "1.1", keys=Keys.one(OTHER))
    for pins in (PINS, Pins((public_key(OTHER),))):
        assert market.follow(pins)[0] == ["1.0", "1.1"]
    with pytest.raises(PublishRefused, match="another key for targets"):
        market.publish("6.6", keys=Keys.one(KEY))


def test_a_rotation_needs_the_old_keys(market: Market) -> None:
    with pytest.raises(PublishRefused, match="follow no root that the old keys did not sign"):
        market.repository.rotate_root([OTHER], Keys.one(OTHER), [], NOW)
    market.repository.rotate_root([KEY], Keys((OTHER,), KEY, THIRD), [], NOW)
    with pytest.raises(PublishRefused, match="key that signs targets now"):
        market.repository.rotate_root([OTHER], Keys.one(OTHER), [THIRD], NOW)
    assert market.follow()[1].root == 2


def test_new_online_keys_end_versions_that_a_thief_raised(market: Market) -> None:
    """TUF 5.3.11: otherwise whoever had the key for a moment could keep the true marketplace out for ever."""
    owned = market.keep("owned")
    from tuf.api.metadata import Metadata

    for _ in range(3):
        market.repository.refresh([KEY], NOW)
    _, raised = market.follow()
    assert raised.timestamp == 4
    market.put_back(owned)
    market.repository.rotate_root([KEY], Keys.one(OTHER), [], NOW)
    assert Metadata.from_file(str(market.directory / "metadata" / "timestamp.json")).signed.version == 2
    assert market.follow(floor=raised)[1].timestamp == 2


def test_a_rolled_back_root_is_refused(market: Market) -> None:
    old = market.keep("old")
    market.repository.rotate_root([KEY], Keys((KEY, OTHER), KEY, KEY), [], NOW)
    _, versions = market.follow()
    market.put_back(old)
    shutil.rmtree(market.state)
    assert "root metadata 1" in market.refused("MarketplaceRolledBack", floor=versions).what


def test_a_broken_off_publication_shows_in_nothing(market: Market) -> None:
    """Whichever write is the last that succeeds: readers see the former state or the new one, and the next run goes on."""
    allowed = 0
    while True:
        left = allowed

        def write(path: Path, data: bytes) -> None:
            nonlocal left
            if left == 0:
                raise OSError(28, "No space left on device")
            left -= 1
            durable.write(path, data)

        try:
            Repository(market.directory, write=write).publish(
                index_of("1.0", f"1.{allowed + 1}"), {}, Keys.one(KEY), NOW
            )
            break
        except OSError:
            assert market.follow()[0] in (["1.0"], ["1.0", f"1.{allowed + 1}"])
            allowed += 1
    assert allowed > 3
    assert market.follow()[0] == ["1.0", f"1.{allowed + 1}"]


def test_publishing_over_a_damaged_marketplace_is_refused(market: Market) -> None:
    (market.directory / "metadata" / "1.targets.json").write_text("{}")
    with pytest.raises(PublishRefused, match="not a whole marketplace"):
        market.publish("1.0", "1.1")


def test_the_bundled_index_needs_no_metadata(tmp_path: Path) -> None:
    index, versions = Followed(Bundled(), PINS, tmp_path).update()
    assert "api-key" in index.by_name
    assert versions == Versions()
    assert list(tmp_path.iterdir()) == []


def test_a_configmap_holds_the_files_under_names_that_keys_may_have(market: Market) -> None:
    files = {
        str(path.relative_to(market.directory)).replace("/", "__"): path.read_bytes()
        for path in market.directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    asked = []

    def fetch(namespace: str, name: str) -> dict[str, bytes | str]:
        asked.append((namespace, name))
        return {key: data.decode() for key, data in files.items()}

    index, _ = Followed(ConfigMap("shop", "market", fetch), PINS, market.state).update()
    assert [release.version for release in index.releases] == ["1.0"]
    assert asked == [("shop", "market")], "one update sees one state"
    with pytest.raises(MarketplaceTrouble, match="no ConfigMap shop/market"):
        Followed(ConfigMap("shop", "market", lambda *_: None), PINS, market.state / "2").update()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../b", "a//b", "", "a\\b", ".lock", "a/.b", "a b", "a%2e"])
def test_paths_that_leave_the_marketplace_are_refused(market: Market, path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        Directory(market.directory).read(path, 10)


def test_a_link_out_of_the_directory_is_not_followed(market: Market, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (market.directory / "metadata" / "link.json").symlink_to(tmp_path / "secret")
    with pytest.raises(MarketplaceTrouble, match="leads out of"):
        Directory(market.directory).read("metadata/link.json", 10)


class Late(Directory):
    """Each file takes `late_s`, by a clock of the test's."""

    def __init__(self, root: Path, clock: list[float], late_s: float) -> None:
        super().__init__(root)
        self._clock = clock
        self._late_s = late_s
        self.read_files: list[str] = []

    def read(self, path: str, max_bytes: int) -> bytes:
        self._clock[0] += self._late_s
        self.read_files.append(path)
        return super().read(path, max_bytes)


def test_one_look_is_bounded_and_the_next_goes_on_from_there(market: Market) -> None:
    """Whoever stands before a marketplace can be late with each of many roots, and nobody could be followed meanwhile."""
    roots = market.directory / "metadata"
    foreign = market.keep("foreign")
    for number in range(2, 9):
        shutil.copy(roots / "1.root.json", foreign / "metadata" / f"{number}.root.json")
    clock = [0.0]
    late = Late(foreign, clock, 14.0)
    followed = Followed(late, Pins((public_key(OTHER),)), market.state, clock=lambda: clock[0])
    told = r"takes too long: after 60 s, metadata/6\.root\.json and perhaps more"
    with pytest.raises(MarketplaceTrouble, match=told) as caught:
        followed.update()
    assert (caught.value.reason, caught.value.retryable) == ("MarketplaceUnreachable", True)
    assert late.read_files == [f"metadata/{number}.root.json" for number in range(1, 6)]

    former = KEY
    for _ in range(8):
        key = Ed25519PrivateKey.generate()
        market.repository.rotate_root([former], Keys((key,), KEY, KEY), [], NOW)
        former = key
    late = Late(market.directory, clock, 14.0)
    followed = Followed(late, PINS, market.state, clock=lambda: clock[0])
    for _ in range(2):
        with pytest.raises(MarketplaceTrouble, match="takes too long"):
            followed.update()
    assert followed.update()[1].root == 9
    assert [late.read_files.count(f"metadata/{number}.root.json") for number in range(1, 10)] == [1] * 9
