"""What runs plugins, in whatever process: their code in memory, their limits, and what they may use."""
