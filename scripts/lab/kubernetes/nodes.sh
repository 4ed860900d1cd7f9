# shellcheck shell=bash
# What makes a krbd node a node of Kubernetes: containerd, the images and a kubelet, set up
# in the guest by guest/kubernetes.sh after the configuration that is written here.
#
# What a reader gets wrong: of a node only containerd's disk outlives its end, with images
# and dead containers. What the kubelet knew is gone, as are the pods' mounts; it starts
# those pods that the API server still gives it.

KUBE_NODE_LIMIT=180 # seconds: the images' import is the long part, on one slow CPU

kube_node_dir() { echo "$(kube_dir)/node$1"; }
kube_disk() { echo "$(kube_node_dir "$1")/disk"; }
# containerd's disk with the images of a new lab, as the first lab's first node had it: copied
# here it is there in a second; their import takes a minute, and a copy inside the node ten seconds.
kube_store() { cat "$(kube_dir)/store"; }

# Runs the guest's part in node $1, with a time limit; silent unless it fails.
kube_guest() {
    local n=$1
    shift
    node_client "$n"
    limited "$KUBE_NODE_LIMIT" "${CLIENT[@]}" --env "KUBE_TOOLS=$(kube_tools)" -- sh "$LAB_SCRIPTS/guest/kubernetes.sh" "$@"
}

kube_write_containerd() {
    cat <<CONF
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$PAUSE_IMAGE"
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
CONF
}

# No masquerading, so no netfilter: the lab's namespace routes to the pods.
kube_write_network() {
    cat <<CONF
{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.97.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
CONF
}

# clusterDNS: nobody is there, but with it dnsPolicy ClusterFirst, which is the default, is
# no cause for warnings at each pod. Eviction looks at the file systems of this machine.
kube_write_kubelet() {
    cat <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $(kube_dir)/pki/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [10.98.0.10]
clusterDomain: cluster.local
enforceNodeAllocatable: []
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
failSwapOn: false
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 5s
resolvConf: ""
volumePluginDir: /var/lib/kubelet/volume-plugins
CONF
}

# Boots node $1 as a node of Kubernetes; Ready, with all images, at return.
kube_node_start() {
    local n=$1 dir
    dir=$(kube_node_dir "$n")
    mkdir -p "$dir"
    kube_write_containerd >"$dir/containerd.toml"
    kube_write_network "$n" >"$dir/network.conflist"
    kube_write_kubelet >"$dir/kubelet.yaml"
    (umask 077; cp "$(kube_dir)/node$n.kubeconfig" "$dir/kubeconfig")
    [[ -e $dir/disk ]] || kube_make_disk "$dir/disk"
    node_start "$n"
    ip -n "$NETNS" route replace "10.97.$n.0/24" via "$(node_ip "$n")"
    kube_guest "$n" start || { kube_node_logs "$n" && return 1; }
    kube_guest "$n" import "$(kube_dir)"/images/*.tar || { kube_node_logs "$n" && return 1; }
    kube_keep_store "$n"
    # Asked for before there is an API server, the kubelet would wait longer and longer.
    await "$KUBE_LIMIT" "the API server" "$(kube_log apiserver)" kubectl get serviceaccount default
    kube_guest "$n" kubelet || { kube_node_logs "$n" && return 1; }
    await "$KUBE_LIMIT" "node $n to be Ready" "$dir/kubelet.log" kube_node_ready "$n"
}

kube_make_disk() {
    if [[ -e $(kube_store) ]]; then
        limited "$KUBE_LIMIT" cp --sparse=always "$(kube_store)" "$1"
        return
    fi
    truncate -s 16G "$1" # sparse: it takes what is written
    limited "$KUBE_LIMIT" mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$1"
}

# Only a node that has nothing but a new lab's images; the rename makes it whole at once.
kube_keep_store() {
    local store
    store=$(kube_store)
    [[ $1 == 1 && ! -e $store && -z $(find "$(kube_dir)/images" -name 'loaded-*') ]] || return 0
    find "$(kube_tools)" -maxdepth 1 -name 'store-*.part.*' -mmin +60 -delete # of labs that were killed
    kube_guest "$1" freeze
    cp --sparse=always "$(kube_disk "$1")" "$store.part.$$" && mv "$store.part.$$" "$store"
    kube_guest "$1" thaw
}

kube_node_logs() {
    show_log "$(kube_node_dir "$1")/containerd.log"
    show_log "$(kube_node_dir "$1")/kubelet.log"
}

# Of a node that was booted again the API server keeps the old state for a while: its boot
# id tells whether what is there is about the kernel that runs now. As long as one of the
# two taints is left, a pod would find no place.
kube_node_ready() {
    local boot facts
    node_client "$1"
    boot=$(timeout 5 "${CLIENT[@]}" -- cat /proc/sys/kernel/random/boot_id) || return 1
    facts=$(kubectl get node "node$1" -o \
        'jsonpath={.status.nodeInfo.bootID} {.status.conditions[?(@.type=="Ready")].status} {.spec.taints[*].key}') || return 1
    [[ $facts == "$boot True "* && $facts != */not-ready* && $facts != */unreachable* ]]
}

# Another folder is the kubelet's until the next restart, and has nothing of the first one's.
kube_kubelet_restart() {
    local n=$1 folder=${2-}
    alive "$(node_pid "$n")" || die "node $n is not running"
    kube_guest "$n" kubelet ${folder:+"$folder"} || { kube_node_logs "$n" && return 1; }
    ! kube_ready apiserver >/dev/null 2>&1 ||
        await "$KUBE_LIMIT" "node $n to be Ready" "$(kube_node_dir "$n")/kubelet.log" kube_node_ready "$n"
}

# image-load FILE…: into every running node, and kept for those that are booted later.
kube_image_load() {
    local file kept=() jobs=() n
    (($#)) || usage_error "image-load FILE.tar…"
    for file in "$@"; do
        [[ -s $file ]] || die "there is no $file"
        kept+=("$(kube_keep_image "$file")")
    done
    for n in $(nodes); do
        alive "$(node_pid "$n")" || continue
        kube_guest "$n" import "${kept[@]}" &
        jobs+=($!)
    done
    for n in "${jobs[@]}"; do wait "$n" || die "the import failed, see above"; done
}

# A copy under a name of its own (a node would not notice that a file has been replaced),
# which sorts behind those that are there; what was kept under the file's name goes.
kube_keep_image() {
    local dir name
    dir=$(kube_dir)/images name=$(basename "$1")
    rm -f "$dir/loaded-"*"-$name"
    cp "$1" "$dir/loaded-$(date +%s%N)-$name"
    echo "$dir"/loaded-*"-$name"
}
