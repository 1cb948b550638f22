"""The storage engine of one node: pools, volumes, snapshots, and the agent that drives it."""
