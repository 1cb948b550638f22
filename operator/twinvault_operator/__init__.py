"""The operator: observe the cluster, plan with twinvault_core, apply."""
