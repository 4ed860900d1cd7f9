# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# What plugin-deploy.sh asks of the cluster for snapshots: their kinds and the snapshot-controller.
#
# What a reader gets wrong: providers may run the controller where nobody sees it, so that none is
# seen is no proof that there is none, and csi-snapshotter is deployed all the same. Without the
# kinds it is not.

# Where the kinds and the controller come from: the tested version.
SNAPSHOTTER_SOURCE=https://github.com/kubernetes-csi/external-snapshotter
SNAPSHOTTER_VERSION=v8.7.0

# "NAMESPACE/NAME READY" of Deployments that are a snapshot-controller by their container.
snapshot_controllers() {
    local listed
    listed=$(k get deployments.apps --all-namespaces -o go-template='{{range .items}}{{$o := .metadata}}{{$ready := or .status.availableReplicas 0}}{{/*
        */}}{{range .spec.template.spec.containers}}{{$o.namespace}}/{{$o.name}} {{$ready}} {{.name}} {{.image}}{{"\n"}}{{end}}{{end}}') || return 1
    awk '($3 " " $4) ~ /snapshot-controller/ && !seen[$1]++ { print $1, $2 }' <<<"$listed"
}

# Without the kinds of snapshots csi-snapshotter would have nothing to serve; all else works. It
# sets WITHOUT_SNAPSHOTS, which check_manifests and the deployment go by.
check_snapshots() {
    local missing
    if [[ -n $WITHOUT_SNAPSHOTS ]]; then
        note "no csi-snapshotter is deployed, as you say (--without-snapshots)"
    elif ! missing=$(missing_snapshot_kinds); then
        fault "the cluster does not answer whether it has the kinds of snapshots:"
        quote "$missing"
    elif [[ -n $missing ]]; then
        WITHOUT_SNAPSHOTS=yes
        note "the cluster lacks kinds of snapshots ($missing): the driver is deployed without csi-snapshotter" \
            "For snapshots, install them and their controller, and run this script again:" \
            "$KUBECTL apply -k '$SNAPSHOTTER_SOURCE/client/config/crd?ref=$SNAPSHOTTER_VERSION'" \
            "$(controller_command)"
    else
        check_snapshot_controller
    fi
}

check_snapshot_controller() {
    local seen ready
    seen=$(snapshot_controllers) || { fault "cannot list the Deployments" && return; }
    ready=$(awk '$2 > 0 { print $1 }' <<<"$seen")
    if [[ -n $ready ]]; then
        ok "kinds of snapshots, and the snapshot-controller ${ready//$'\n'/, }"
    elif [[ -n $seen ]]; then
        note "the snapshot-controller ${seen%% *} has no pod that is ready: until it has, no snapshot is made or deleted"
    else
        note "the cluster has the kinds of snapshots, and no snapshot-controller is to be seen: until one runs, no" \
            "snapshot is made or deleted. Providers may hide theirs; to install one:" "$(controller_command)"
    fi
}

controller_command() {
    echo "$KUBECTL apply -k '$SNAPSHOTTER_SOURCE/deploy/kubernetes/snapshot-controller?ref=$SNAPSHOTTER_VERSION'"
}
