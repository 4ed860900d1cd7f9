#!/bin/sh
# The first process of a UML node: makes a writable root, the network and the kernel
# modules, then runs the command agent and powers off when it ends.
#
# What a reader gets wrong: the overlay keeps what it has once seen of a host file, so
# whatever changes while the node runs (the lab's folder, the checkout with its target/)
# is mounted straight from the host over it: the lab's folder writable, the rest not.
# Not busybox: its shell starts commands through /proc/self/exe, which before /proc is
# mounted is the host's, and that is the UML kernel itself.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# 1. Before the new root: /mnt, memory of our own, and the overlay module from where
#    Debian's package has it (modprobe wants <dir>/lib/modules/<version>).
prepare_root() {
    mount -n -t proc proc /proc
    mount -n -t sysfs sysfs /sys
    mount -n -t tmpfs -o mode=755 tmpfs /mnt
    mkdir -p /mnt/kmod/lib/modules /mnt/upper /mnt/work /mnt/root
    ln -s "/usr/lib/uml/modules/$(uname -r)" /mnt/kmod/lib/modules/
    modprobe -d /mnt/kmod overlay
    mount -n -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
    mkdir -p /mnt/root/.host
    cd /mnt/root && pivot_root . .host
}

# 2. The places that a Linux system expects.
mount_system() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev
    mkdir -p /dev/pts /dev/shm /sys/fs/cgroup
    mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    umount -l /.host
    for place in /run /tmp /var/lib/kubelet; do
        mkdir -p "$place" && mount -t tmpfs -o mode=1777 tmpfs "$place"
    done
    chmod 755 /run /var/lib/kubelet
    mkdir -p /run/lock /etc/ceph
}

# 3. The host's folders that must be seen as they are now.
mount_live() {
    for place in $LAB_LIVE; do
        mkdir -p "$place" && mount -t hostfs -o "$place" hostfs "$place" && mount -o remount,ro "$place"
    done
    mkdir -p "$LAB_DIR"
    mount -t hostfs -o "$LAB_DIR" hostfs "$LAB_DIR"
}

# 4. `rbd` is left to its user: loading it is the driver's business. cbc and aes are what
#    the kernel needs to take a cephx key; without them adding it fails with ENOENT.
load_modules() {
    mkdir -p /lib/modules
    ln -sfn "/usr/lib/uml/modules/$(uname -r)" "/lib/modules/$(uname -r)"
    modprobe -a cbc aes_generic
}

start_network() {
    hostname "node$LAB_NODE"
    echo "node$LAB_NODE" >/etc/hostname
    ip link set lo up
    ip addr add "10.99.0.1$LAB_NODE/24" dev vec0
    ip link set vec0 up
    ip addr add "10.98.$LAB_NODE.2/24" dev vec1
    ip link set vec1 up
}

if [ "${1-}" != second ]; then
    # shellcheck source=/dev/null
    . "$LAB_BOOT"
    export LAB_NODE LAB_DIR LAB_SCRIPTS LAB_LIVE AGENT_PORT CEPH_CONF
    prepare_root
    exec chroot . /bin/sh "$0" second </dev/null
fi
cd /
mount_system
mount_live
load_modules
start_network
HOME=/root
export HOME
unset LAB_LIVE
# A child, not exec: this shell stays as process 1 and takes in orphans.
/usr/bin/python3 -IS "$LAB_SCRIPTS/guest/agent.py" "10.98.$LAB_NODE.2" "$AGENT_PORT" &
wait $!
sync
busybox poweroff -f
