"""The node storage engine: one file for each Linux tool, and the agent that drives it."""
