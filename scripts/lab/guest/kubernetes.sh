#!/bin/sh
# Makes this UML node a node of Kubernetes. Runs in the guest, called by the lab:
#
#   start              what containers need of the system, and containerd
#   import FILE…       images, into containerd, unless it has them
#   freeze, thaw       containerd's disk stands still, to be copied for other nodes
#   kubelet [FOLDER]   the kubelet, anew if it runs; its folder, when that is another
#
# Configuration, credentials and logs are in $LAB_DIR/kubernetes/node<N>. The environment
# names the folder of the programs (KUBE_TOOLS).
#
# What a reader gets wrong: what stays must leave the caller's session (setsid), since the
# node's agent ends the process group of a command when the command is done.
set -eu

HERE=$LAB_DIR/kubernetes/node$LAB_NODE
STORE=/var/lib/containerd

# 1. All controllers but cpuset, which this kernel lacks, for the containers' groups. The
#    processes that run already move into a group of their own before that; not the kernel's
#    threads, with which the cpu controller cannot be had (EIO).
prepare_cgroups() {
    mkdir -p /sys/fs/cgroup/init
    while read -r pid; do
        ! readlink "/proc/$pid/exe" >/dev/null || echo "$pid" >/sys/fs/cgroup/init/cgroup.procs
    done </sys/fs/cgroup/cgroup.procs
    for controller in cpu io memory pids; do
        echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
    done
}

# 2. Memory where the root would show what this machine has there; for containerd a disk,
#    whose images outlive the node's end (and which the overlays of the containers need:
#    the root is an overlay itself).
prepare_folders() {
    mkdir -p /dev/mqueue && mount -t mqueue mqueue /dev/mqueue
    mkdir -p "$STORE" && mount -o noatime,noinit_itable /dev/ubda "$STORE"
    for place in /var/lib/cni /var/log/pods /var/log/containers /etc/cni/net.d; do
        mkdir -p "$place"
        mount -t tmpfs -o mode=755 tmpfs "$place"
    done
    cp "$HERE/network.conflist" /etc/cni/net.d/10-pods.conflist
    # Mounts made in a container with Bidirectional propagation are to arrive here.
    mount --make-rshared /
}

# 3. `rbd` is left to its user, as in any node. A container that sees /lib/modules does not
#    see /usr/lib/uml, so a link to there would lead it nowhere.
prepare_modules() {
    modules=/lib/modules/$(uname -r)
    rm -f "$modules" && mkdir -p "$modules"
    mount --bind "/usr/lib/uml/modules/$(uname -r)" "$modules"
    modprobe -a bridge veth loop # loop: the kubelet's for raw block volumes
}

# 4. The kubelet ends when it finds no clock rate.
prepare_cpuinfo() {
    sed '/^model name/a cpu MHz\t\t: 1000.000' /proc/cpuinfo >/run/cpuinfo
    mount --bind /run/cpuinfo /proc/cpuinfo
}

prepare_network() {
    echo 1 >/proc/sys/net/ipv4/ip_forward
    ip route replace default via 10.99.0.1
}

# await SECONDS COMMAND…
await() {
    tries=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "nothing after the time limit: $*" >&2 && return 1; }
        sleep 0.1
    done
}

# daemon NAME COMMAND…
daemon() {
    name=$1
    shift
    # shellcheck disable=SC2016  # expanded by the inner shell
    setsid sh -c 'echo $$ >"$0"; exec "$@"' "/run/$name.pid" "$@" >>"$HERE/$name.log" 2>&1 </dev/null &
}

stop() {
    pid=$(cat "/run/$1.pid" 2>/dev/null) || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    await 10 sh -c "! kill -0 $pid"
}

start_containerd() {
    daemon containerd /usr/bin/containerd --config "$HERE/containerd.toml"
    await 30 ctr --timeout 2s version
}

# What was imported is on the disk before it is called so: the plug may be pulled.
import() {
    ! grep -qxF "$(basename "$1")" "$STORE/imported" 2>/dev/null || return 0
    ctr -n k8s.io images import "$1"
    sync
    basename "$1" >>"$STORE/imported"
    sync
}

case "${1-}" in
start)
    prepare_cgroups
    prepare_folders
    prepare_modules
    prepare_cpuinfo
    prepare_network
    start_containerd
    ;;
import)
    shift
    for file in "$@"; do import "$file"; done
    ;;
freeze)
    stop containerd
    fsfreeze --freeze "$STORE"
    ;;
thaw)
    fsfreeze --unfreeze "$STORE"
    start_containerd
    ;;
kubelet)
    stop kubelet
    daemon kubelet "$KUBE_TOOLS/kubelet" --config="$HERE/kubelet.yaml" --kubeconfig="$HERE/kubeconfig" \
        --hostname-override="node$LAB_NODE" --node-ip="10.99.0.1$LAB_NODE" ${2:+"--root-dir=$2"}
    await 60 busybox wget -q -O /dev/null http://127.0.0.1:10248/healthz
    ;;
*)
    echo "usage: kubernetes.sh start | import FILE… | freeze | thaw | kubelet" >&2
    exit 2
    ;;
esac
