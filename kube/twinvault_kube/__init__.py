"""Access to the Kubernetes API: typed errors, informers, the node Lease, Events."""
