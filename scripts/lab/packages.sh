# shellcheck shell=bash
# What has to be installed, for the lab and for the build. Debian's package names; on
# another distribution nothing is installed, the missing commands are named instead.

LAB_PACKAGES=(ceph-mon ceph-mgr ceph-osd ceph-common user-mode-linux python3-minimal
    kmod iproute2 util-linux procps e2fsprogs xfsprogs cryptsetup-bin busybox-static)
BUILD_PACKAGES=(librados-dev librbd-dev libradospp-dev libblkid-dev libclang-14-dev
    g++ make pkg-config shellcheck python3-venv)
LAB_COMMANDS=(ceph-mon ceph-mgr ceph-osd ceph ceph-authtool monmaptool rbd ip nsenter unshare
    modprobe mkfs.ext4 mkfs.xfs python3)

packages_missing() {
    local package
    for package in "${LAB_PACKAGES[@]}" "${BUILD_PACKAGES[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
    done
}

commands_missing() {
    local name
    [[ $LAB_KERNEL == host ]] || command -v linux.uml >/dev/null || echo linux.uml
    for name in "${LAB_COMMANDS[@]}"; do
        command -v "$name" >/dev/null || echo "$name"
    done
}

packages_install() {
    local missing
    if ! command -v apt-get >/dev/null; then
        missing=$(commands_missing | xargs)
        [[ -n $missing ]] || return 0
        die "this is not Debian; please install what gives: $missing (on Debian: ${LAB_PACKAGES[*]} ${BUILD_PACKAGES[*]})"
    fi
    mapfile -t missing < <(packages_missing)
    if ((${#missing[@]} == 0)); then
        say "every package is installed"
        return 0
    fi
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update || say "apt-get update failed; trying with the lists that are here"
    apt-get -qy install --no-install-recommends "${missing[@]}"
}

packages_require() {
    local missing
    missing=$(commands_missing | xargs)
    [[ -z $missing ]] || die "not installed: $missing; run: lab install"
}
