"""NexusPlugins where they are kept: manifests on disk, or a cluster."""
