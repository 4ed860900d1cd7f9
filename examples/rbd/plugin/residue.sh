# shellcheck shell=bash
# What the driver left on nodes: listed, taken away, looked at again when it is gone.
#
# What a reader gets wrong: as long as the node plugin runs on a node, that is where to
# look; only nodes without one get a pod of their own.

# Nodes that on-node.sh can be run on, "NODE POD CONTAINER" a line; and nodes where nobody
# can look.
LOOKED_AT="" UNSEEN=""

# The image of a node plugin that runs: the nodes have it, whatever the DaemonSet wants by now.
use_running_image() {
    local running
    # shellcheck disable=SC2153
    running=$(kn get pods -l "app=$DAEMONSET" --field-selector=status.phase=Running \
        -o jsonpath="{.items[*].spec.containers[?(@.name=='$CONTAINER')].image}")
    [[ -n $IMAGE || -z $running ]] || IMAGE=${running%% *}
}

# Fills LOOKED_AT and UNSEEN: node plugins that run, and pods of our own on the other nodes.
reach_nodes() {
    local nodes plugins others running
    nodes=$(plugin_nodes)
    plugins=$(kn get pods -l "app=$DAEMONSET" --field-selector=status.phase=Running \
        -o go-template='{{range .items}}{{if not .metadata.deletionTimestamp}}{{.spec.nodeName}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}')
    UNSEEN=$(awk '$2 != "True" { print $1 " (not ready)" }' <<<"$nodes")
    plugins=$(awk 'NR == FNR { if ($2 != "True") silent[$1]; next } !($1 in silent)' <(echo "$nodes") <(echo "$plugins"))
    LOOKED_AT=$(awk -v c="$CONTAINER" 'NF { print $1, $2, c }' <<<"$plugins")
    others=$(awk 'NR == FNR { seen[$1]; next } $2 == "True" && !($1 in seen) { print $1 }' <(echo "$plugins") <(echo "$nodes"))
    [[ -n $others ]] || return 0
    if ! lookers_start privileged <<<"$others"; then
        say "no pod with the image $(image) runs there:"
        show "${LOOKERS_SAID:-$(pods_not_ready "$LOOKERS")}"
    fi
    running=$(lookers)
    LOOKED_AT+=$'\n'$running
    others=$(awk 'NR == FNR { seen[$1]; next } !($1 in seen)' <(echo "$running") <(echo "$others"))
    [[ -z $others ]] || UNSEEN+=${UNSEEN:+$'\n'}$others
}

# Runs a command of on-node.sh on each of these nodes; each line that comes back has the
# node in front.
ask_nodes() {
    local node
    on_nodes "$1" "$KUBELET_DIR" "$DRIVER_NAME" <<<"$LOOKED_AT"
    while read -r node _; do
        [[ -z $node ]] || sed "s/^/$node: /" "$FOLDER/node-$node"
    done <<<"$LOOKED_AT"
}

# Steps: 1 look, 2 with --purge-node-residue take away and look again. A node that nobody can
# look at may have a volume mapped, and without the driver nobody would unmap it.
clear_residue() {
    local found
    reach_nodes
    if [[ -n $UNSEEN ]]; then
        [[ -n $KEEP_RESIDUE ]] || die "nobody can look at: ${UNSEEN//$'\n'/, }; nothing was removed" \
            "Run this script again when they are ready, or delete nodes that will never be: $KUBECTL delete node NAME." \
            "--keep-node-residue goes on without having looked."
        say "nobody can look at: ${UNSEEN//$'\n'/, } (--keep-node-residue)"
    fi
    found=$(ask_nodes residue)
    if [[ -z $found ]]; then
        [[ -z $LOOKED_AT ]] || say "nothing of the driver's volumes is left where one can look"
        return
    fi
    show "$found"
    if [[ -n $PURGE ]]; then
        heading "Taking it away"
        show "$(ask_nodes purge)"
        # Seen with a pod that came back to its volume under the next driver: "is not staged".
        say "The kubelets there do not know of it and go on unmounting: restart them before such a volume is used there again."
        found=$(ask_nodes residue)
        [[ -n $found ]] || return 0
        show "$found"
        [[ -n $KEEP_RESIDUE ]] || die "this does not go; nothing else was removed" \
            "who uses it? see the lines above, and exec-bash.sh NODE -- sh -c 'grep rbd /proc/[0-9]*/mountinfo'" \
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
    left=$(ask_nodes sweep)
    [[ -z $left ]] || show "$left"
    lookers_end
    [[ $left != *": left "* && $left != *": $UNLOOKED"* || -n $KEEP_RESIDUE ]] ||
        die "the driver is removed, and the lines with 'left' show what stayed on nodes" \
        "Run this script again with --purge-node-residue, or see to it by hand."
    [[ -z $UNSEEN || -n $KEEP_RESIDUE ]] || die "the driver is removed, and nobody has looked at: ${UNSEEN//$'\n'/, }" \
        "Run this script again when these nodes are ready; --image names an image that they have or reach."
}

show() { [[ -z $1 ]] || printf '%s\n' "$1" | sed 's/^/   /'; }
