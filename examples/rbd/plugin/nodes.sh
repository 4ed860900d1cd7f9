# shellcheck shell=bash
# Short-lived pods, one on each node, in which to look at nodes: made with the driver's
# image, which is on its way to them anyway.
#
# What a reader gets wrong: the pods name their node themselves, so no scheduler refuses them.

LOOKER=rbd-csi-look

# "NAME READY" of each node that the node plugin runs on: a DaemonSet ignores that a node is
# cordoned or not ready, but no other taint.
plugin_nodes() {
    k get nodes -l kubernetes.io/os=linux -o go-template='{{range .items}}{{.metadata.name}} {{/*
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
    for secret in $secrets; do echo "    - name: $secret"; done
}

plugin_tolerates_all() { grep -qE '^ *- operator: "?Exists"?$' "$MANIFESTS/csi-rbdplugin.yaml"; }

# A pod on node $1. Without rights for looking; "privileged" with all of them, for removing.
# $3 are lines of looker_pull.
looker_pod() {
    local node=$1 rights=$2 pull=$3 privileged=false propagation=None
    [[ $rights != privileged ]] || { privileged=true && propagation=Bidirectional; }
    cat <<YAML
---
apiVersion: v1
kind: Pod
metadata:
  name: $LOOKER-$node
  namespace: $NAMESPACE
  labels:
    app: $LOOKER
spec:
  nodeName: $node
  hostNetwork: true
  hostPID: $privileged
  restartPolicy: Never
  activeDeadlineSeconds: 900
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
$pull
  tolerations:
    - operator: Exists
  containers:
    - name: look
      image: $(image)
      imagePullPolicy: IfNotPresent
      command: ["sleep", "900"]
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

# Makes one on each node that is named on standard input, and waits until they run. Sets
# LOOKERS_SAID to what the API server says when it takes none. Called in conditions, where
# errexit is off.
# shellcheck disable=SC2034
LOOKERS_SAID=""
# shellcheck disable=SC2034
lookers_start() {
    local rights=$1 yaml="" pull node
    LOOKERS_SAID=""
    pull=$(looker_pull) || return 1
    while read -r node; do yaml+=$(looker_pod "$node" "$rights" "$pull")$'\n'; done
    [[ -n $yaml ]] || return 0
    lookers_end
    at_end lookers_end
    LOOKERS_SAID=$(printf '%s' "$yaml" | k create -f - 2>&1 >/dev/null) || return 1
    LOOKERS_SAID=""
    wait_until "$TIMEOUT" lookers_run
}

lookers_run() {
    local phases
    phases=$(kn get pods -l "app=$LOOKER" -o go-template='{{range .items}}{{.status.phase}}{{"\n"}}{{end}}') || return 1
    [[ -n $phases ]] && ! grep -qv Running <<<"$phases"
}

lookers_end() {
    kn delete pods -l "app=$LOOKER" --ignore-not-found --wait=true >/dev/null 2>&1 || true
}

# Runs on-node.sh with arguments in the pod that looks at node $1.
look_at() {
    local node=$1
    shift
    in_pod "$LOOKER-$node" look bash -s -- "$@" <"$EXAMPLES/plugin/on-node.sh"
}
