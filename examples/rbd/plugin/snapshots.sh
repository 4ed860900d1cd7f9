# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# The kinds of snapshots, and which of this driver the cluster has.
#
# What a reader gets wrong: the kinds are no driver's. A cluster has them once for all drivers, or
# not at all; then there are no snapshots either.

SNAPSHOTS_GROUP=snapshot.storage.k8s.io

# "KIND, KIND, …" that csi-snapshotter needs and the cluster lacks. Gives 1, and says why, when
# nobody answers. Asked for by their API, which everybody may see.
missing_snapshot_kinds() {
    local said kind missing=""
    if ! said=$(k get --raw "/apis/$SNAPSHOTS_GROUP/v1" 2>&1); then
        [[ $said = *NotFound* ]] || { echo "$said" && return 1; }
        said=""
    fi
    for kind in volumesnapshotclasses volumesnapshotcontents volumesnapshots; do
        grep -qE "\"name\": *\"$kind\"" <<<"$said" || missing+=${missing:+, }$kind
    done
    echo "$missing"
}

# "NAME POLICY SNAPSHOT DELETED HANDLE" of the driver's VolumeSnapshotContents, DELETED being "deleted"
# for those on their way out; nothing in a cluster that has no such kind.
snapshots() {
    local missing
    missing=$(missing_snapshot_kinds) || return 1
    [[ $missing != *volumesnapshotcontents* ]] || return 0
    k get "volumesnapshotcontents.$SNAPSHOTS_GROUP" -o go-template='{{range .items}}{{if eq .spec.driver "'"$DRIVER_NAME"'"}}{{/*
        */}}{{.metadata.name}} {{.spec.deletionPolicy}} {{with .spec.volumeSnapshotRef}}{{or .namespace "-"}}/{{or .name "-"}}{{else}}-{{end}} {{/*
        */}}{{if .metadata.deletionTimestamp}}deleted{{else}}-{{end}} {{$h := .spec.source.snapshotHandle}}{{/*
        */}}{{with .status}}{{$h = or .snapshotHandle $h}}{{end}}{{or $h "-"}}{{"\n"}}{{end}}{{end}}'
}

# "NAME SECRET NAMESPACE CLUSTER" of the driver's VolumeSnapshotClasses, with - for what they do not say.
snapshot_classes() {
    local missing
    missing=$(missing_snapshot_kinds) || return 1
    [[ $missing != *volumesnapshotclasses* ]] || return 0
    k get "volumesnapshotclasses.$SNAPSHOTS_GROUP" -o go-template='{{range .items}}{{if eq .driver "'"$DRIVER_NAME"'"}}{{.metadata.name}} {{/*
        */}}{{with .parameters}}{{or (index . "csi.storage.k8s.io/snapshotter-secret-name") "-"}} {{/*
        */}}{{or (index . "csi.storage.k8s.io/snapshotter-secret-namespace") "-"}} {{or .clusterID "-"}}{{else}}- - -{{end}}{{"\n"}}{{end}}{{end}}'
}
