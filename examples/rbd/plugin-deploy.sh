#!/usr/bin/env bash
# Go templates have variables with a dollar sign; REPLACE and FORCE are read by checks.sh.
# shellcheck disable=SC2016,SC2034
# Deploys the driver: looks first whether it can work here, then applies
# deploy/rbd/kubernetes, and waits until it runs on every node.
#
# This file is the order of the steps; what they do is in plugin/:
#   shared.sh       settings, messages, kubectl, the manifests as they are applied
#   checks.sh       what is asked before anything is changed; config.sh reads config.json,
#                   owners.sh whose the objects are that stand there
#   check-nodes.sh  the part of it that looks at the nodes, through the pods of nodes.sh;
#                   check-snapshots.sh what the cluster has for snapshots
#   pods.sh         why pods are not ready or not made, and the roll-out
#
# What a reader gets wrong: Deployment and DaemonSet are replaced, not applied. A merge
# would keep the containers of a ceph-csi that stood there.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=examples/rbd/plugin/shared.sh
source "$HERE/plugin/shared.sh"
# shellcheck source=examples/rbd/plugin/config.sh
source "$HERE/plugin/config.sh"
# shellcheck source=examples/rbd/plugin/nodes.sh
source "$HERE/plugin/nodes.sh"
# shellcheck source=examples/rbd/plugin/pods.sh
source "$HERE/plugin/pods.sh"
# shellcheck source=examples/rbd/plugin/objects.sh
source "$HERE/plugin/objects.sh"
# shellcheck source=examples/rbd/plugin/owners.sh
source "$HERE/plugin/owners.sh"
# shellcheck source=examples/rbd/plugin/snapshots.sh
source "$HERE/plugin/snapshots.sh"
# shellcheck source=examples/rbd/plugin/checks.sh
source "$HERE/plugin/checks.sh"
# shellcheck source=examples/rbd/plugin/check-nodes.sh
source "$HERE/plugin/check-nodes.sh"
# shellcheck source=examples/rbd/plugin/check-snapshots.sh
source "$HERE/plugin/check-snapshots.sh"

usage() {
    cat <<'TEXT'
usage: plugin-deploy.sh [--config FILE] [OPTIONS]

Deploys the driver into the cluster that kubectl talks to. Looks first, and changes nothing
when something is in the way. Run it again to update the driver.

  --config FILE         your config map with the Ceph clusters, made from
                        csi-config-map-sample.yaml; not needed when the cluster has it
  --replace             replace a ceph-csi that is deployed under the same names
  --force               deploy although there are volumes that this version cannot serve, or
                        that need a Ceph cluster which your config map leaves out, or kubelets
                        that know the driver already from elsewhere
  --without-snapshots   deploy without csi-snapshotter; done by itself where the cluster lacks
                        the kinds of snapshots (snapshot.storage.k8s.io)
  --check               only look
  --skip-node-check     do not look at the nodes
TEXT
    shared_options_help
}

CONFIG="" CHECK_ONLY="" SKIP_NODES=""
REPLACE="" FORCE=""

read_options() {
    split_options "$@"
    set -- ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
    while (($#)); do
        case "$1" in
        --config)
            [[ -f ${2-} ]] || usage_error "--config: there is no file '${2-}'"
            CONFIG=$2
            shift 2
            ;;
        --replace) REPLACE=yes && shift ;;
        --force) FORCE=yes && shift ;;
        --without-snapshots) WITHOUT_SNAPSHOTS=yes && shift ;;
        --check) CHECK_ONLY=yes && shift ;;
        --skip-node-check) SKIP_NODES=yes && shift ;;
        *) if shared_option "$@"; then shift 2; else usage_error "unknown argument '$1'"; fi ;;
        esac
    done
    check_settings
}

look_first() {
    heading "Looking whether the driver can work here (nothing is changed)"
    check_kubectl
    check_config "$CONFIG"
    # Without rights the other checks cannot ask.
    check_rights || stop_if_faulty
    check_others
    # Before the manifests, which depend on it.
    check_snapshots
    check_manifests
    check_volumes
    if [[ -n $SKIP_NODES ]]; then
        note "the nodes were not looked at (--skip-node-check)"
    elif ((FAULTS == 0)); then
        check_nodes
    fi
    stop_if_faulty
}

stop_if_faulty() {
    ((FAULTS == 0)) || die "$FAULTS check(s) failed; nothing was changed" "Run this script again when what is said above is done."
}

# Maps that are made here get a label, by which plugin-teardown.sh knows them as ours. With it
# from the first moment: a run that ends in between would leave them as if somebody else's.
apply_config() {
    local named unlabelled
    [[ -n $CONFIG ]] || return 0
    named=$(config_file "$CONFIG" -o name)
    unlabelled=$(kn get configmaps -l "!$MADE_BY" -o name)
    if grep -xF "$named" <<<"$unlabelled" >/dev/null; then
        substitute <"$CONFIG" | kn apply -f - | sed 's/^/   /'
    else
        substitute <"$CONFIG" | k label --local -f - "$MADE_BY=plugin-deploy" -o yaml | kn apply -f - | sed 's/^/   /'
    fi
}

# Pods that stand where ours will and are another program's.
foreign_pods() { kn get pods -l "app in ($DAEMONSET,$DEPLOYMENT),!$PART" -o name; }

# Object by object, since only what exists can be replaced. "keep-roles" leaves the roles that
# are there as they are: a ceph-csi that still runs on some nodes needs more rights than ours,
# which have less and are given when it is gone ("only-roles"). The check before is the same with
# --dry-run=server, and goes on behind what the cluster refuses.
apply_manifests() {
    local roles=$1 dry_run=${2-} object failed=""
    rm -rf "$FOLDER/objects" && mkdir "$FOLDER/objects"
    manifests | awk -v folder="$FOLDER/objects" '
        /^---/ { n++; next }
        { file = sprintf("%s/%03d.yaml", folder, n); print >file }'
    for object in "$FOLDER"/objects/*; do
        apply_object "$object" "$roles" "$dry_run" || failed=yes
        [[ -z $failed || -n $dry_run ]] || break
    done
    [[ -z $failed ]]
}

apply_object() {
    local object=$1 roles=$2 dry_run=$3 existing="" kind
    kind=$(sed -nE 's/^kind: (.*)$/\1/p' "$object")
    # Nothing but comments.
    [[ -n $kind ]] || return 0
    [[ $roles != only-roles || $kind = *Role ]] || return 0
    case "$kind" in
    Deployment | DaemonSet | Role | ClusterRole) existing=$(k get -f "$object" --ignore-not-found -o name) || return 1 ;;
    esac
    if [[ $kind = *Role && -n $existing && $roles = keep-roles ]]; then
        say "$existing: later, when the driver before has ended"
    elif [[ $kind = D* && -n $existing ]]; then
        k replace --save-config ${dry_run:+"$dry_run"} -f "$object" | sed 's/^/   /'
    else
        k apply ${dry_run:+"$dry_run"} -f "$object" | sed 's/^/   /'
    fi
}

# Steps: 1 the pods, 2 the kubelets, which must know the driver before a volume can be used.
await_roll_out() {
    local strategy
    strategy=$(kn get daemonset "$DAEMONSET" -o jsonpath='{.spec.updateStrategy.type}')
    wait_until "$TIMEOUT" rolled_out controller || roll_out_failed "$DEPLOYMENT"
    if [[ $strategy = OnDelete ]]; then
        say "node plugin: its DaemonSet is updated OnDelete: delete its pods, node by node (docs/upgrade.md)"
        return
    fi
    wait_until "$TIMEOUT" rolled_out "node plugin" || roll_out_failed "$DAEMONSET"
    wait_until "$TIMEOUT" kubelets_know || die "the kubelet does not know the driver on: $(kubelets_without)" \
        "is $KUBELET_DIR the kubelets' folder there (--kubelet-dir)? what does examples/rbd/logs.sh say?"
    say "kubelets: all know $DRIVER_NAME"
}

kubelets_know() {
    local without
    without=$(kubelets_without) && [[ -z $without ]]
}

# The nodes that run the node plugin and whose kubelet has not registered it; a silent node's
# cannot.
kubelets_without() {
    local known silent nodes node
    known=$(knowing_nodes) || return 1
    silent=$(silent_nodes) || return 1
    nodes=$(kn get pods -l "app=$DAEMONSET" -o go-template='{{range .items}}{{.spec.nodeName}}{{"\n"}}{{end}}') || return 1
    for node in $nodes; do
        grep -qxF "$node" <<<"$known"$'\n'"$silent" || printf '%s ' "$node"
    done
}

# With OnDelete pods of the driver before may still be there, and keep their rights.
narrow_roles() {
    local left
    left=$(foreign_pods)
    if [[ -z $left ]]; then
        heading "Giving the roles the rights of this driver alone"
        apply_manifests only-roles
    else
        say "the roles keep the rights of the driver before, as long as $(wc -l <<<"$left" | tr -d ' ') of its pods run:"
        say "run this script again when they are gone"
    fi
}

# While a node is silent, Kubernetes updates the node plugin on no other, for one at a time may
# be away; that its pod is deleted by force does not help.
roll_out_failed() {
    local silent where="pods -l app=$1" way_out=()
    silent=$(silent_nodes) || silent=""
    [[ $1 != "$DAEMONSET" || -z $silent ]] ||
        way_out=("Not ready: ${silent//$'\n'/, }. That holds up the update of all nodes. Delete a node that will not come back"
            "($KUBECTL delete node NAME), or update the others yourself, node by node:"
            "$KUBECTL -n $NAMESPACE delete pod -l app=$DAEMONSET --field-selector spec.nodeName=NODE")
    # Pods that are not made have nothing to be described.
    if [[ -n $(not_made "$1") ]]; then
        where="replicasets -l app=$1"
        [[ $1 != "$DAEMONSET" ]] || where="daemonset $1"
    fi
    die "$1 is not ready after $TIMEOUT seconds; what is missing stands above" \
        "Kubernetes goes on trying. Look with: $KUBECTL -n $NAMESPACE describe $where" \
        "then run this script again, or plugin-teardown.sh." \
        ${way_out[@]+"${way_out[@]}"}
}

what_next() {
    heading "The driver $DRIVER_NAME is ready"
    say "Next, with your values in the files:"
    say "  $KUBECTL apply -f $EXAMPLES/secret.yaml        # the Ceph user and its key"
    say "  $KUBECTL apply -f $EXAMPLES/storageclass.yaml  # clusterID and pool"
    say "  $KUBECTL apply -f $EXAMPLES/pvc.yaml -f $EXAMPLES/pod.yaml"
    say "  $KUBECTL get pvc,pod                           # Bound and Running within seconds"
    [[ -n $WITHOUT_SNAPSHOTS ]] ||
        say "  $KUBECTL apply -f $EXAMPLES/snapshotclass.yaml -f $EXAMPLES/snapshot.yaml"
    [[ $DRIVER_NAME = rbd.csi.ceph.com ]] ||
        say "(here $DRIVER_NAME is the provisioner in storageclass.yaml and the driver in static-pv.yaml)"
    say "When something stays Pending: $KUBECTL describe it, and docs/troubleshooting.md"
}

main() {
    local foreign
    read_options "$@"
    make_folder
    look_first
    [[ -z $CHECK_ONLY ]] || exit 0
    heading "Applying"
    apply_config
    foreign=$(foreign_pods)
    apply_manifests "${foreign:+keep-roles}"
    heading "Waiting for it (at most $TIMEOUT seconds for each part)"
    try_again
    await_roll_out
    [[ -z $foreign ]] || narrow_roles
    what_next
}

main "$@"
