# shellcheck shell=bash
# The lab's network namespace: a bridge with the monitors' addresses (10.99.0.1, .2, …)
# and for each node two taps.
#
# Node n: tap<n> on the bridge is its network, 10.99.0.1<n>; ctl<n> is a wire of its own
# (10.98.<n>.1 to .2) on which the lab runs commands in it, also while it is cut off.
# What a reader gets wrong: nothing here can clash with another lab, addresses and
# interface names included, since all of it is inside the namespace.

BRIDGE=br0

in_netns() { nsenter --net="$NETNS_FILE" -- "$@"; }

network_up() {
    ip netns add "$NETNS"
    ip -n "$NETNS" link set lo up
    ip -n "$NETNS" link add "$BRIDGE" type bridge forward_delay 0
    ip -n "$NETNS" link set "$BRIDGE" up
}

# Gives the namespace one more address where Ceph can listen; one that it has is kept.
network_add_address() { ip -n "$NETNS" addr replace "$1/24" dev "$BRIDGE"; }

network_add_taps() {
    ip -n "$NETNS" link show "tap$1" >/dev/null 2>&1 && return
    ip -n "$NETNS" tuntap add "tap$1" mode tap
    ip -n "$NETNS" link set "tap$1" master "$BRIDGE" up
    ip -n "$NETNS" tuntap add "ctl$1" mode tap
    ip -n "$NETNS" addr add "10.98.$1.1/24" dev "ctl$1"
    ip -n "$NETNS" link set "ctl$1" up
}

# Every process of the namespace but this one and its ancestors: whoever runs `down`
# may be in there too (a test process is). BASHPID, not $$: this runs in a subshell.
network_pids() {
    local pid spared=" " up=$BASHPID
    while ((up > 1)); do
        spared+="$up "
        up=$(awk '/^PPid:/ { print $2 }' "/proc/$up/status" 2>/dev/null || echo 0)
    done
    for pid in $(ip netns pids "$NETNS" 2>/dev/null); do
        # Those that were started for this list are gone by now.
        [[ $spared == *" $pid "* || ! -d /proc/$pid ]] || echo "$pid"
    done
}

network_empty() { [[ -z $(network_pids) ]]; }

# Kills what lives in the namespace, then removes it. SIGKILL to a node's outer process
# takes its whole process tree along; the repeat is for what was just being started.
network_down() {
    [[ -e $NETNS_FILE ]] || return 0
    local end=$((SECONDS + 20)) pids
    while true; do
        pids=$(network_pids)
        [[ -n $pids ]] || break
        # shellcheck disable=SC2086  # a list of process ids
        kill -KILL $pids 2>/dev/null || true
        ((SECONDS < end)) || { say "processes that do not die: ${pids//$'\n'/ }" && break; }
        sleep 0.05
    done
    ip netns del "$NETNS"
}
