"""The CSI driver csi.twinvault.io: identity, controller and node services."""
