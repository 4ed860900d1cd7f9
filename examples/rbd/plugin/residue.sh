# shellcheck shell=bash
# What the driver left on nodes: listed, taken away, looked at again when it is gone.
#
# What a reader gets wrong: as long as the node plugin runs on a node, that is where to
# look; only nodes without one get a pod of their own.

# Nodes that on-node.sh can be run on, "NODE POD CONTAINER" a line.
LOOKED_AT=""

# The image is taken from what runs, for that is on the nodes already.
use_running_image() {
    local running
    # shellcheck disable=SC2153
    running=$(kn get daemonset "$DAEMONSET" --ignore-not-found \
        -o jsonpath="{.spec.template.spec.containers[?(@.name=='$CONTAINER')].image}")
    [[ -n $IMAGE || -z $running ]] || IMAGE=$running
}

# Fills LOOKED_AT: node plugins that run, and pods of our own on the other nodes.
reach_nodes() {
    local plugins others
    plugins=$(kn get pods -l "app=$DAEMONSET" --field-selector=status.phase=Running \
        -o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.spec.nodeName}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}')
    others=$(plugin_nodes | awk '$2 == "True" { print $1 }' | grep -vxF "$(awk '{ print $1 }' <<<"$plugins")" || true)
    plugin_nodes | awk '$2 != "True" { print $1 }' | while read -r node; do
        say "node $node is not ready: what is left there cannot be seen"
    done
    LOOKED_AT=$(awk -v c="$CONTAINER" 'NF { print $1, $2, c }' <<<"$plugins")
    [[ -n $others ]] || return 0
    if lookers_start privileged <<<"$others"; then
        LOOKED_AT+=$'\n'$(awk -v p="$LOOKER" '{ print $1, p "-" $1, "look" }' <<<"$others")
    else
        say "no pod runs on ${others//$'\n'/, }, so nobody looks there:"
        pods_not_ready "app=$LOOKER" | sed 's/^/     /'
    fi
}

# Runs a command of on-node.sh on each of these nodes; each line that comes back has the
# node in front.
on_nodes() {
    local command=$1 node pod container said
    while read -r node pod container; do
        [[ -n $node ]] || continue
        said=$(in_pod "$pod" "$container" bash -s -- "$command" "$KUBELET_DIR" "$DRIVER_NAME" \
            <"$EXAMPLES/plugin/on-node.sh" 2>&1) || said+="(node $node cannot be looked at)"
        [[ -z $said ]] || printf '%s\n' "$node: ${said//$'\n'/$'\n'$node: }"
    done <<<"$LOOKED_AT"
}

# Steps: 1 look, 2 with --purge-node-residue take away and look again.
clear_residue() {
    local found
    reach_nodes
    found=$(on_nodes residue)
    if [[ -z $found ]]; then
        say "nothing of the driver's volumes is left on the nodes"
        return
    fi
    show "$found"
    if [[ -n $PURGE ]]; then
        heading "Taking it away"
        show "$(on_nodes purge)"
        found=$(on_nodes residue)
        [[ -n $found ]] || return 0
        show "$found"
        [[ -n $KEEP_RESIDUE ]] || die "this does not go; nothing else was removed" \
            "who uses it? see the lines above, and 'exec-bash.sh NODE -- grep rbd /proc/*/mountinfo'." \
            "--keep-node-residue leaves it; a reboot of the node takes it away, too."
    elif [[ -z $KEEP_RESIDUE ]]; then
        die "volumes without a pod are left on nodes; nothing was removed" \
            "--purge-node-residue umounts and unmaps them (their data stays in Ceph)," \
            "--keep-node-residue leaves them."
    fi
}

# The driver's own folders, from pods of our own since its own have ended.
sweep_nodes() {
    local left
    reach_nodes
    left=$(on_nodes sweep)
    [[ -z $left ]] || show "$left"
    lookers_end
    [[ $left != *": left "* || -n $KEEP_RESIDUE ]] || return 1
}

show() { [[ -z $1 ]] || printf '%s\n' "$1" | sed 's/^/   /'; }
