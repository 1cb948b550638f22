#!/bin/sh
# kubelet needs containerd's socket and, at its first start, its kubeconfig.
while [ ! -S /run/containerd/containerd.sock ] || [ ! -e /run/host/kubeconfig ]; do
    sleep 0.1
done
# shellcheck source=/dev/null
. /run/host/node.env
exec /run/host/bin/kubelet --config=/run/host/kubelet.json --kubeconfig=/run/host/kubeconfig \
    --hostname-override="$NODE" --node-ip="$NODE_IP" --node-labels="$LABELS" --v=2
