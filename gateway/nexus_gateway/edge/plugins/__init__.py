"""Plugins: fetched, verified, loaded, called, and let go without a restart."""
