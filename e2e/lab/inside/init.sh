#!/bin/sh
# First program of a node. The kernel starts it on the shared, read-only host root;
# it builds the node's own root (overlay on the node's system disk), moves into it
# and hands over to busybox init, which keeps containerd, kubelet and the exec
# server alive (inittab) and reaps orphans.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
set -e
trap '[ $? = 0 ] || { echo "NODE INIT FAILED"; sleep 1; }' EXIT

# 1. The node's own root. Overlay on overlay is refused, so the state of containerd
#    and kubelet lies beside it on the disk itself.
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
modprobe overlay
mount -t ext4 -o noatime /dev/ubda /mnt
mkdir -p /mnt/upper /mnt/work /mnt/containerd /mnt/kubelet /mnt/log /mnt/opt
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /media
mkdir -p /media/disk /media/old /media/var/lib/containerd /media/var/lib/kubelet
mount --move /mnt /media/disk
mount --move /proc /media/proc
mount --move /sys /media/sys
mount --move /dev /media/dev
cd /media
busybox pivot_root . old
cd /
umount -l /old
mount --bind /disk/containerd /var/lib/containerd
mount --bind /disk/kubelet /var/lib/kubelet
mount --bind /disk/log /var/log
mount -t tmpfs -o mode=755,size=64m tmpfs /run
mount -t tmpfs -o mode=1777,size=128m tmpfs /tmp
mkdir -p /run/lock /run/lab /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,size=64m tmpfs /dev/shm
mount -t mqueue mqueue /dev/mqueue
# Files that the lab adds later (image archives) are seen here, where no overlay
# remembers that they were absent.
mkdir -p /run/host
mount -t hostfs -o ro,hostfs=/lab hostfs /run/host
# shellcheck source=/dev/null
. /run/host/node.env

# 2. Modules that programs use without loading them.
for module in $MODULES; do
    modprobe "$module" || echo "module $module cannot be loaded"
done

# The data disk lies behind a mapping that a test can make fail (data_disk.py), one MiB in, so
# that the disk below never looks like a copy of what is on it.
sectors=$(($(blockdev --getsz /dev/ubdb) - 2048))
dmsetup create data --table "0 $sectors linear /dev/ubdb 2048"

# 3. Control groups: no process may sit in a group that has child groups with
#    controllers, so everything started here goes into a leaf.
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/node
echo $$ > /sys/fs/cgroup/node/cgroup.procs
echo "+cpu +io +memory +pids" > /sys/fs/cgroup/cgroup.subtree_control

# 4. kubelet refuses to start where the clock speed of the CPU is unknown.
awk '{print} /^processor/ {print "cpu MHz\t\t: 2000.000"}' /proc/cpuinfo > /run/cpuinfo
grep -q '^cpu MHz' /proc/cpuinfo || mount --bind /run/cpuinfo /proc/cpuinfo

# 5. Network: vec0 is the node's address, vec1 only carries the exec channel and
#    stays when the site's link is cut.
hostname "$NODE"
echo "$NODE" > /etc/hostname
cp /run/host/hosts /etc/hosts
cp /run/host/resolv.conf /etc/resolv.conf
cp /run/host/inittab /etc/inittab
sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 fs.inotify.max_user_instances=8192 \
    fs.inotify.max_user_watches=262144 kernel.panic_on_oops=1 \
    net.ipv4.ip_unprivileged_port_start=0 vm.overcommit_memory=1
ip link set lo up
ip addr add "$MANAGEMENT_ADDRESS" dev vec1
ip link set vec1 up
ip addr add "$ADDRESS" dev vec0
ip link set vec0 up
ip route add default via "$GATEWAY"
sh /run/host/routes.sh

mount --make-rshared /
echo "node $NODE is up, handing over to init"
trap '[ $? = 0 ] || { echo "NODE INIT FAILED"; sleep 1; }' EXIT
exec busybox init
