"""Which endpoints are refused, which attempts are repeated, and until when. Pure: `now` and `rng` are handed in."""
