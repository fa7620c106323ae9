"""Where the gateway meets sockets, files, clocks and foreign libraries. Thin: the pure rooms decide."""
