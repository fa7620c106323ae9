"""Manifests that change by one field, or lose one object, and keep all else."""

from __future__ import annotations

import pytest
import yaml
from nexus_cli.plugins import edits

PLUGIN = """# Who may call.
apiVersion: nexus.dev/v1alpha1
kind: NexusPlugin
metadata:
  name: api-key
  namespace: shop
spec:
  version: ">=1,<2"  # both work
  enabled: true
"""
OTHER = """apiVersion: nexus.dev/v1alpha1
kind: NexusService
metadata: {name: orders, namespace: shop}
spec: {}
"""
OF = {"kind": "NexusPlugin", "namespace": "shop", "name": "api-key"}


def test_a_version_is_changed_in_its_place() -> None:
    changed = edits.set_field(PLUGIN, "version", '"==1.4.0"', **OF)
    assert changed == PLUGIN.replace('">=1,<2"', '"==1.4.0"')


def test_a_version_that_was_not_there_is_put_first() -> None:
    without = PLUGIN.replace('  version: ">=1,<2"  # both work\n', "")
    changed = edits.set_field(without, "version", '"==1.4.0"', **OF)
    assert yaml.safe_load(changed)["spec"] == {"version": "==1.4.0", "enabled": True}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (PLUGIN, ""),
        (f"---\n{PLUGIN}", ""),
        (f"{PLUGIN}---\n# nothing\n", ""),
        (f"{PLUGIN}---\n{OTHER}", OTHER),
        (f"{OTHER}---\n{PLUGIN}", OTHER),
        (f"{OTHER}---\n{PLUGIN}---\n{OTHER}", f"{OTHER}---\n{OTHER}"),
        (f"---\n{PLUGIN}---\n{OTHER}---\n{OTHER}", f"{OTHER}---\n{OTHER}"),
    ],
)
def test_an_object_is_taken_out(text: str, left: str) -> None:
    assert edits.remove(text, **OF) == left


def test_what_is_not_there_cannot_be_taken_out() -> None:
    with pytest.raises(edits.EditRefused, match="There is no NexusPlugin shop/api-key"):
        edits.remove(OTHER, **OF)
