#!/bin/sh
# golden.sh DISK ARCHIVE: import the images of ARCHIVE into the containerd state on
# DISK (an ext4 image). Runs in the nodes' root, in mount, pid and network namespaces
# of its own, so the containerd that it starts ends with it.
set -e
mkdir -p /mnt/disk /run/golden
mount -o loop,noatime "$1" /mnt/disk
mkdir -p /mnt/disk/containerd /var/lib/containerd
mount --bind /mnt/disk/containerd /var/lib/containerd
containerd --config /mnt/files/containerd.toml --log-level error &
daemon=$!
tries=0
until ctr version > /dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 150 ]; then
        echo "containerd did not answer in 30 s" >&2
        exit 1
    fi
    sleep 0.2
done
ctr --namespace k8s.io images import "$2"
ctr --namespace k8s.io images ls -q
kill "$daemon"
wait "$daemon" || true
umount /var/lib/containerd
umount /mnt/disk
