#!/usr/bin/env bash
# Opens a shell in the driver's container: in the node plugin of a node, where rbd devices
# and mounts are seen as the node sees them, or in a controller.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=examples/rbd/plugin/shared.sh
source "$HERE/plugin/shared.sh"

usage() {
    cat <<'TEXT'
usage: exec-bash.sh [OPTIONS] [NODE | POD] [-- COMMAND…]

Without a NODE or POD: in the only node plugin, or a list of them. The word "controller"
takes a pod of the controller. Without a COMMAND: bash.

TEXT
    shared_options_help
}

WHERE="" COMMAND=()

read_options() {
    # What stands behind -- belongs to the command, whatever it looks like.
    while (($#)) && [[ $1 != -- ]]; do
        case "$1" in
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
        -*) if shared_option "$@"; then shift 2; else usage_error "unknown argument '$1'"; fi ;;
        *)
            [[ -z $WHERE ]] || usage_error "one NODE or POD, and a command only behind --"
            WHERE=$1
            shift
            ;;
        esac
    done
    [[ $# = 0 ]] || shift
    COMMAND=("$@")
    check_settings
}

# "POD NODE" of the running pods of the node plugin and of the controller.
pods_of() {
    kn get pods -l "app=$1" --field-selector=status.phase=Running \
        -o jsonpath='{range .items[*]}{.metadata.name}{" "}{.spec.nodeName}{"\n"}{end}'
}

find_pod() {
    local plugins controllers
    plugins=$(pods_of "$DAEMONSET")
    controllers=$(pods_of "$DEPLOYMENT")
    case "$WHERE" in
    "") [[ $(grep -c . <<<"$plugins") != 1 ]] || echo "${plugins%% *}" ;;
    controller) awk 'NR == 1 { print $1 }' <<<"$controllers" ;;
    *)
        awk -v where="$WHERE" '$1 == where || $2 == where { print $1; exit }' <<<"$plugins"$'\n'"$controllers"
        ;;
    esac
}

main() {
    local pod tty=(-i)
    read_options "$@"
    pod=$(find_pod)
    [[ -n $pod ]] || die "which pod? '$WHERE' is none of these (pod, node):" \
        "$(pods_of "$DAEMONSET" | tr '\n' ';')" "$(pods_of "$DEPLOYMENT" | tr '\n' ';')"
    [[ ${#COMMAND[@]} != 0 ]] || COMMAND=(bash)
    [[ ! -t 0 || ! -t 1 ]] || tty=(-i -t)
    exec "${KUBECTL_WORDS[@]}" --namespace "$NAMESPACE" exec "${tty[@]}" "$pod" -c "$CONTAINER" -- "${COMMAND[@]}"
}

main "$@"
