# shellcheck shell=bash
# Names, places, messages and time limits that every part of the lab shares.
#
# What a reader gets wrong: sockets cannot live in LAB_DIR. A UNIX socket's path ends at
# 107 bytes and a checkout's path may be longer, so they are in RUN_DIR, which is short.

LAB_NAME=${LAB_NAME:-lab}
LAB_KERNEL=${LAB_KERNEL:-uml}
LAB_NODE_MEM=${LAB_NODE_MEM:-}
# What took long to build: outside the checkout, shared by all labs of this user.
LAB_CACHE=${RBD_CSI_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/rbd-csi}
[[ $LAB_KERNEL == uml || $LAB_KERNEL == host ]] || { echo "lab: LAB_KERNEL is uml or host, not '$LAB_KERNEL'" >&2 && exit 2; }
CHECKOUT=$(readlink -f "$LAB_SCRIPTS/../..")
LAB_DIR=$(readlink -m "${LAB_DIR:-$CHECKOUT/.lab/$LAB_NAME}")

short_hash() { printf '%s' "$1" | sha256sum | cut -c1-6; }

# Two hashes, the checkout's first: `down --all` finds by it the labs whose folder is lost.
CHECKOUT_ID=$(short_hash "$CHECKOUT")

lab_ids() {
    LAB_ID=$1
    NETNS=rbdlab-$LAB_ID
    NETNS_FILE=/run/netns/$NETNS
    RUN_DIR=/tmp/rbdlab-$LAB_ID
}
lab_ids "$CHECKOUT_ID-$(short_hash "$LAB_DIR")"

known_ids() {
    local path
    for path in /run/netns/rbdlab-"$CHECKOUT_ID"-* /tmp/rbdlab-"$CHECKOUT_ID"-*; do
        [[ ! -e $path ]] || basename "$path" | sed 's/^rbdlab-//'
    done | sort -u
}

say() { printf 'lab: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

usage_error() {
    say "$* (see: lab help)"
    exit 2
}


lab_remains() {
    local path
    for path in "$NETNS_FILE" "$RUN_DIR" "$LAB_DIR"; do
        [[ ! -e $path ]] || printf '%s ' "$path"
    done
}

lab_exists() { [[ -n $(lab_remains) ]]; }
need_lab() { [[ -e $NETNS_FILE ]] || die "no lab '$LAB_NAME' is running; start it with: lab up"; }

# Prints the value when it is a number from $3 to $4.
number() {
    if [[ ! $2 =~ ^[0-9]{1,7}$ ]] || (($2 < $3 || $2 > $4)); then
        usage_error "$1 wants a number from $3 to $4, not '$2'"
    fi
    echo "$2"
}

export_line() { printf 'export %s=%q\n' "$1" "$2"; }

# Runs a part of the start and says how long it took.
step() {
    local what=$1 begin=${EPOCHREALTIME/./}
    shift
    say "starting $what …"
    "$@"
    say "started $what in $(awk -v us=$((${EPOCHREALTIME/./} - begin)) 'BEGIN { printf "%.1f s", us / 1e6 }')"
}

# Repeats a command until it succeeds. Arguments: seconds, what is awaited, the log to
# show when it does not come, the command.
await() {
    local seconds=$1 what=$2 log=$3 end=$((SECONDS + $1))
    shift 3
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            say "$what: nothing after $seconds s"
            show_log "$log"
            return 1
        fi
        sleep 0.05
    done
}

# Runs a command with a time limit; its output is shown only when it fails.
limited() {
    local seconds=$1 log status=0
    shift
    log=$(mktemp "$RUN_DIR/out.XXXXXX")
    timeout --kill-after=2 "$seconds" "$@" >"$log" 2>&1 </dev/null || status=$?
    if ((status != 0)); then
        ((status != 124)) || say "no end after $seconds s"
        say "failed with status $status: $*"
        show_log "$log"
    fi
    rm -f "$log"
    return "$status"
}

show_log() {
    [[ -s $1 ]] || return 0
    say "the end of $1:"
    tail -n 25 "$1" | sed 's/^/    /' >&2
}

alive() { [[ -n $1 && -d /proc/$1 && $(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) != Z ]]; }
gone() { ! alive "$1"; }

# A watcher of ours is a shell and its child.
kill_tree() {
    local children
    children=$(cat "/proc/$1/task/$1/children" 2>/dev/null || true)
    # shellcheck disable=SC2086  # a list of process ids
    kill -KILL "$1" $children 2>/dev/null || true
}

# The namespace, the taps and the nodes' kernels need root; everything else follows.
become_root() {
    ((EUID != 0)) || return 0
    command -v sudo >/dev/null || die "the lab needs root, and there is no sudo here"
    # Root has another home, but is to find what this user has built.
    export RBD_CSI_CACHE=$LAB_CACHE
    exec sudo --preserve-env=LAB_NAME,LAB_DIR,LAB_KERNEL,LAB_NODE_MEM,CARGO_TARGET_DIR,RBD_CSI_CACHE \
        "$LAB_SCRIPTS/lab" "$@"
}
