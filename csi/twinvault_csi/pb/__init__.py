"""Generated from github.com/container-storage-interface/spec v1.13.0, k8s.io/kubelet v0.36.3."""
