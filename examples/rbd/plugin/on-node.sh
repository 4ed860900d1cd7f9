# shellcheck shell=bash
# Runs inside a pod on a node, by `kubectl exec … bash -s -- COMMAND … <on-node.sh`, with
# what the driver's image has.
#
#   look KUBELET_DIR [HOST PORT]…   what the node must have, for plugin-deploy.sh
#   residue KUBELET_DIR DRIVER      what the driver left on it, for plugin-teardown.sh
#   purge KUBELET_DIR DRIVER        takes that away
#   sweep KUBELET_DIR DRIVER        the driver's own folders, when it is gone itself
#
# What a reader gets wrong: nothing is found by an image's name. Another driver, or a
# person, may have mapped images on this node; what is ours is said by the kubelet's
# vol_data.json, by the stash in the staging folder, and by what is mounted there.
set -u

look() {
    look_for_module
    if [ -d "$KUBELET/plugins_registry" ]; then
        echo "ok the kubelet's folder is $KUBELET"
    else
        echo "bad there is no $KUBELET/plugins_registry here: the kubelet's folder is another (--kubelet-dir)"
    fi
    while [ $# -ge 2 ]; do
        look_for_monitor "$1" "$2" &
        shift 2
    done
    wait
}

look_for_module() {
    local words
    if [ -d /sys/bus/rbd ]; then
        echo "ok the kernel module rbd is loaded"
    elif words=$(modprobe --dry-run rbd 2>&1); then
        echo "ok the kernel module rbd is there"
    else
        echo "bad the kernel $(uname -r) has no module rbd: ${words##*modprobe: }"
    fi
}

look_for_monitor() {
    local words
    # A silent address would be waited for for minutes. The inner bash expands its arguments.
    # shellcheck disable=SC2016
    if words=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>&1); then
        echo "monitor yes $1 $2"
    elif [ -z "$words" ]; then
        echo "monitor no $1 $2 no answer within 5 seconds: a firewall, or no such host"
    else
        words=${words%%$'\n'*}
        echo "monitor no $1 $2 ${words##*: }"
    fi
}

# A field of the one-line JSON that kubelet and driver write.
field() { sed -nE "s/.*\"$2\": *\"([^\"]*)\".*/\1/p" "$1" 2>/dev/null | head -n 1; }

# Where the kernel shows the mapped images, and processes.
BUS=${BUS:-/sys/bus/rbd}
PROC=${PROC:-/proc}
DEVICES=$BUS/devices

is_ours() { [ "$(field "$1" driverName)" = "$DRIVER" ]; }

# Folders of volumes that the kubelet has, or had, staged for this driver.
staging_folders() {
    local folder name
    for folder in "$KUBELET"/plugins/kubernetes.io/csi/"$DRIVER"/*/; do
        [ -d "$folder" ] && echo "${folder%/}"
    done
    block_volumes | while read -r name; do
        for folder in staging/"$name" publish/"$name" "$name"; do
            folder=$KUBELET/plugins/kubernetes.io/csi/volumeDevices/$folder
            [ -d "$folder" ] && echo "$folder"
        done
    done
}

# Names of this driver's block volumes; those of all drivers stand side by side.
block_volumes() {
    local data name
    for data in "$KUBELET"/plugins/kubernetes.io/csi/volumeDevices/*/data/vol_data.json; do
        is_ours "$data" || continue
        name=${data%/data/vol_data.json}
        echo "${name##*/}"
    done
}

# What pods' folders have of volumes: the folder, its parts that are mounted by themselves
# (subPath), and the links to block volumes.
pod_folders() {
    local data name link
    for data in "$KUBELET"/pods/*/volumes/kubernetes.io~csi/*/vol_data.json; do
        is_ours "$data" || continue
        name=${data%/vol_data.json}
        [ -d "${name%/volumes/*}/volume-subpaths/${name##*/}" ] && echo "${name%/volumes/*}/volume-subpaths/${name##*/}"
        echo "$name"
    done
    block_volumes | while read -r name; do
        for link in "$KUBELET"/pods/*/volumeDevices/kubernetes.io~csi/"$name"; do
            if [ -e "$link" ] || [ -L "$link" ]; then echo "$link"; fi
        done
    done
}

# Mount points at or below a folder, the deepest first.
mounts_below() {
    local below=$1
    awk -v below="$below" '$5 == below || index($5, below "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r
}

# The numbers of the rbd devices that a folder stands for: what is mounted there, a file
# system or a device's file, and what the stash names.
devices_of() {
    local folder=$1 stash
    awk -v below="$folder" '$5 == below || index($5, below "/") == 1' /proc/self/mountinfo |
        sed -nE 's#.*[ /]rbd([0-9]+)(p[0-9]+)? .*#\1#p'
    for stash in "$folder"/image-meta.json "$folder"/globalmount/image-meta.json; do
        [ ! -e "$stash" ] || devices_stashed "$stash"
    done
}

# Pools and images of two clusters may have the same names, and ceph-csi notes no fsid: where
# several devices fit, only what is mounted tells which is ours.
devices_stashed() {
    local stash=$1 device found=""
    for device in "$DEVICES"/*; do
        ! is_stashed "$device" "$stash" || found="$found ${device##*/}"
    done
    # Not quoted: a word for each.
    # shellcheck disable=SC2086
    set -- $found
    if [ $# -le 1 ] || [ -n "$(field "$stash" fsid)" ]; then
        for device in "$@"; do echo "$device"; done
    fi
}

is_stashed() {
    local device=$1 stash=$2 pair fsid
    for pair in name:image pool:pool pool_ns:radosNamespace; do
        [ "$(cat "$device/${pair%:*}" 2>/dev/null)" = "$(field "$stash" "${pair#*:}")" ] || return 1
    done
    fsid=$(field "$stash" fsid)
    [ -z "$fsid" ] || [ "$(cat "$device/cluster_fsid" 2>/dev/null)" = "$fsid" ]
}

image_of() {
    local device=$DEVICES/$1 space
    space=$(cat "$device/pool_ns" 2>/dev/null)
    echo "$(cat "$device/pool" 2>/dev/null)/${space:+$space/}$(cat "$device/name" 2>/dev/null)"
}

# Processes that have the file system of one of these devices mounted elsewhere than in the
# kubelet's folder: a container keeps what was mounted when it began, whatever is umounted
# outside of it, and whether the cluster still knows its pod and volume or not.
users_of() {
    local device id
    for device in "$@"; do
        id="$(cat "$DEVICES/$device/major" 2>/dev/null):$(cat "$DEVICES/$device/minor" 2>/dev/null)"
        grep -HF " $id " "$PROC"/[0-9]*/mountinfo 2>/dev/null |
            awk -v at="$PROC/" -v id="$id" -v kubelet="$KUBELET/" '
                { process = substr($1, length(at) + 1); sub(/\/.*/, "", process) }
                $3 == id && !index($5, kubelet) && !seen[process]++ { print process }'
    done | sort -un | head -n 3 | while read -r device; do
        echo "process $device ($(cat "$PROC/$device/comm" 2>/dev/null))"
    done | paste -sd, - | sed 's/,/, /g'
}

# A line for each thing; nothing when the node is clean.
residue() {
    local folder device users
    { pod_folders; staging_folders; } | while read -r folder; do
        echo "folder $folder"
        mounts_below "$folder" | sed 's/^/mount  /'
        for device in $(devices_of "$folder" | sort -un); do
            users=$(users_of "$device")
            echo "device /dev/rbd$device, image $(image_of "$device")${users:+, in use by $users}"
        done
    done | awk '!seen[$0]++'
}

# Steps for each folder that no container uses, pods' first: 1 remember its devices, 2 umount,
# 3 unmap, 4 remove what is empty by then and the notes in it. Whatever does not go is said,
# and stays, with the notes that tell of it the next time.
purge() {
    local list=/tmp/rbd-csi-folders.$$ folder mount device devices users
    : >"$list"
    { pod_folders; staging_folders; } | while read -r folder; do
        devices=$(devices_of "$folder" | sort -un | paste -s -d ' ' -)
        # Not quoted: a word for each.
        # shellcheck disable=SC2086
        users=$(users_of $devices)
        if [ -z "$users" ]; then echo "$folder $devices" >>"$list"; else echo "not touched, in use by $users: $folder"; fi
    done
    while read -r folder _; do
        for mount in $(mounts_below "$folder"); do
            timeout 30 umount "$mount" && echo "umounted $mount"
        done
    done <"$list"
    for device in $(cut -s -d ' ' -f 2- "$list" | tr ' ' '\n' | sort -un); do unmap "$device"; done
    while read -r folder devices; do
        # shellcheck disable=SC2086
        are_mapped $devices || remove_folder "$folder"
    done <"$list"
    rm -f "$list"
}

are_mapped() {
    local device
    for device in "$@"; do [ ! -d "$DEVICES/$device" ] || return 0; done
    return 1
}

unmap() {
    local image door=$BUS/remove_single_major
    [ -d "$DEVICES/$1" ] || return 0
    image=$(image_of "$1")
    [ -e "$door" ] || door=$BUS/remove
    # The kernel refuses while somebody has it open; then it stays.
    if (echo "$1" >"$door") 2>/dev/null; then
        echo "unmapped /dev/rbd$1, image $image"
    else
        echo "/dev/rbd$1 (image $image) is still in use here: not unmapped"
    fi
}

# Files that kubelet and driver are known to write there, and then empty folders only: a
# mount that is still there must not be emptied.
remove_folder() {
    [ -z "$(mounts_below "$1")" ] || return 0
    find "$1" -xdev -type f \( -name vol_data.json -o -name image-meta.json \) -delete 2>/dev/null
    # Files on which a block volume's device or a single file was mounted, and the kubelet's
    # links to them.
    case "$1" in
    */volumeDevices/* | */volume-subpaths/*) find "$1" -xdev \( -type f -size 0 -o -type l \) -delete 2>/dev/null ;;
    esac
    find "$1" -xdev -depth -type d -empty -delete 2>/dev/null
    [ -e "$1" ] || [ -L "$1" ] || echo "removed $1"
}

# Whoever registers a driver listens at a socket of this name, in whatever folder that is for
# it; this pod is in the node's network, as node plugins are.
is_served() {
    awk -v end="/$DRIVER-reg.sock" 'substr($8, length($8) - length(end) + 1) == end { found = 1 } END { exit !found }' "${UNIX_SOCKETS:-/proc/net/unix}"
}

# After the pods have ended: sockets, and folders if they are empty. The kubelet makes those
# below kubernetes.io when a volume needs them, and leaves them behind.
sweep() {
    local path csi=$KUBELET/plugins/kubernetes.io/csi
    if is_served; then
        echo "left $KUBELET/plugins/$DRIVER: another process serves $DRIVER here, its sockets were not touched"
        return
    fi
    rm -f "$KUBELET/plugins/$DRIVER"/*.sock "$KUBELET/plugins_registry/$DRIVER-reg.sock"
    for path in "$KUBELET/plugins/$DRIVER" "$csi/$DRIVER"; do
        [ -d "$path" ] || continue
        rmdir "$path" 2>/dev/null && echo "removed $path" && continue
        echo "left $path: $(find "$path" -mindepth 1 | head -n 3 | tr '\n' ' ')"
    done
    for path in "$csi"/volumeDevices/publish "$csi"/volumeDevices/staging "$csi"/volumeDevices "$csi" "${csi%/csi}"; do
        rmdir "$path" 2>/dev/null && echo "removed $path"
    done
    residue | sed 's/^/left /'
}

COMMAND=$1 KUBELET=$2
shift 2
case "$COMMAND" in
look) look "$@" ;;
residue | purge | sweep)
    DRIVER=$1
    "$COMMAND"
    ;;
esac
