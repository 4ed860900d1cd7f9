# shellcheck shell=bash
# Kubernetes, etcd and the CSI sidecars, built from their Go modules once for this machine
# and kept outside the checkout, with the images that the nodes get (images.sh).
#
# The folder's name holds a hash of the modules' versions, so a new version is a new
# folder. Each part of it appears by one rename when it is whole: an interrupted build
# leaves nothing that the next would take for a result, and of two builds one waits.
#
# What a reader gets wrong: the first build takes 6 to 10 minutes and 5 GB of Go's own
# caches; everything later takes a second.

KUBE_SCRIPTS=$LAB_SCRIPTS/kubernetes

tools_hash() { cat "$KUBE_SCRIPTS"/{kube,csi}/go.{mod,sum} | sha256sum | cut -c1-12; }
tools_dir() { echo "$LAB_CACHE/kubernetes-$(tools_hash)"; }

# The version of module $2 in the go.mod of $1: programs and images are named after it.
module_version() { awk -v module="$2" '$1 == module && $2 ~ /^v/ { print $2; exit }' "$KUBE_SCRIPTS/$1/go.mod"; }
kubernetes_version() { module_version kube k8s.io/kubernetes; }

# What of the csi module runs in a cluster. The folder that these are built into is named after
# them, so that one more is built where the others are there already.
SIDECARS=(csi-provisioner csi-attacher csi-snapshotter csi-resizer snapshot-controller)
sidecars_dir() { echo "$(tools_dir)/sidecars-$(echo "${SIDECARS[@]}" | sha256sum | cut -c1-12)"; }
sidecar_version() { module_version csi "$(sidecar_module "$1")"; }

sidecar_module() {
    local of=github.com/kubernetes-csi
    case "$1" in
    csi-provisioner) echo $of/external-provisioner/v6 ;;
    csi-attacher) echo $of/external-attacher/v4 ;;
    csi-snapshotter | snapshot-controller) echo $of/external-snapshotter/v8 ;;
    csi-resizer) echo $of/external-resizer/v2 ;;
    esac
}

# Go 1.21 is the first that fetches the release which go.mod asks for by itself.
tools_require_go() {
    local found
    command -v go >/dev/null ||
        die "Kubernetes has to be built, once, and there is no Go: install Go 1.21 or newer and have it on the PATH"
    found=$(GOTOOLCHAIN=local go env GOVERSION)
    [[ $(printf '%s\n' go1.21 "$found" | sort -V | head -n 1) == go1.21 ]] ||
        die "Kubernetes has to be built, once, and $(command -v go) is ${found:-too old}: 1.21 or newer is needed"
}

# go_in MODULE ARGUMENTS…: runs Go in one of the two modules. The lock (9) is not for Go's
# children, which may outlive it.
go_in() {
    local module=$1
    shift
    env -C "$KUBE_SCRIPTS/$module" CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off GOTOOLCHAIN=auto \
        go "$@" 9>&- ||
        die "go $1 failed in $KUBE_SCRIPTS/$module, see above; without a network only what Go's cache holds can be built"
}

# Without these the programs call themselves v0.0.0 and take each other for too old.
kubernetes_flags() {
    local version package=k8s.io/component-base/version
    version=$(kubernetes_version)
    echo "-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version") -X $package.gitTreeState=clean"
}

build_kubernetes() {
    go_in kube build -trimpath -ldflags "$(kubernetes_flags)" -o "$1/" go.etcd.io/etcd/server/v3 \
        k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kubectl} >&2
    mv "$1/server" "$1/etcd"
}

build_sidecars() {
    local program
    for program in "${SIDECARS[@]}"; do
        go_in csi build -trimpath -ldflags "-s -w -X main.version=$(sidecar_version "$program")" -o "$1/" \
            "$(sidecar_module "$program")/cmd/$program" >&2
    done
    mkdir "$1/snapshots"
    snapshots_parts "$1/snapshots" "$1/snapshot-controller"
}

# What a cluster has for snapshots besides a driver, as its modules have it: the six kinds, and
# the controller's rights; and for whoever runs it in the cluster, its Deployment and its image.
snapshots_parts() {
    local dir=$1 program=$2 client controller version
    # Not as arguments, where a failure would be lost.
    client=$(go_in csi list -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8) || exit
    controller=$(go_in csi list -m -f '{{.Dir}}' "$(sidecar_module snapshot-controller)") || exit
    controller+=/deploy/kubernetes/snapshot-controller version=$(sidecar_version snapshot-controller)
    mkdir "$dir/crds"
    # Without kustomization.yaml, which no API server takes.
    install -m 644 "$client"/config/crd/*.storage.k8s.io_*.yaml "$dir/crds/"
    install -m 644 "$controller/rbac-snapshot-controller.yaml" "$dir/rbac.yaml"
    # A release's own manifest may still name the image of the one before.
    sed -E "s|(sig-storage/snapshot-controller):.*|\1:$version|" "$controller/setup-snapshot-controller.yaml" >"$dir/controller.yaml"
    image_of_program "$dir/controller.tar" "$program" "registry.k8s.io/sig-storage/snapshot-controller:$version"
}

# Kubernetes' own test suite, its runner, and the helper that most of its pods run.
build_suite() {
    go_in kube test -c -trimpath -ldflags "$(kubernetes_flags)" -o "$1/e2e.test" k8s.io/kubernetes/test/e2e >&2
    go_in kube build -trimpath -ldflags "$(kubernetes_flags)" -o "$1/" \
        github.com/onsi/ginkgo/v2/ginkgo k8s.io/kubernetes/test/images/agnhost >&2
}

# build_once FOLDER WHAT FUNCTION: has the function fill a folder beside FOLDER, which
# then gets that name. Each has a lock of its own: whoever needs no test suite does not
# wait for its build.
build_once() {
    local dir=$1 part
    [[ ! -d $dir ]] || return 0
    exec 9>"$dir.lock"
    flock --nonblock 9 || { say "waiting for another build of $2 …" && flock 9; }
    if [[ ! -d $dir ]]; then
        rm -rf "$dir".part.* # of a build that was killed: by the lock it runs no more
        part=$(mktemp -d "$dir.part.XXXXXX")
        chmod 755 "$part"
        say "building $2, once for this machine …"
        "$3" "$part"
        mv -T "$part" "$dir"
    fi
    exec 9>&-
}

# And all programs under one roof. A link that is there stays: other labs run through it.
build_programs() {
    local program
    [[ -d $1 ]] || tools_require_go
    build_once "$@"
    for program in "$1"/*; do
        [[ -e $(dirname "$1")/${program##*/} ]] ||
            ln -sfn "$(basename "$1")/${program##*/}" "$(dirname "$1")/${program##*/}"
    done
}

# Builds what is missing; with --e2e also what Kubernetes' test suite needs. Prints the folder.
tools_build() {
    local dir
    dir=$(tools_dir)
    mkdir -p "$dir"
    build_programs "$dir/kubernetes" "Kubernetes $(kubernetes_version) (5 to 8 minutes)" build_kubernetes
    build_programs "$(sidecars_dir)" "the CSI sidecars (2 to 3 minutes)" build_sidecars
    [[ ${1-} != --e2e ]] || build_programs "$dir/suite" "Kubernetes' test suite (3 minutes)" build_suite
    images_build "$dir" "${1-}"
    echo "$dir"
}
