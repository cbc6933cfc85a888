"""Paper-neutral losses: pure functions on arrays."""
