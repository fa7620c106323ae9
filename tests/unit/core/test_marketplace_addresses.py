"""What of a marketplace's address everybody may read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_core.marketplace.addresses import public_url
from nexus_core.snapshot import PluginInstance, Release
from nexus_core.snapshot.plugins import Candidate, Library
from nexus_core.translate.plugin_instances import kept


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://plugins.example.com/acme/", "https://plugins.example.com/acme/"),
        ("https://reader:secret@plugins.example.com:8443/a@b/", "https://plugins.example.com:8443/a@b/"),
        ("http://a:b@c@[::1]:80/", "http://[::1]:80/"),
        ("http://host/a/?token=secret", "http://host/a/"),
        ("http://host/a/#secret", "http://host/a/"),
        ("http://u:secret@[broken/", "http://[broken/"),
        ("u:secret@host/x", "host/x"),
        ("file:///srv/a%20b/", "file:///srv/a%20b/"),
        ("configmap://ns/name/", "configmap://ns/name/"),
        ("", ""),
    ],
)
def test_the_public_address_has_no_secrets(url: str, public: str) -> None:
    assert public_url(url) == public


@given(st.text())
def test_it_takes_any_text_and_twice_is_once(url: str) -> None:
    assert public_url(public_url(url)) == public_url(url)


def test_what_an_earlier_snapshot_has_of_a_broken_plugin_is_made_public() -> None:
    release = Release(
        name="demo", version="1.0", api=">=1,<2", package="demo", entry_point="demo:P", sha256="0" * 64, url="x.zip"
    )
    library = Library(release=release, public_key="", base_url="https://u:p@other/")
    tried = PluginInstance(id="shop/demo", source="", release=release, public_key="", base_url="https://u:p@tried/")
    instance = PluginInstance(
        id="shop/demo", source="", release=release, public_key="", base_url="https://u:p@host/", libraries=(library,),
        candidate=Candidate(instance=tried),
    )  # fmt: skip
    found = kept(instance, None, None)
    assert (found.base_url, found.libraries[0].base_url) == ("https://host/", "https://other/")
    assert found.candidate is not None
    assert found.candidate.instance.base_url == "https://tried/"
    assert kept(found.candidate.instance, None, None) is found.candidate.instance
