# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# What plugin-deploy.sh asks before it changes anything. Each check says "ok", or what is
# wrong and what to do, so that one run shows all that is to be done.
#
# What a reader gets wrong: the checks change nothing but for the pods that look at the
# nodes, and those are gone again at the end.

FAULTS=0
# docs/support.md has the list; kubectl may be one version older than the cluster.
OLDEST_MINOR=29
OLDEST_KUBECTL=28

ok() { printf '   ok      %s\n' "$1"; }
note() { printf '   note    %s\n' "$1" && further "${@:2}"; }
fault() {
    FAULTS=$((FAULTS + 1))
    printf '   FAILED  %s\n' "$1" && further "${@:2}"
}
further() { [[ $# = 0 ]] || printf '           %s\n' "$@"; }
# What a program said, line by line.
quote() { further "| ${1//$'\n'/$'\n'           | }"; }

check_kubectl() {
    local version minor client
    command -v "${KUBECTL_WORDS[0]}" >/dev/null ||
        die "there is no ${KUBECTL_WORDS[0]} here" "install kubectl, or name it: --kubectl COMMAND"
    version=$(k get --raw /version 2>&1) ||
        die "kubectl does not reach a cluster: $version" "does 'kubectl get nodes' work? see kubectl config current-context"
    minor=$(sed -nE 's/.*"minor": *"([0-9]+).*/\1/p' <<<"$version")
    client=$(k version --client -o yaml 2>/dev/null | sed -nE 's/^ *minor: *"([0-9]+).*/\1/p')
    if [[ -z $minor || $minor -lt $OLDEST_MINOR ]]; then
        fault "Kubernetes is 1.${minor:-?}; the driver is for 1.$OLDEST_MINOR and newer"
    elif [[ -z $client || $client -lt $OLDEST_KUBECTL ]]; then
        fault "kubectl is 1.${client:-?}; 1.$OLDEST_KUBECTL or newer is needed"
    else
        ok "kubectl 1.$client reaches Kubernetes 1.$minor"
    fi
}

# Words for people first; the dry run of the manifests is the proof.
check_rights() {
    local missing
    if ! missing=$(missing_rights "create daemonsets.apps" "update daemonsets.apps" "create deployments.apps" \
        "update deployments.apps" "create configmaps" "patch configmaps" "create serviceaccounts" "create pods" \
        "create pods --subresource=exec" "delete pods" "create clusterroles.rbac.authorization.k8s.io" \
        "create clusterrolebindings.rbac.authorization.k8s.io" "create csidrivers.storage.k8s.io" \
        "list nodes" "list persistentvolumes" "list storageclasses.storage.k8s.io" "list csinodes.storage.k8s.io" \
        "list daemonsets.apps --all-namespaces"); then
        fault "the cluster does not answer what you may do:"
        quote "$missing"
        return 1
    elif [[ -n $missing ]]; then
        fault "you may not: $missing" "deploying a storage driver takes an administrator of the cluster"
        return 1
    fi
    ok "you may do what deploying needs"
}

check_manifests() {
    local said
    said=$(k get namespace "$NAMESPACE" --ignore-not-found -o name)
    if [[ -z $said ]]; then
        fault "there is no namespace $NAMESPACE" "$KUBECTL create namespace $NAMESPACE" \
            "$KUBECTL label namespace $NAMESPACE pod-security.kubernetes.io/enforce=privileged"
        return
    fi
    check_pod_security
    if said=$(apply_manifests "" --dry-run=server 2>&1 >/dev/null); then
        ok "the cluster takes the manifests (a dry run)"
        # What kubectl says of objects that were not made by apply; they will be replaced.
        said=$(grep -v last-applied-configuration <<<"$said" || true)
        [[ -z $said ]] || quote "$said"
    else
        fault "the cluster refuses the manifests of $MANIFESTS:"
        quote "$said"
    fi
}

# To the DaemonSet, Kubernetes only gives a warning; it refuses the pods later.
check_pod_security() {
    local level
    level=$(kn get namespace "$NAMESPACE" -o jsonpath='{.metadata.labels.pod-security\.kubernetes\.io/enforce}')
    case "$level" in
    "") ;;
    privileged) ok "namespace $NAMESPACE takes privileged pods (Pod Security)" ;;
    *) fault "namespace $NAMESPACE takes no privileged pods (Pod Security: $level), and the node plugin mounts for the whole node" \
        "$KUBECTL label --overwrite namespace $NAMESPACE pod-security.kubernetes.io/enforce=privileged" \
        "or a namespace for the driver alone: --namespace" ;;
    esac
}

# Sets CLUSTERS, lines of "ID NETNS MONITOR…", for the check of the nodes.
CLUSTERS=""
check_config() {
    local file=$1 from json why
    from="config map $NAMESPACE/$CONFIG_MAP"
    [[ -z $file ]] || from=$file
    # FOLDER is made by shared.sh.
    # shellcheck disable=SC2153
    if ! json=$(config_json "$file" 2>"$FOLDER/said"); then
        fault "cannot read $from:"
        quote "$(<"$FOLDER/said")"
        return
    fi
    if [[ -z $json ]]; then
        fault "there is no $from with a config.json in it" \
            "copy $EXAMPLES/csi-config-map-sample.yaml, put your Ceph cluster in, and give it to this script: --config FILE"
        return
    fi
    why=$(json_fault "$json")
    if [[ -n $why ]]; then
        fault "config.json in $from is no valid JSON: $why"
        return
    fi
    if [[ ! $json =~ ^[[:space:]]*\[ ]]; then
        fault "config.json in $from is no list of clusters: it must begin with ["
        return
    fi
    CLUSTERS=$(config_clusters "$json") || { fault "cannot read config.json in $from" && return; }
    check_clusters "$from"
    if [[ -n $file ]]; then
        check_config_name "$file"
        check_lost_clusters "$from"
    fi
}

# The file may have ceph.conf's map, too.
check_config_name() {
    local names
    names=$(config_file "$1" -o jsonpath='{.metadata.name}{"\n"}')
    grep -qxF "$CONFIG_MAP" <<<"$names" ||
        fault "the config map in $1 is called '${names//$'\n'/, }'; the driver reads $CONFIG_MAP"
}

# The map is replaced as a whole: whoever uses a cluster that it names no more would lose it,
# and a ceph-csi that reads the same map, too.
check_lost_clusters() {
    local old before id used
    if ! old=$(config_json "" 2>"$FOLDER/said"); then
        fault "cannot read the cluster's config map $NAMESPACE/$CONFIG_MAP:"
        quote "$(<"$FOLDER/said")"
        return
    fi
    [[ -n $old ]] || return 0
    before=$(config_clusters "$old" 2>/dev/null) || return 0
    while read -r id _; do
        [[ -n $id ]] || continue
        ! awk '{ print $1 }' <<<"$CLUSTERS" | grep -xF -- "$id" >/dev/null || continue
        used=$(cluster_users "$id") || { fault "cannot list who uses cluster $id" && return; }
        if [[ -z $used ]]; then
            note "cluster $id is in the cluster's config map, is not in $1, and nobody uses it"
        elif [[ -n $FORCE ]]; then
            note "cluster $id is left out, as you know (--force), though it is used by" "${used//$'\n'/, }"
        else
            fault "$1 leaves out cluster $id, which is in the cluster's config map and is used by" "${used//$'\n'/, }" \
                "put it into the file, too; --force replaces the map all the same"
        fi
    done <<<"$before"
}

check_clusters() {
    local from=$1 id monitors count=0 before=$FAULTS
    if [[ -z $CLUSTERS ]]; then
        fault "$from is not filled in: it names no cluster" "$EXAMPLES/csi-config-map-sample.yaml shows how"
        return
    fi
    while read -r id _ monitors; do
        if [[ -z $id || $id == *'<'* || $monitors == *'<'* ]]; then
            fault "$from is not filled in: a cluster with clusterID '$id' and monitors '$monitors'"
        elif [[ -z $monitors ]]; then
            fault "cluster $id in $from has no monitors"
        else
            count=$((count + 1))
        fi
    done <<<"$CLUSTERS"
    [[ $FAULTS != "$before" ]] || ok "$from names $count cluster(s)"
}

# Whose the objects are that stand where ours will, and whether another place has the driver.
check_others() {
    local before=$FAULTS found here elsewhere bound owner
    here=$(programs_here)
    found=$(other_drivers_here "$here")
    [[ -z $found ]] || fault "what runs here, $NAMESPACE/$DAEMONSET, is the driver ${found//$'\n'/, }, not $DRIVER_NAME" \
        "update that one (--driver-name ${found%%$'\n'*}); a second driver takes the Helm chart, with fullnameOverride"
    check_kubelet_dir
    elsewhere=$(runs_elsewhere)
    [[ -z $elsewhere ]] || fault "driver $DRIVER_NAME runs already, from DaemonSet ${elsewhere//$'\n'/, }: two on a node would fight over its socket" \
        "update that one, remove it first, or deploy under another name (--driver-name)"
    bound=$(bound_elsewhere)
    [[ -z $bound ]] || fault "the ClusterRoleBindings of our names belong to a driver in namespace ${bound//$'\n'/, }" \
        "deploy there (--namespace), delete them if that driver is gone, or use the Helm chart with fullnameOverride"
    owner=$(object_owner)
    [[ -z $owner ]] || fault "$owner, which would take its objects back" "change the image there instead"
    [[ $FAULTS = "$before" ]] || return 0
    wait_until 20 served_by_nobody || check_served
    found=$(foreign_containers "$here")
    if [[ -n $found ]]; then
        check_replaced "$found"
    elif [[ $FAULTS = "$before" ]]; then
        ok "no other driver stands in the way"
    fi
}

# What never got ready may have been deployed with the wrong one.
check_kubelet_dir() {
    local folder available
    folder=$(other_kubelet_dir)
    [[ -n $folder ]] || return 0
    available=$(kn get daemonset "$DAEMONSET" -o jsonpath='{.status.numberAvailable}')
    ((${available:-0} == 0)) || fault "the driver runs here with the kubelet's folder $folder, not $KUBELET_DIR" \
        "name it: --kubelet-dir $folder"
}

check_served() {
    local served
    served=$(served_by_unknown) || { fault "cannot list which kubelets know $DRIVER_NAME" && return; }
    if [[ -n $FORCE ]]; then
        note "kubelets know $DRIVER_NAME already, as you know (--force): ${served//$'\n'/, }"
    else
        fault "kubelets know $DRIVER_NAME already, though no DaemonSet serves it: ${served//$'\n'/, }" \
            "What does, a static pod? Remove it first. If nothing does: --force deploys all the same."
    fi
}

check_replaced() {
    if [[ -n $REPLACE ]]; then
        note "these containers of another driver will be replaced:"
    else
        fault "another driver is deployed here:"
    fi
    quote "$1"
    further "Pods keep their volumes meanwhile. docs/migration.md says what to look at before."
    [[ -n $REPLACE ]] || further "To replace it: --replace"
}

# Volumes of this driver's name that it would refuse to stage.
check_volumes() {
    local unserved total
    unserved=$(unserved_volumes) || { fault "cannot list the PersistentVolumes" && return; }
    total=$(grep -c . <<<"$unserved") || true
    if [[ $total = 0 ]]; then
        ok "no PersistentVolume needs what this version does not have"
    elif [[ -n $FORCE ]]; then
        note "$total PersistentVolume(s) are not served, as you know (--force):"
        quote "$unserved"
    else
        fault "$total PersistentVolume(s) of $DRIVER_NAME need what this version does not have:"
        quote "$unserved"
        further "Under this driver their pods can neither start nor end; nothing would be done to the data." \
            "Move them to other volumes or wait for a version with that feature. --force deploys all the same."
    fi
}
