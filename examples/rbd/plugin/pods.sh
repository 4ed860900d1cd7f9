# shellcheck shell=bash
# shellcheck disable=SC2016  # go templates have variables with a dollar sign
# Why pods are not ready, or not made, in a line each; and the roll-out of the driver, watched.
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

# "NAME: pods are not made: why" where Kubernetes refuses the pods that the controller or the node
# plugin wants, as a quota or an admission rule has it. There is no pod then that could have an event.
# A Deployment has the words as a condition, as long as they are true; a DaemonSet as events alone,
# which stay for an hour and count only where pods are missing.
not_made() {
    local name=$1 wanted made said=""
    if [[ $name = "$DEPLOYMENT" ]]; then
        said=$(kn get deployment "$name" -o go-template='{{with .status}}{{range .conditions}}{{/*
            */}}{{if or (eq .reason "FailedCreate") (eq .reason "ReplicaSetCreateError")}}{{.reason}}: {{.message}}{{"\n"}}{{end}}{{end}}{{end}}') || return 0
    else
        IFS='|' read -r wanted made < <(kn get daemonset "$name" -o jsonpath='{.status.desiredNumberScheduled}|{.status.currentNumberScheduled}') || true
        ((${made:-0} < ${wanted:-0})) || return 0
        said=$(kn get events --field-selector "involvedObject.kind=DaemonSet,involvedObject.name=$name,reason=FailedCreate" --sort-by=.lastTimestamp \
            -o go-template='{{range .items}}{{.reason}}: {{.message}}{{"\n"}}{{end}}') || return 0
    fi
    # Each try has another name for its pod, and would be shown as news.
    said=$(tail -n 1 <<<"$said" | sed -E -e "s/\"$name-[-a-z0-9]*\"/\"$name-…\"/g" \
        -e 's/^([A-Za-z]+: )(\(combined from similar events\): )?(Error creating: )?/\1/')
    # What admission says begins with the reason, and may go on for a page.
    ((${#said} <= 400)) || said="${said:0:400} …"
    [[ -z $said ]] || echo "$name: pods are not made: $said"
}

# Kubernetes tries such pods ever more rarely, in the end each 17 minutes. A change of the object has
# it try at once: what refused them may be gone since.
try_again() {
    local kind name
    for kind in deployment daemonset; do
        name=$DEPLOYMENT
        [[ $kind = deployment ]] || name=$DAEMONSET
        [[ -z $(not_made "$name") ]] || kn annotate --overwrite "$kind" "$name" "rbd-csi.tried=$(date +%s)" >/dev/null || true
    done
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
    local what=$1 state newest seen wanted updated available all name why silent
    case "$what" in
    controller) state=$(deployment_state) name=$DEPLOYMENT ;;
    *) state=$(daemonset_state) name=$DAEMONSET ;;
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
    why=$(not_made "$name" && pods_not_ready "app=$name") || why=""
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
