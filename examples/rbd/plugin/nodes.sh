# shellcheck shell=bash
# Short-lived pods, one on each node, in which to look at nodes: made with the driver's
# image, which is on its way to them anyway.
#
# What a reader gets wrong: the pods name their node themselves, so no scheduler refuses them.

LOOKER=rbd-csi-look
# Another run's pods are not ours to end.
RUN=$$-$RANDOM
LOOKERS=app=$LOOKER,rbd-csi.run=$RUN

# The nodes that the manifests let the node plugin onto, by selector and affinity; nodes without
# the second and the third label, too.
PLUGIN_NODES='kubernetes.io/os=linux,eks.amazonaws.com/compute-type notin (fargate),type notin (virtual-kubelet)'

# "NAME READY" of each node that the node plugin runs on: a DaemonSet ignores that a node is
# cordoned or not ready, but no other taint.
plugin_nodes() {
    k get nodes -l "$PLUGIN_NODES" -o go-template='{{range .items}}{{.metadata.name}} {{/*
        */}}{{range .status.conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}{{/*
        */}}{{range .spec.taints}}{{if ne .effect "PreferNoSchedule"}} {{.key}}{{end}}{{end}}{{"\n"}}{{end}}' |
        while read -r name ready taints; do
            local taint tainted=""
            for taint in $taints; do
                case "$taint" in
                node.kubernetes.io/not-ready | node.kubernetes.io/unreachable | node.kubernetes.io/unschedulable) ;;
                node.kubernetes.io/*-pressure | node.kubernetes.io/network-unavailable) ;;
                *) tainted=yes ;;
                esac
            done
            [[ -n $tainted ]] && ! plugin_tolerates_all || echo "$name $ready"
        done
}

# Where the driver's image comes from a registry that wants a name: what its account, or its
# pods as they are deployed, have for that.
looker_pull() {
    local account secret secrets
    account=$(kn get serviceaccount rbd-csi-nodeplugin --ignore-not-found -o name) || return 1
    [[ -z $account ]] || echo "  serviceAccountName: ${account#*/}"
    secrets=$(kn get daemonset "$DAEMONSET" --ignore-not-found -o jsonpath='{.spec.template.spec.imagePullSecrets[*].name}') || return 1
    [[ -z $secrets ]] || echo "  imagePullSecrets:"
    for secret in $secrets; do echo "    - name: \"$secret\""; done
}

# The nodes among them whose kubelet does not answer.
silent_nodes() {
    local nodes
    nodes=$(plugin_nodes) || return 1
    awk 'NF && $2 != "True" { print $1 }' <<<"$nodes"
}

plugin_tolerates_all() { grep -qE '^ *- operator: "?Exists"?$' "$MANIFESTS/csi-rbdplugin.yaml"; }

# A pod on node $1. Without rights for looking; "privileged" with all of them, for removing.
# $3 are lines of looker_pull.
looker_pod() {
    local node=$1 rights=$2 pull=$3 privileged=false propagation=None seconds=$((TIMEOUT + 900))
    [[ $rights != privileged ]] || { privileged=true && propagation=Bidirectional; }
    cat <<YAML
---
apiVersion: v1
kind: Pod
metadata:
  name: $LOOKER-$RUN-$node
  namespace: "$NAMESPACE"
  labels:
    app: $LOOKER
    rbd-csi.run: "$RUN"
spec:
  nodeName: "$node"
  hostNetwork: true
  # As the node plugin's: monitors may be named as Services of the cluster.
  dnsPolicy: ClusterFirstWithHostNet
  hostPID: $privileged
  restartPolicy: Never
  # Where this script is killed.
  activeDeadlineSeconds: $seconds
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
$pull
  tolerations:
    - operator: Exists
  containers:
    - name: look
      image: $(image)
      imagePullPolicy: IfNotPresent
      command: ["sleep", "infinity"]
      securityContext:
        privileged: $privileged
        runAsUser: 0
      volumeMounts:
        - name: modules
          mountPath: /lib/modules
          readOnly: true
        - name: kubelet
          mountPath: $KUBELET_DIR
          mountPropagation: $propagation
  volumes:
    - name: modules
      hostPath:
        path: /lib/modules
    - name: kubelet
      hostPath:
        path: $KUBELET_DIR
        type: Directory
YAML
}

# Makes one on each node that is named on standard input, and waits until they run. Gives 1
# when not all do; "lookers" says which. Sets LOOKERS_SAID to what the API server says when it
# takes none. Called in conditions, where errexit is off.
# shellcheck disable=SC2034
LOOKERS_SAID=""
# shellcheck disable=SC2034
lookers_start() {
    local rights=$1 yaml="" pull node
    LOOKERS_SAID="the account and the pull secrets of the node plugin cannot be read"
    pull=$(looker_pull) || return 1
    while read -r node; do yaml+=$(looker_pod "$node" "$rights" "$pull")$'\n'; done
    lookers_end
    at_end lookers_end
    LOOKERS_SAID=$(printf '%s' "$yaml" | k create -f - 2>&1 >/dev/null) || return 1
    LOOKERS_SAID=""
    LOOKERS_SINCE=$SECONDS
    wait_until "$TIMEOUT" lookers_run
}

# What takes longer than a moment is said.
LOOKERS_SINCE=0
lookers_run() {
    local phases why
    phases=$(kn get pods -l "$LOOKERS" -o go-template='{{range .items}}{{.status.phase}}{{"\n"}}{{end}}') || return 1
    [[ -n $phases ]] && ! grep -v Running <<<"$phases" >/dev/null && return
    ((SECONDS - LOOKERS_SINCE >= 10)) || return 1
    why=$(pods_not_ready "$LOOKERS") || why=""
    [[ -z $why ]] || show_once "waiting for the pods that look at the nodes:"$'\n'"$why"
    return 1
}

# "NODE POD CONTAINER" of those that run.
lookers() {
    kn get pods -l "$LOOKERS" --field-selector=status.phase=Running \
        -o go-template='{{range .items}}{{.spec.nodeName}} {{.metadata.name}} look{{"\n"}}{{end}}'
}

# Those of a run that was killed, too, when their time is over. A node that has died meanwhile
# does not end its pod.
lookers_end() {
    kn delete pods -l "app=$LOOKER" --field-selector=status.phase=Failed --wait=false >/dev/null 2>&1 || true
    kn delete pods -l "$LOOKERS" --timeout=30s >/dev/null 2>&1 ||
        kn delete pods -l "$LOOKERS" --grace-period=0 --force --wait=false >/dev/null 2>&1 || true
}

# Runs on-node.sh with arguments on nodes, "NODE POD CONTAINER" a line on standard input, ten at
# a time. What it says on a node is in $FOLDER/node-NODE then, with UNLOOKED as its last line
# where it has failed.
UNLOOKED="cannot be looked at"
on_nodes() {
    local node pod container started=0 limit=60
    # There may be much to look through, and an umount may take half a minute.
    [[ $1 = look ]] || limit=$TIMEOUT
    while read -r node pod container; do
        [[ -n $node ]] || continue
        in_pod "$pod" "$container" "$limit" "$@" >"$FOLDER/node-$node" 2>&1 || echo "$UNLOOKED" >>"$FOLDER/node-$node" &
        started=$((started + 1))
        ((started % 10 != 0)) || wait
    done
    wait
}
