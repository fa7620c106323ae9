"""Which endpoint takes the next attempt, and which backend the next request. Pure: randomness and time are handed in."""
