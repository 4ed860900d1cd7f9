# shellcheck shell=bash
# The check of the nodes: a pod on each, which looks for the kernel module, the kubelet's
# folder and the monitors.
#
# What a reader gets wrong: a silent monitor is no fault as long as another of its cluster
# answers, for Ceph is made to lose one.

check_nodes() {
    local nodes node ready addresses running
    nodes=$(plugin_nodes) || { fault "cannot list the nodes" && return; }
    while read -r node ready; do
        [[ -z $node || $ready = True ]] || note "node $node is not ready: not looked at"
    done <<<"$nodes"
    nodes=$(awk '$2 == "True" { print $1 }' <<<"$nodes")
    if [[ -z $nodes ]]; then
        fault "no node is ready to run the node plugin"
        return
    fi
    say "… looking at $(wc -l <<<"$nodes" | tr -d ' ') node(s), from a short-lived pod on each"
    lookers_start plain <<<"$nodes" || lookers_fault
    addresses=$(all_addresses)
    running=$(lookers)
    # Not quoted: a word for each host and port.
    # shellcheck disable=SC2086
    on_nodes look "$KUBELET_DIR" $addresses <<<"$running"
    while read -r node _; do [[ -z $node ]] || check_node "$node"; done <<<"$running"
    lookers_end
}

lookers_fault() {
    if [[ -n $LOOKERS_SAID ]]; then
        fault "the cluster refuses the pods that look at the nodes:"
        quote "$LOOKERS_SAID"
        return
    fi
    fault "the driver's image does not run on every node within $TIMEOUT seconds:"
    quote "$(pods_not_ready "$LOOKERS")"
    further "the image is $(image); --image names another, from a registry that your nodes reach;" \
        "'make image' makes it, and --timeout gives a slow first pull its time"
}

# "HOST PORT" of every monitor that the node itself must reach.
all_addresses() {
    local netns monitors monitor
    while read -r _ netns monitors; do
        [[ $netns = - ]] || continue
        for monitor in $monitors; do monitor_addresses "$monitor"; done
    done <<<"$CLUSTERS" | sort -u
}

check_node() {
    local node=$1 said before=$FAULTS words
    said=$(<"$FOLDER/node-$node")
    if [[ $said = *"$UNLOOKED" ]]; then
        fault "node $node: $UNLOOKED:"
        quote "${said%"$UNLOOKED"}"
        return
    fi
    while read -r words; do fault "node $node: ${words#bad }"; done < <(grep '^bad ' <<<"$said")
    check_monitors_of "$node" "$said"
    [[ $FAULTS != "$before" ]] || ok "node $node: $(sed -nE 's/^ok the kernel (.*)/\1/p' <<<"$said"), Ceph answers"
}

check_monitors_of() {
    local node=$1 said=$2 id netns monitors monitor address good bad
    while read -r id netns monitors; do
        [[ -n $id ]] || continue
        if [[ $netns != - ]]; then
            note "node $node: cluster $id is reached from $netns, where nobody looked"
            continue
        fi
        good=0 bad=""
        for monitor in $monitors; do
            while read -r address; do
                if grep -qxF "monitor yes $address" <<<"$said"; then
                    good=$((good + 1))
                else
                    bad+="${address/ /:} ($(grep -F "monitor no $address " <<<"$said" | cut -d ' ' -f 5-)), "
                fi
            done < <(monitor_addresses "$monitor")
        done
        if [[ $good = 0 ]]; then
            fault "node $node: no monitor of cluster $id answers: ${bad%, }" "$(about_monitors "$id")"
        elif [[ -n $bad ]]; then
            note "node $node: a monitor of cluster $id does not answer: ${bad%, }"
        fi
    done <<<"$CLUSTERS"
}

about_monitors() {
    if grep -qF "$1" "$EXAMPLES/csi-config-map-sample.yaml"; then
        echo "these are the values of csi-config-map-sample.yaml: put in your own cluster's"
    else
        echo "are they what 'ceph mon dump' shows, and may the nodes reach them through firewalls?"
    fi
}
