# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# What the cluster has of this driver: its volumes, and who uses them.
#
# What a reader gets wrong: a claim that a pod names may be its own, of a generic ephemeral
# volume; its name is then the pod's and the volume's. And a listing that failed must never
# count as an empty one: bash forgets errexit in $(…), so each is taken by itself.

# Volumes of this driver's name that this version refuses to stage.
unserved_volumes() {
    k get persistentvolumes -o go-template='{{range .items}}{{$n := .metadata.name}}{{$c := .spec.claimRef}}{{/*
        */}}{{with .spec.csi}}{{if eq .driver "'"$DRIVER_NAME"'"}}{{$n}} {{.volumeHandle}} {{/*
        */}}{{with .volumeAttributes}}{{or .encrypted "-"}} {{or .mounter "-"}} {{or .migration "-"}}{{else}}- - -{{end}}{{/*
        */}} {{with $c}}{{.namespace}}/{{.name}}{{else}}-{{end}}{{"\n"}}{{end}}{{end}}{{/*
        */}}{{$a := .metadata.annotations}}{{with .spec.rbd}}{{with $a}}{{if eq (or (index . "pv.kubernetes.io/migrated-to") "-") "'"$DRIVER_NAME"'"}}{{/*
        */}}{{$n}} mig_intree - - true {{with $c}}{{.namespace}}/{{.name}}{{else}}-{{end}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}' |
        awk '{
            why = ""
            if (tolower($3) !~ /^(-|false|f|0)$/) why = "encrypted"
            if (tolower($4) == "rbd-nbd") why = "mapped with rbd-nbd"
            if (tolower($5) == "true" || $2 ~ /^mig_/) why = "of the in-tree driver"
            if (why != "") print $1 " (" why "), claim " $6
        }'
}

# "PV PHASE POLICY CLAIM" of the driver's volumes.
volumes() {
    k get persistentvolumes -o go-template='{{range .items}}{{$v := .}}{{with .spec.csi}}{{if eq .driver "'"$DRIVER_NAME"'"}}{{/*
        */}}{{$v.metadata.name}} {{$v.status.phase}} {{$v.spec.persistentVolumeReclaimPolicy}} {{/*
        */}}{{with $v.spec.claimRef}}{{.namespace}}/{{.name}}{{else}}-{{end}}{{"\n"}}{{end}}{{end}}{{end}}'
}

# "CLAIM" of claims that wait for this driver to make their volume.
waiting_claims() {
    local classes claims
    classes=$(k get storageclasses -o go-template='{{range .items}}{{if eq .provisioner "'"$DRIVER_NAME"'"}} {{.metadata.name}}{{end}}{{end}}') || return 1
    claims=$(k get persistentvolumeclaims --all-namespaces -o go-template='{{range .items}}{{if eq .status.phase "Pending"}}{{/*
        */}}{{.metadata.namespace}}/{{.metadata.name}} {{with .spec.storageClassName}}{{.}}{{else}}-{{end}}{{"\n"}}{{end}}{{end}}') || return 1
    awk -v classes="$classes " 'NF && index(classes, " " $2 " ") { print $1 }' <<<"$claims"
}

# "PV NODE NAME" of attachments; an attachment without a volume's name is an inline one.
attachments() {
    k get volumeattachments -o go-template='{{range .items}}{{if eq .spec.attacher "'"$DRIVER_NAME"'"}}{{/*
        */}}{{with .spec.source.persistentVolumeName}}{{.}}{{else}}-{{end}} {{.spec.nodeName}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}'
}

# "POD NODE CLAIM PV" of pods that use the driver's volumes, ended ones left out.
users() {
    local volumes pods
    volumes=$(volumes) || return 1
    pods=$(k get pods --all-namespaces -o go-template='{{range .items}}{{$p := .metadata}}{{$n := .spec.nodeName}}{{/*
        */}}{{if and (ne .status.phase "Succeeded") (ne .status.phase "Failed")}}{{range .spec.volumes}}{{$v := .name}}{{/*
        */}}{{with .persistentVolumeClaim}}pod {{$p.namespace}}/{{.claimName}} {{$p.namespace}}/{{$p.name}} {{or $n "-"}}{{"\n"}}{{end}}{{/*
        */}}{{with .ephemeral}}pod {{$p.namespace}}/{{$p.name}}-{{$v}} {{$p.namespace}}/{{$p.name}} {{or $n "-"}}{{"\n"}}{{end}}{{/*
        */}}{{end}}{{end}}{{end}}') || return 1
    { awk 'NF { print "volume", $4, $1 }' <<<"$volumes" && printf '%s\n' "$pods"; } |
        awk '$1 == "volume" { pv[$2] = $3 } $1 == "pod" && ($2 in pv) { print $3, $4, $2, pv[$2] }'
}

# Volumes, snapshots and classes that name a Ceph cluster of the config map: snapshots of this
# driver, the others of whatever driver.
cluster_users() {
    local volumes classes kept kinds
    volumes=$(k get persistentvolumes -o go-template='{{range .items}}{{$n := .metadata.name}}{{with .spec.csi}}volume {{$n}} {{.volumeHandle}} {{/*
        */}}{{with .volumeAttributes}}{{or .clusterID "-"}}{{else}}-{{end}}{{"\n"}}{{end}}{{end}}') || return 1
    classes=$(k get storageclasses -o go-template='{{range .items}}{{$n := .metadata.name}}{{with .parameters}}class {{$n}} - {{or .clusterID "-"}}{{"\n"}}{{end}}{{end}}') || return 1
    kept=$(snapshots) || return 1
    kinds=$(snapshot_classes) || return 1
    kept=$(awk 'NF { print "snapshot", $1, $5, "-" }' <<<"$kept")
    kinds=$(awk 'NF { print "snapshotclass", $1, "-", $4 }' <<<"$kinds")
    printf '%s\n' "$volumes" "$classes" "$kept" "$kinds" | awk -v id="$1" '$4 == id || index($3, "-" id "-") { print $1, $2 }' | users_shortened
}

users_shortened() { awk 'NR <= 5 { print } END { if (NR > 5) print NR - 5 " more" }'; }

# What users make for the driver and only they delete, as words for kubectl: classes, the
# secrets of nodes and of snapshots that these name, and config maps that plugin-deploy.sh has
# not made.
users_objects() {
    local classes kinds maps
    classes=$(k get storageclasses -o go-template='{{range .items}}{{if eq .provisioner "'"$DRIVER_NAME"'"}}storageclass {{.metadata.name}}{{"\n"}}{{/*
        */}}{{with .parameters}}{{with index . "csi.storage.k8s.io/node-stage-secret-name"}}secret {{.}}{{end}}{{/*
        */}}{{with index . "csi.storage.k8s.io/node-stage-secret-namespace"}} --namespace {{.}}{{end}}{{"\n"}}{{end}}{{end}}{{end}}') || return 1
    kinds=$(snapshot_classes) || return 1
    kinds=$(awk 'NF { print "volumesnapshotclass " $1; if ($2 != "-") print "secret " $2 ($3 == "-" ? "" : " --namespace " $3) }' <<<"$kinds")
    maps=$(kn get configmaps -l "!$MADE_BY" -o name) || return 1
    awk 'NF && !/\$/ && !seen[$0]++' <<<"$classes"$'\n'"$kinds"
    awk -v own="$CONFIG_MAP" -v place="$NAMESPACE" -F / '$2 == own || $2 == "ceph-config" { print "configmap " $2 " --namespace " place }' <<<"$maps"
}

# The pools of the driver's classes and volumes.
pools() {
    local classes volumes
    classes=$(k get storageclasses -o go-template='{{range .items}}{{if eq .provisioner "'"$DRIVER_NAME"'"}}{{with .parameters}}{{with .pool}}{{.}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}') || return 1
    volumes=$(k get persistentvolumes -o go-template='{{range .items}}{{with .spec.csi}}{{if eq .driver "'"$DRIVER_NAME"'"}}{{with .volumeAttributes}}{{with .pool}}{{.}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}{{end}}') || return 1
    printf '%s\n' "$classes" "$volumes" | awk NF | sort -u
}
