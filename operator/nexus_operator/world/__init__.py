"""What the cluster holds, as values: the kinds that are watched and the inventory of their objects. No I/O."""
