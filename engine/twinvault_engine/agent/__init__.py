"""The agent of one node: watches what this node should hold and drives the engine."""
