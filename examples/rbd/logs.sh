#!/usr/bin/env bash
# The driver's log lines of all its pods, or of one node's, with the pod's name in front.
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=examples/rbd/plugin/shared.sh
source "$HERE/plugin/shared.sh"

usage() {
    cat <<'TEXT'
usage: logs.sh [OPTIONS] [NODE]

Shows what the driver and its sidecars have logged; with a NODE only the node plugin there.

  --follow              go on with what comes
  --since TIME          only newer lines, for example 10m
  --tail N              only the last N lines of each container (100; -1: all)
  --driver              only the driver's own container, without sidecars
  --previous            of the containers before these, after a crash
TEXT
    shared_options_help
}

NODE="" FLAGS=() TAIL=100 CONTAINERS=(--all-containers)

read_options() {
    split_options "$@"
    set -- ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
    while (($#)); do
        case "$1" in
        --follow | -f) FLAGS+=(--follow) && shift ;;
        --previous) FLAGS+=(--previous) && shift ;;
        --driver) CONTAINERS=(-c "$CONTAINER") && shift ;;
        --since | --tail)
            [[ -n ${2-} ]] || usage_error "$1 needs a value"
            if [[ $1 = --tail ]]; then TAIL=$2; else FLAGS+=("--since=$2"); fi
            shift 2
            ;;
        -*) if shared_option "$@"; then shift 2; else usage_error "unknown argument '$1'"; fi ;;
        *)
            NODE=$1
            shift
            ;;
        esac
    done
    check_settings
}

# One kubectl for each kind of pod: only with a label can it follow several. It would stop at the
# first container without a log, as most are that have none before theirs (--previous). In the
# place of the shell that starts it, so that end_jobs finds it.
logs_of() {
    exec "${KUBECTL_WORDS[@]}" --namespace "$NAMESPACE" logs --prefix --ignore-errors --max-log-requests=200 "--tail=$TAIL" \
        "${CONTAINERS[@]}" ${FLAGS[@]+"${FLAGS[@]}"} "$@"
}

end_jobs() {
    local job
    for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
}

main() {
    local pod job failed=""
    read_options "$@"
    if [[ -n $NODE ]]; then
        pod=$(kn get pods -l "app=$DAEMONSET" --field-selector="spec.nodeName=$NODE" -o jsonpath='{.items[*].metadata.name}')
        [[ -n $pod ]] || die "no node plugin runs on node '$NODE'" "$KUBECTL -n $NAMESPACE get pods -o wide"
        logs_of "$pod"
        return
    fi
    at_end end_jobs
    logs_of -l "app=$DEPLOYMENT" &
    logs_of -l "app=$DAEMONSET" &
    for job in $(jobs -p); do wait "$job" || failed=yes; done
    [[ -z $failed ]]
}

main "$@"
