"""Training runs: their directories, their processes, what they will cost, and what has become of them."""
