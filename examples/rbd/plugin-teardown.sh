#!/usr/bin/env bash
# shellcheck disable=SC2016,SC2034  # go templates have dollar signs; residue.sh reads PURGE
# Removes what plugin-deploy.sh deployed, when nobody uses it any more, and leaves cluster
# and nodes as they were before.
#
# This file is the order of the steps; what they do is in plugin/:
#   owners.sh    whose the objects are that stand there
#   objects.sh   volumes, attachments and pods that use the driver; snapshots.sh its snapshots
#   residue.sh   what is left on nodes; on-node.sh looks for it there
#
# What a reader gets wrong: Ceph is never touched. Pools are shared, and an image without
# a PersistentVolume may be another cluster's; so commands to look with are printed.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=examples/rbd/plugin/shared.sh
source "$HERE/plugin/shared.sh"
# shellcheck source=examples/rbd/plugin/objects.sh
source "$HERE/plugin/objects.sh"
# shellcheck source=examples/rbd/plugin/owners.sh
source "$HERE/plugin/owners.sh"
# shellcheck source=examples/rbd/plugin/snapshots.sh
source "$HERE/plugin/snapshots.sh"
# shellcheck source=examples/rbd/plugin/nodes.sh
source "$HERE/plugin/nodes.sh"
# shellcheck source=examples/rbd/plugin/pods.sh
source "$HERE/plugin/pods.sh"
# shellcheck source=examples/rbd/plugin/residue.sh
source "$HERE/plugin/residue.sh"

usage() {
    cat <<'TEXT'
usage: plugin-teardown.sh [OPTIONS]

Removes the driver. Refuses while its volumes are in use, and names them. Never touches Ceph.
Can be run again when it stopped half-way.

  --keep-volumes        remove the driver although PersistentVolumes, claims and snapshots are
                        left; they wait for a driver of the same name
  --purge-node-residue  umount and unmap volumes on nodes that no pod uses
  --keep-node-residue   leave those as they are
TEXT
    shared_options_help
}

KEEP_VOLUMES="" PURGE="" KEEP_RESIDUE=""

read_options() {
    split_options "$@"
    set -- ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
    while (($#)); do
        case "$1" in
        --keep-volumes) KEEP_VOLUMES=yes && shift ;;
        --purge-node-residue) PURGE=yes && shift ;;
        --keep-node-residue) KEEP_RESIDUE=yes && shift ;;
        *) if shared_option "$@"; then shift 2; else usage_error "unknown argument '$1'"; fi ;;
        esac
    done
    check_settings
}

# What stands there must be what plugin-deploy.sh makes, and this user must be able to end it.
refuse_what_is_not_ours() {
    local said here
    said=$(k get --raw /version 2>&1) || die "kubectl does not reach a cluster: $said"
    said=$(object_owner)
    [[ -z $said ]] || die "$said" "remove it there"
    here=$(programs_here)
    said=$(other_drivers_here "$here")
    [[ -z $said ]] || die "what runs in namespace $NAMESPACE is the driver ${said//$'\n'/, }, not $DRIVER_NAME; nothing was removed" \
        "To remove that one: --driver-name ${said%%$'\n'*}"
    said=$(other_kubelet_dir)
    [[ -z $said ]] || die "the kubelet's folder is $said here, not $KUBELET_DIR; nothing was removed" "name it: --kubelet-dir $said"
    said=$(runs_elsewhere)
    [[ -z $said ]] || die "$DRIVER_NAME runs from another place, too: ${said//$'\n'/, }" "name it: --namespace"
    said=$(bound_elsewhere)
    [[ -z $said ]] || die "the driver's ClusterRoleBindings are for namespace ${said//$'\n'/, }" "name it: --namespace"
    said=$(foreign_containers "$here")
    [[ -z $said ]] || die "what is deployed here is another driver:" "$said" "remove it with what deployed it"
    refuse_served_by_unknown
    check_rights
}

check_rights() {
    local missing said
    missing=$(missing_rights "create pods" "create pods --subresource=exec" "delete pods" "delete configmaps" \
        "delete leases.coordination.k8s.io" "delete volumeattachments.storage.k8s.io" "patch volumeattachments.storage.k8s.io") ||
        die "the cluster does not answer what you may do: $missing"
    [[ -z $missing ]] || die "you may not: $missing; nothing was removed" "removing a storage driver takes an administrator of the cluster"
    said=$(manifests | k delete --dry-run=server --ignore-not-found -f - 2>&1 >/dev/null) ||
        die "the cluster refuses the removal; nothing was removed" "$said"
}

# Without its CSIDriver it is what an earlier run has left: then only the nodes are missing.
refuse_served_by_unknown() {
    local driver said
    driver=$(k get csidriver "$DRIVER_NAME" --ignore-not-found -o name)
    [[ -n $driver ]] || return 0
    ! wait_until 30 served_by_nobody || return 0
    said=$(served_by_unknown)
    die "$DRIVER_NAME is served by something that is no DaemonSet, on ${said//$'\n'/, }; nothing was removed" \
        "Remove it with what started it. Is it gone? '$KUBECTL delete csidriver $DRIVER_NAME', and run this script again."
}

# Steps: 1 pods, which only their owner may end; 2 attachments, which follow their pods
# within seconds; 3 volumes, claims and snapshots, which would be left to nobody.
refuse_while_used() {
    local used
    used=$(users)
    [[ -z $used ]] || die "these pods use volumes of $DRIVER_NAME; nothing was removed" \
        "$(awk '{ printf "%spod %s on %s: claim %s, volume %s", (NR > 1 ? "\n" : ""), $1, $2, $3, $4 }' <<<"$used")" \
        "" "Delete them, or what makes them, and run this script again."
    if ! wait_until 60 attachments_gone; then
        [[ -n $PURGE ]] || die "volumes are still attached, though no pod uses them; nothing was removed" \
            "$(attachments | awk '{ printf "%svolume %s on %s (%s)", (NR > 1 ? "\n" : ""), $1, $2, $3 }')" \
            "Is the node dead, or the controller not running? --purge-node-residue deletes the attachments."
        end_attachments
    fi
    await_deletions
    refuse_volumes_left
}

# csi-attacher ends them as long as it runs and their volume is there. Of the others nobody
# would ever take its finalizer away; that is all that is left to do, for detaching asks nothing
# of Ceph, and what is still mounted on nodes is looked for next.
end_attachments() {
    local left volume name
    attachments | awk '{ print $3 }' | while read -r name; do
        k delete volumeattachment "$name" --ignore-not-found --wait=false | sed 's/^/   /'
    done
    left=$(attachments)
    while read -r volume _ name; do
        [[ -z $name ]] || attacher_ends "$volume" || take_finalizer "$name"
    done <<<"$left"
    wait_until "$TIMEOUT" attachments_gone || die "these attachments do not go; nothing was removed" "$(attachments)" \
        "what does csi-attacher say? $KUBECTL -n $NAMESPACE logs -l app=$DEPLOYMENT -c csi-attacher" \
        "is somebody else's finalizer on them? $KUBECTL get volumeattachment -o yaml" \
        "does a pod name a claim that is gone? For it Kubernetes makes them anew."
}

# Whether csi-attacher can end an attachment of this volume, - being an inline one.
attacher_ends() {
    local available volume
    available=$(kn get deployment "$DEPLOYMENT" --ignore-not-found -o jsonpath='{.status.availableReplicas}') || return 0
    ((${available:-0} > 0)) || return 1
    [[ $1 != - ]] || return 0
    volume=$(k get persistentvolume "$1" --ignore-not-found -o name) || return 0
    [[ -n $volume ]]
}

# The attacher's alone; the test keeps a list that changes meanwhile from losing another.
take_finalizer() {
    local own=external-attacher/${DRIVER_NAME//./-} at
    at=$(k get volumeattachment "$1" --ignore-not-found \
        -o go-template='{{range $i, $f := .metadata.finalizers}}{{if eq $f "'"$own"'"}}{{$i}}{{end}}{{end}}')
    [[ -n $at ]] || return 0
    say "no csi-attacher ends $1, as none runs or its volume is gone: its finalizer is taken away"
    k patch volumeattachment "$1" --type=json -p '[{"op":"test","path":"/metadata/finalizers/'"$at"'","value":"'"$own"'"},
        {"op":"remove","path":"/metadata/finalizers/'"$at"'"}]' | sed 's/^/   /' || true # it may be gone by now
}

refuse_volumes_left() {
    local left waiting kept
    left=$(volumes | awk '{ printf "volume %s (%s, %s), claim %s\n", $1, $2, $3, $4 }')
    waiting=$(waiting_claims | sed 's/^/waiting claim /')
    # Taken by itself: a listing that failed must not count as an empty one.
    kept=$(snapshots) || die "the cluster does not answer which snapshots there are; nothing was removed"
    kept=$(awk 'NF { printf "snapshot content %s (%s), of snapshot %s\n", $1, $2, $3 }' <<<"$kept")
    left+=${left:+${waiting:+$'\n'}}$waiting
    left+=${left:+${kept:+$'\n'}}$kept
    if [[ -z $left ]]; then
        say "no pod, attachment, volume, claim or snapshot"
    elif [[ -n $KEEP_VOLUMES ]]; then
        say "no pod and no attachment; these wait for a driver of this name (--keep-volumes):"
        show "$left"
    else
        [[ $left != *"(Released, Delete)"* ]] || left+=$'\n'"Those that are Released with the policy Delete are being deleted; '$KUBECTL describe pv' says what is in the way."
        [[ -z $kept ]] || left+=$'\n'"Delete VolumeSnapshots that are not needed, and after them contents with the policy Retain; what is in the way says '$KUBECTL describe volumesnapshotcontent'."
        die "volumes or snapshots are left; nothing was removed" "$left" \
            "Delete claims whose data is not needed, and after them volumes with the policy Retain." \
            "--keep-volumes removes the driver all the same: they wait for one of this name."
    fi
}

attachments_gone() {
    local left
    left=$(attachments) || return 1
    [[ -n $left ]] || return 0
    show_once "waiting for $(wc -l <<<"$left" | tr -d ' ') attachment(s) to end"
    return 1
}

# Kubernetes deletes a volume some seconds after its claim, and a snapshot after its
# VolumeSnapshot: waited for as long as they get fewer.
await_deletions() {
    local left
    while left=$(being_deleted) && ((left > 0)); do
        say "waiting for $left volume(s) and snapshot(s) to be deleted"
        wait_until "$TIMEOUT" fewer_deletions "$left" || return 0
    done
}

being_deleted() {
    local listed kept
    listed=$(volumes) || return 1
    kept=$(snapshots) || return 1
    awk '/ Released Delete / || $4 == "deleted" { n++ } END { print n + 0 }' <<<"$listed"$'\n'"$kept"
}

fewer_deletions() {
    local left
    left=$(being_deleted) && ((left < $1))
}

# Steps: 1 the pods, so that the plugins take their sockets away themselves; 2 the other
# objects; 3 what others have made for the driver: leases, by the sidecars.
remove_objects() {
    local lease name=${DRIVER_NAME//./-}
    kn delete "deployment/$DEPLOYMENT" "daemonset/$DAEMONSET" --ignore-not-found --timeout=30s | sed 's/^/   /'
    wait_until "$TIMEOUT" pods_gone || die "the driver's pods do not end" "$KUBECTL -n $NAMESPACE get pods -o wide" \
        "Run this script again when they have. Those of a node that is not ready do when it is back, or when" \
        "it is deleted ($KUBECTL delete node NAME); --keep-node-residue does not wait for them."
    manifests | k delete --ignore-not-found "--timeout=${TIMEOUT}s" -f - | sed 's/^/   /'
    kn delete configmaps -l "$MADE_BY=plugin-deploy" --timeout=30s | { grep -v 'No resources' || true; } | sed 's/^/   /'
    for lease in "$name" "external-attacher-leader-$name" "external-snapshotter-leader-$name" "external-resizer-$name"; do
        kn delete lease "$lease" --ignore-not-found --timeout=30s | sed 's/^/   /'
    done
}

# A node that is not ready never says that its pods have ended.
pods_gone() {
    local left silent=""
    left=$(kn get pods -l "app in ($DAEMONSET,$DEPLOYMENT)" -o go-template='{{range .items}}{{or .spec.nodeName "-"}} {{.metadata.name}}{{"\n"}}{{end}}') || return 1
    if [[ -n $KEEP_RESIDUE ]]; then silent=$(silent_nodes) || return 1; fi
    left=$(awk -v silent=" ${silent//$'\n'/ } " 'NF && !index(silent, " " $1 " ")' <<<"$left")
    [[ -n $left ]] || return 0
    show_once "waiting for $(wc -l <<<"$left" | tr -d ' ') pod(s) to end"
    return 1
}

about_ceph() {
    local pool
    heading "Ceph was not touched. To look at what is there:"
    for pool in ${1:-POOL}; do
        say "rados -p $pool listomapvals csi.volumes.default   # which claim has which volume"
        say "rbd -p $pool ls | grep csi-vol-                   # the images"
        say "rbd -p $pool trash ls                             # deleted, not purged yet"
    done
}

about_the_rest() {
    local object
    [[ -n $1 ]] || return 0
    heading "What this script did not make was left. To delete what nobody else needs:"
    while read -r object; do say "$KUBECTL delete $object"; done <<<"$1"
}

main() {
    local pools rest
    read_options "$@"
    make_folder
    heading "Who uses the driver $DRIVER_NAME"
    refuse_what_is_not_ours
    refuse_while_used
    pools=$(pools)
    rest=$(users_objects)
    use_running_image
    heading "What is left on the nodes"
    clear_residue
    lookers_end
    heading "Removing"
    remove_objects
    heading "The driver's folders on the nodes"
    sweep_nodes
    about_the_rest "$rest"
    about_ceph "$pools"
    heading "The driver $DRIVER_NAME is removed"
}

main "$@"
