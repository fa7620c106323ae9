"""Where plugins come from: indexes and their trust, releases and their signatures, artefacts and their cache, publishing."""
