# shellcheck shell=bash
# What has to be installed, for the lab and for the build. Debian's package names; on
# another distribution nothing is installed, the missing commands are named instead.

LAB_PACKAGES=(ceph-mon ceph-mgr ceph-osd ceph-common user-mode-linux python3-minimal
    kmod iproute2 util-linux procps e2fsprogs xfsprogs dosfstools btrfs-progs cryptsetup-bin
    strace busybox-static)
BUILD_PACKAGES=(librados-dev librbd-dev libradospp-dev libblkid-dev libclang-14-dev
    g++ make pkg-config shellcheck python3-venv)
# Only when Kubernetes is asked for.
KUBE_PACKAGES=(containernetworking-plugins openssl curl gcc libc6-dev)
# containerd and runc are looked for as commands: Debian's would replace those of a Docker.
KUBE_COMMANDS=(containerd ctr runc openssl curl gcc busybox)
LAB_COMMANDS=(ceph-mon ceph-mgr ceph-osd ceph ceph-authtool monmaptool rbd ip nsenter unshare
    modprobe mkfs.ext4 mkfs.xfs python3)

# packages_missing [--kubernetes]
packages_missing() {
    local package wanted=("${LAB_PACKAGES[@]}" "${BUILD_PACKAGES[@]}")
    if [[ ${1-} == --kubernetes ]]; then
        wanted+=("${KUBE_PACKAGES[@]}")
        for package in containerd runc; do
            command -v "$package" >/dev/null || wanted+=("$package")
        done
    fi
    for package in "${wanted[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

# commands_missing [--kubernetes]
commands_missing() {
    local name wanted=("${LAB_COMMANDS[@]}")
    if [[ ${1-} == --kubernetes ]]; then
        wanted+=("${KUBE_COMMANDS[@]}")
        [[ -x /usr/lib/cni/bridge && -x /usr/lib/cni/host-local && -x /usr/lib/cni/loopback ]] ||
            echo "the CNI plugins in /usr/lib/cni"
    fi
    [[ $LAB_KERNEL == host ]] || command -v linux.uml >/dev/null || echo linux.uml
    for name in "${wanted[@]}"; do
        command -v "$name" >/dev/null || echo "$name"
    done
}

# packages_install [--kubernetes]
packages_install() {
    local missing
    [[ -z ${1-} || $1 == --kubernetes ]] || usage_error "install: unknown argument '$1'"
    if ! command -v apt-get >/dev/null; then
        missing=$(commands_missing "$@" | xargs)
        [[ -n $missing ]] || return 0
        die "this is not Debian; please install what gives: $missing (on Debian: ${LAB_PACKAGES[*]} ${BUILD_PACKAGES[*]}${1:+ containerd runc ${KUBE_PACKAGES[*]}})"
    fi
    mapfile -t missing < <(packages_missing "$@")
    if ((${#missing[@]} == 0)); then
        say "every package is installed"
        return 0
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # Another apt may be at work: that is worth a wait.
    apt-get -q -o DPkg::Lock::Timeout=300 update || say "apt-get update failed; trying with the lists that are here"
    apt-get -qy -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}"
}

# packages_require [--kubernetes]
packages_require() {
    local missing
    missing=$(commands_missing "$@" | xargs)
    [[ -z $missing ]] || die "not installed: $missing; run: lab install${1:+ $1}"
}
