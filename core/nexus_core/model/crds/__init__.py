"""CustomResourceDefinitions made from the models: `python -m nexus_core.model.crds [--check] crds`."""

from nexus_core.model.crds.definitions import build_crds, file_name, to_yaml

__all__ = ["build_crds", "file_name", "to_yaml"]
