# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# Why pods are not ready, in a line each; and the roll-out of the driver, watched.
#
# What a reader gets wrong: go templates fail where a field of a missing object is asked
# for, hence the many "with".

# "NAME on NODE: why" for each pod with label $1 that is not ready. Of a node that is silent
# Kubernetes shows what was last heard: a container that runs.
pods_not_ready() {
    local template silent name node gone phase reasons containers
    silent=$(silent_nodes) || silent=""
    template='{{range .items}}{{.metadata.name}}|{{/*
        */}}{{with .spec.nodeName}}{{.}}{{else}}no node{{end}}|{{with .metadata.deletionTimestamp}}gone{{end}}|{{.status.phase}}|{{/*
        */}}{{range .status.conditions}}{{if and (eq .type "PodScheduled") (eq .status "False")}}{{.message}}{{end}}{{end}}|{{/*
        */}}{{range .status.containerStatuses}}{{if not .ready}}{{.name}}:{{with .state.waiting}}{{.reason}}{{end}}{{/*
        */}}{{with .state.terminated}}{{.reason}}{{end}}{{if .state.running}}Starting{{end}} {{end}}{{end}}{{"\n"}}{{end}}'
    kn get pods -l "$1" -o go-template="$template" | while IFS='|' read -r name node gone phase reasons containers; do
        if grep -xF -- "$node" <<<"$silent" >/dev/null; then
            echo "$name on $node: the node is not ready"
        elif [[ -n $gone ]]; then
            continue
        elif [[ -n $reasons ]]; then
            echo "$name: no node takes it: $reasons"
        elif [[ -n $containers ]]; then
            echo "$name on $node: $(containers_in_words "$name" "$containers")"
        elif [[ $phase != Running && $phase != Succeeded ]]; then
            echo "$name on $node: $phase$(last_warning "$name")"
        fi
    done
}

# The words behind what Kubernetes calls containers' states, and the pod's newest warning.
containers_in_words() {
    local pod=$1 item container reason text="" made="" starting=""
    for item in $2; do
        container=${item%%:*} reason=${item#*:}
        case "$reason" in
        ContainerCreating | PodInitializing) made+="$container " ;;
        Starting) starting+="$container " ;;
        ErrImagePull | ImagePullBackOff | ErrImageNeverPull | InvalidImageName)
            text+="the image of $container cannot be had ($reason); "
            ;;
        CrashLoopBackOff | Error | Completed | OOMKilled | RunContainerError)
            text+="$container ends ($reason); its last line: $(last_line "$pod" "$container"); "
            ;;
        *) text+="$container: $reason; " ;;
        esac
    done
    [[ -z $made ]] || text+="being made: ${made% }; "
    [[ -z $starting ]] || text+="running, not ready yet: ${starting% }; "
    echo "${text%; }$(last_warning "$pod")"
}

last_line() {
    local line
    line=$(kn logs "$1" -c "$2" --previous --tail=1 2>/dev/null) || line=""
    [[ -n $line ]] || line=$(kn logs "$1" -c "$2" --tail=1 2>/dev/null) || line="(no log)"
    echo "${line:-(no log)}"
}

# Behind a comma. Words without a reason, and probes of what is about to start, say nothing
# new; of a long chain of causes the last is the one.
last_warning() {
    local text
    text=$(kn get events --field-selector "involvedObject.name=$1,type=Warning" --sort-by=.lastTimestamp \
        -o go-template='{{range .items}}{{.message}}{{"\n"}}{{end}}' 2>/dev/null |
        grep -vE '^Error: |probe failed: |^Back-off ' | tail -n 1) || text=""
    ((${#text} < 240)) || text="${text:0:80} … ${text: -150}"
    [[ -z $text ]] || echo ", $text"
}

# "newest seen wanted updated available all" of the controller and of the node plugin.
# Fields that Kubernetes leaves out are 0.
deployment_state() {
    kn get deployment "$DEPLOYMENT" -o jsonpath='{.metadata.generation}|{.status.observedGeneration}|{.spec.replicas}|{.status.updatedReplicas}|{.status.availableReplicas}|{.status.replicas}'
}
daemonset_state() {
    kn get daemonset "$DAEMONSET" -o jsonpath='{.metadata.generation}|{.status.observedGeneration}|{.status.desiredNumberScheduled}|{.status.updatedNumberScheduled}|{.status.numberAvailable}|{.status.desiredNumberScheduled}'
}

# Says how far one of the two is, and gives 0 when it is there.
rolled_out() {
    local what=$1 state newest seen wanted updated available all label why silent
    case "$what" in
    controller) state=$(deployment_state) label=app=$DEPLOYMENT ;;
    *) state=$(daemonset_state) label=app=$DAEMONSET ;;
    esac || return 1
    IFS='|' read -r newest seen wanted updated available all <<<"$state"
    if [[ $newest = "$seen" && ${updated:-0} = "$wanted" && ${available:-0} = "$wanted" && ${all:-0} = "$wanted" ]]; then
        say "$what: all $wanted pods are ready"
        return 0
    fi
    if [[ $what != controller && $newest = "$seen" ]] && silent=$(all_but_silent "$wanted"); then
        say "$what: all pods are ready but those on nodes that are not: ${silent//$'\n'/, }"
        return 0
    fi
    why=$(pods_not_ready "$label") || why=""
    show_once "$what: ${available:-0} of $wanted ready, ${updated:-0} up to date${why:+$'\n'$why}"
    return 1
}

# Gives 0, and names them, when only silent nodes have no ready node plugin of the newest
# revision: theirs cannot be waited for.
all_but_silent() {
    local wanted=$1 silent revision ready
    silent=$(silent_nodes) && [[ -n $silent ]] || return 1
    revision=$(kn get controllerrevisions -l "app=$DAEMONSET" --sort-by=.revision \
        -o go-template='{{range .items}}{{index .metadata.labels "controller-revision-hash"}}{{"\n"}}{{end}}' | tail -n 1) || return 1
    ready=$(kn get pods -l "app=$DAEMONSET,controller-revision-hash=$revision" -o go-template='{{range .items}}{{$n := .spec.nodeName}}{{/*
        */}}{{range .status.conditions}}{{if and (eq .type "Ready") (eq .status "True")}}{{$n}}{{"\n"}}{{end}}{{end}}{{end}}') || return 1
    ready=$(grep -vxF "$silent" <<<"$ready" | grep -c .) || true
    (($(wc -l <<<"$silent") + ready >= wanted)) && echo "$silent"
}

# A state is shown when it differs from the last one that was.
SHOWN=""
show_once() {
    [[ $1 != "$SHOWN" ]] || return 0
    SHOWN=$1
    printf '%s\n' "$1" | sed -e 's/^/   /' -e '2,$s/^/     /'
}
