#!/bin/sh
# enter_root.sh ROOT [SOURCE TARGET]... -- PROGRAM...: become PROGRAM, chrooted in ROOT,
# with each SOURCE bind-mounted at TARGET. Call it in mount and pid namespaces of its
# own: everything mounted here ends with them, and ROOT itself stays as it is.
set -e
root=$1
shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
for scratch in tmp run mnt; do
    mount -t tmpfs tmpfs "$root/$scratch"
done
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then
        mkdir -p "$root$2"
    else
        mkdir -p "$(dirname "$root$2")"
        touch "$root$2"
    fi
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
