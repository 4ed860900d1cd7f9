# shellcheck shell=bash
# Runs inside a pod on a node, by `kubectl exec … bash -s -- COMMAND … <on-node.sh`, with
# what the driver's image has. plugin-deploy.sh's part: what the node must have.
#
# What a reader gets wrong: it runs without rights of its own and changes nothing; so the
# module is only looked for, and loaded by the driver when it starts.
set -u

# look KUBELET_DIR [HOST PORT]…: a line for each thing, "ok THING" or "bad THING: why".
look() {
    look_for_module
    if [ -d "$1/plugins_registry" ]; then
        echo "ok the kubelet's folder is $1"
    else
        echo "bad there is no $1/plugins_registry here: the kubelet's folder is another (--kubelet-dir)"
    fi
    shift
    while [ $# -ge 2 ]; do
        look_for_monitor "$1" "$2" &
        shift 2
    done
    wait
}

look_for_module() {
    local words
    if [ -d /sys/bus/rbd ]; then
        echo "ok the kernel module rbd is loaded"
    elif words=$(modprobe --dry-run rbd 2>&1); then
        echo "ok the kernel module rbd is there"
    else
        echo "bad the kernel $(uname -r) has no module rbd: ${words##*modprobe: }"
    fi
}

look_for_monitor() {
    local words
    # A silent address would be waited for for minutes. The inner bash expands its arguments.
    # shellcheck disable=SC2016
    if words=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>&1); then
        echo "monitor yes $1 $2"
    elif [ -z "$words" ]; then
        echo "monitor no $1 $2 no answer within 5 seconds: a firewall, or no such host"
    else
        words=${words%%$'\n'*}
        echo "monitor no $1 $2 ${words##*: }"
    fi
}

case "$1" in
look) "$@" ;;
esac
