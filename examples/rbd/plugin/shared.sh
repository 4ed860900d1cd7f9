# shellcheck shell=bash
# What the scripts beside this folder share: their settings, their messages, kubectl with
# time limits, and the manifests as they are applied.
#
# What a reader gets wrong: only bash 3.2, kubectl and POSIX's tools are taken for granted, for
# people deploy from their own machine, which may be no Linux: no jq, no timeout, no mapfile.
set -euo pipefail

EXAMPLES=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
MANIFESTS=${MANIFESTS:-$EXAMPLES/../../deploy/rbd/kubernetes}
MANIFESTS=$(cd "$MANIFESTS" 2>/dev/null && pwd || echo "$MANIFESTS")

KUBECTL=${KUBECTL:-kubectl}
NAMESPACE=${NAMESPACE:-default}
DRIVER_NAME=${DRIVER_NAME:-rbd.csi.ceph.com}
KUBELET_DIR=${KUBELET_DIR:-/var/lib/kubelet}
IMAGE=${IMAGE:-}
TIMEOUT=${TIMEOUT:-300}
# Set by plugin-deploy.sh where csi-snapshotter is left out.
WITHOUT_SNAPSHOTS=""

# Not all scripts use all of these names.
# shellcheck disable=SC2034
{
    # ceph-csi's names of the objects, which are ours.
    DEPLOYMENT=csi-rbdplugin-provisioner
    DAEMONSET=csi-rbdplugin
    CONTAINER=csi-rbdplugin
    CONFIG_MAP=ceph-csi-config
    # On the config map when plugin-deploy.sh has made it, so that plugin-teardown.sh removes no other.
    MADE_BY=rbd-csi.made-by
    # On the pods of our manifests, so that they are known whatever the image is called.
    PART=rbd-csi.part
}
# Where the image stands in the manifests; a version follows.
OWN_IMAGE=quay.io/rbd-csi/rbd-csi

shared_options_help() {
    cat <<'TEXT'
  --namespace NAME      where the driver runs (NAMESPACE, default)
  --driver-name NAME    the name of the CSI driver (DRIVER_NAME, rbd.csi.ceph.com)
  --kubelet-dir PATH    the kubelet's folder on the nodes (KUBELET_DIR, /var/lib/kubelet)
  --image IMAGE         the driver's image (IMAGE, the manifests')
  --kubectl COMMAND     kubectl, with arguments if need be (KUBECTL, kubectl)
  --timeout SECONDS     how long to wait for one thing (TIMEOUT, 300)
  --help                this text
TEXT
}

# Takes the options that all scripts have. Gives 1 for others.
shared_option() {
    case "$1" in
    --namespace | --driver-name | --kubelet-dir | --image | --kubectl | --timeout)
        [[ -n ${2-} ]] || usage_error "$1 needs a value"
        ;;
    --help | -h)
        usage
        exit 0
        ;;
    *) return 1 ;;
    esac
    case "$1" in
    --namespace) NAMESPACE=$2 ;;
    --driver-name) DRIVER_NAME=$2 ;;
    --kubelet-dir) KUBELET_DIR=$2 ;;
    --image) IMAGE=$2 ;;
    --kubectl) KUBECTL=$2 ;;
    --timeout) TIMEOUT=$2 ;;
    esac
}

# Splits --name=value, so that options need one form only. Sets ARGUMENTS.
split_options() {
    local argument
    ARGUMENTS=()
    for argument in "$@"; do
        case "$argument" in
        --*=*) ARGUMENTS+=("${argument%%=*}" "${argument#*=}") ;;
        *) ARGUMENTS+=("$argument") ;;
        esac
    done
}

# They end up in manifests by sed, in names and in scripts on the nodes.
check_settings() {
    local name='^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$' path='^/[-A-Za-z0-9_./]*[-A-Za-z0-9_]$'
    local image='^[-A-Za-z0-9_./:@]*$'
    [[ $NAMESPACE =~ $name ]] || usage_error "'$NAMESPACE' is no name of a namespace"
    [[ $DRIVER_NAME =~ $name && ${#DRIVER_NAME} -le 63 ]] || usage_error "'$DRIVER_NAME' is no name of a CSI driver"
    [[ $KUBELET_DIR =~ $path ]] || usage_error "'$KUBELET_DIR' is no absolute path of a folder"
    [[ $IMAGE =~ $image ]] || usage_error "'$IMAGE' is no name of an image"
    [[ $TIMEOUT =~ ^[1-9][0-9]{0,4}$ ]] || usage_error "'$TIMEOUT' is no number of seconds"
    read -ra KUBECTL_WORDS <<<"$KUBECTL"
}

heading() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
# What to do about it stands in further lines.
die() {
    TOLD=yes
    {
        printf '\n%s: %s\n' "$(basename "$0")" "$1"
        shift
        [[ $# = 0 ]] || printf '  %s\n' "${@//$'\n'/$'\n'  }"
    } >&2
    exit 1
}
usage_error() {
    TOLD=yes
    printf '%s: %s (--help shows what there is)\n' "$(basename "$0")" "$1" >&2
    exit 2
}

# For questions and changes: none of them may hang on a silent API server.
k() { "${KUBECTL_WORDS[@]}" --request-timeout=30s "$@"; }
# The same in the driver's namespace.
kn() { k --namespace "$NAMESPACE" "$@"; }

# Runs on-node.sh with arguments in a pod, at most $3 seconds: the stream may never end, as when
# its node dies. Polled, since bash 3.2 has no better; whoever calls takes the output by a file,
# which a kubectl that is left behind does not keep open for anybody.
in_pod() {
    local pod=$1 container=$2 limit=$3 end job
    shift 3
    end=$((SECONDS + limit))
    "${KUBECTL_WORDS[@]}" --namespace "$NAMESPACE" exec -i "$pod" -c "$container" -- bash -s -- "$@" \
        <"$EXAMPLES/plugin/on-node.sh" &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        if ((SECONDS >= end)); then
            kill "$job" 2>/dev/null || true
            echo "kubectl exec $pod has not ended within $limit seconds"
            return 1
        fi
        sleep 0.2
    done
    wait "$job"
}

# "WHAT, WHAT, …" of the rights that the user lacks. Gives 1, and says why, when nobody answers:
# that is no refusal.
missing_rights() {
    local what said missing=""
    for what in "$@"; do
        # Not quoted: a verb, a resource and perhaps a flag. Behind warnings stands the answer.
        # shellcheck disable=SC2086
        said=$(kn auth can-i $what 2>&1) || true
        case "${said##*$'\n'}" in
        yes | yes\ -*) ;;
        no | no\ -*) missing+=${missing:+, }$what ;;
        *) echo "$said" && return 1 ;;
        esac
    done
    echo "$missing"
}

# The one place where settings get into manifests: reads one, writes it as it is applied. Names
# are quoted, for YAML takes some for numbers.
substitute() {
    sed -E \
        -e "s|^( *(- )?namespace:) default$|\1 \"$NAMESPACE\"|" \
        -e "s|^( *name:) rbd\.csi\.ceph\.com$|\1 \"$DRIVER_NAME\"|" \
        -e "s|rbd\.csi\.ceph\.com|$DRIVER_NAME|g" \
        -e "s|/var/lib/kubelet|$KUBELET_DIR|g" \
        ${IMAGE:+-e "s#(image: *\"?)${OWN_IMAGE//./\\.}:[^\" ]*#\1$IMAGE#"}
}

# All manifests as one stream, but for the config map, which is the user's.
manifests() {
    local file
    for file in "$MANIFESTS"/*.yaml; do
        [[ -e $file ]] || die "there are no manifests in $MANIFESTS" "run this script from a whole checkout"
        [[ $file != */csi-config-map.yaml ]] || continue
        echo "---"
        if [[ -n $WITHOUT_SNAPSHOTS ]]; then substitute <"$file" | without_snapshotter; else substitute <"$file"; fi
    done
}

# Takes csi-snapshotter out of the manifests that are read: its container stands between two
# others, or before the pod's next field.
without_snapshotter() {
    awk '/^        - name: / { out = ($3 == "csi-snapshotter") } /^ ? ? ? ? ? ? ?[^ ]/ { out = 0 } !out'
}

# The image that the driver will have.
image() {
    [[ -z $IMAGE ]] || { echo "$IMAGE" && return; }
    sed -nE "s#.*image: *\"?(${OWN_IMAGE//./\\.}:[^\" ]*).*#\1#p" "$MANIFESTS"/csi-rbdplugin.yaml | head -n 1
}

# Tries a command each two seconds until it says yes or the time is over.
wait_until() {
    local limit=$1 end
    shift
    end=$((SECONDS + limit))
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 2
    done
}

# Calls a function when the script ends, however it ends.
ENDS=()
at_end() { [[ " ${ENDS[*]-} " = *" $1 "* ]] || ENDS+=("$1"); }

# Sets FOLDER, where this run keeps what it needs until it ends.
make_folder() {
    FOLDER=$(mktemp -d)
    at_end remove_folder
}
remove_folder() { rm -rf "$FOLDER"; }

# Whoever ends without a word of its own was stopped by a command that failed.
TOLD=""
finish() {
    local status=$? end
    for end in ${ENDS[@]+"${ENDS[@]}"}; do "$end" || true; done
    [[ $status = 0 || -n $TOLD ]] || printf '\n%s: stopped by the error above; it can be run again\n' "$(basename "$0")" >&2
}
trap finish EXIT
trap 'TOLD=yes; exit 130' INT TERM
