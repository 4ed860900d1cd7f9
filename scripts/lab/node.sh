# shellcheck shell=bash
# One krbd node: Debian's User-Mode Linux, a kernel that runs as a process. Its root is
# this machine's file system under an overlay in its own memory: it sees every program and
# can write anywhere, and nothing of that reaches the host. The lab's folder and the
# checkout are seen live (guest/init.sh).
#
# What a reader gets wrong: such a kernel is several processes. They live in a process
# namespace whose outer process is the one in the pid file; when it dies, all of them do.
# With LAB_KERNEL=host there is no such process: the node is the lab's network namespace.

NODE_LIMIT=60 # seconds for a boot or a shutdown
AGENT_PORT=1023

node_dir() { echo "$LAB_DIR/nodes/$1"; }
node_ip() { if [[ $LAB_KERNEL == host ]]; then echo 10.99.0.10; else echo "10.99.0.1$1"; fi; }
node_pid() { cat "$(node_dir "$1")/pid" 2>/dev/null || true; }
nodes() { find "$LAB_DIR/nodes" -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort; }

node_arg() { number "a node" "${1-}" 1 9; }

uml_only() { [[ $LAB_KERNEL != host ]] || die "$1 needs a UML node, and LAB_KERNEL is host"; }

# The command that talks to node $1's agent, as an array: it must be exec'ed or timed.
node_client() { CLIENT=(nsenter --net="$NETNS_FILE" /usr/bin/python3 -IS "$LAB_SCRIPTS/node-exec.py" "10.98.$1.2" "$AGENT_PORT"); }

# Whether so many nodes can be had at all; asked before anything is started.
nodes_require() {
    [[ $LAB_KERNEL == host ]] && (($1 > 0)) || return 0
    (($1 == 1)) || die "LAB_KERNEL=host: this machine is one node, not $1"
    local words
    [[ -d /sys/bus/rbd ]] || words=$(modprobe rbd 2>&1) ||
        die "LAB_KERNEL=host needs a kernel with rbd (CONFIG_BLK_DEV_RBD), and $(uname -r) has none: ${words:-no modprobe}"
}

node_start() {
    local n=$1
    mkdir -p "$(node_dir "$n")"
    if [[ $LAB_KERNEL == host ]]; then
        nodes_require "$n"
        network_add_address "$(node_ip 1)"
        return
    fi
    ! alive "$(node_pid "$n")" || die "node $n is running"
    network_add_taps "$n"
    node_write_boot "$n"
    node_boot "$n"
    await "$NODE_LIMIT" "boot of node $n" "$(node_dir "$n")/console.log" node_answers "$n"
}

node_answers() { node_client "$1" && timeout 5 "${CLIENT[@]}" -- true; }

# What the guest's first process has to know.
node_write_boot() {
    local live=("$CHECKOUT")
    [[ -z ${CARGO_TARGET_DIR-} || ! -d $CARGO_TARGET_DIR ]] || live+=("$(readlink -f "$CARGO_TARGET_DIR")")
    ! kube_exists || live+=("$(kube_tools)") # /tmp, for one, is the node's own
    {
        export_line LAB_NODE "$1"
        export_line LAB_DIR "$LAB_DIR"
        export_line LAB_SCRIPTS "$LAB_SCRIPTS"
        export_line LAB_LIVE "${live[*]}"
        export_line AGENT_PORT "$AGENT_PORT"
        export_line CEPH_CONF "$(cluster_dir a)/client.conf"
    } >"$(node_dir "$1")/boot.env"
}

node_boot() {
    local n=$1 dir mac=52:54:00:63
    dir=$(node_dir "$n")
    mkdir -p "$RUN_DIR/uml"
    # shellcheck disable=SC2054  # the commas belong to the kernel's options
    local kernel=(linux.uml "mem=$LAB_NODE_MEM" root=/dev/root rootfstype=hostfs rootflags=/ ro
        "init=$LAB_SCRIPTS/guest/init.sh" "LAB_BOOT=$dir/boot.env" panic=1
        con=null con0=null,fd:1 quiet "uml_dir=$RUN_DIR/uml/" "umid=node$n"
        "vec0:transport=tap,ifname=tap$n,depth=128,gro=1,mac=$mac:00:0$n"
        "vec1:transport=tap,ifname=ctl$n,depth=128,gro=1,mac=$mac:01:0$n")
    ! kube_exists || kernel+=("ubd0=$(kube_disk "$n")")
    # /dev/shm: the guest's memory is a file there, unlinked once it is open.
    # shellcheck disable=SC2016  # expanded by the inner shells
    TMPDIR=/dev/shm nsenter --net="$NETNS_FILE" setsid sh -c 'echo $$ >"$0"; exec "$@"' "$dir/pid" \
        unshare --pid --fork --kill-child sh -c '"$@"; exit' sh "${kernel[@]}" \
        >"$dir/console.log" 2>&1 </dev/null &
    await 5 "process of node $n" "$dir/console.log" test -s "$dir/pid"
}

# Shutdown in order; a node that does not answer is killed after the limit.
node_stop() {
    uml_only node-stop
    local n=$1 pid
    pid=$(node_pid "$n")
    alive "$pid" || return 0
    node_client "$n"
    timeout 10 "${CLIENT[@]}" --poweroff || say "node $n does not answer"
    await 15 "shutdown of node $n" "$(node_dir "$n")/console.log" gone "$pid" || node_kill "$n"
    node_forget "$n"
}

node_kill() {
    uml_only node-kill
    local pid inner
    pid=$(node_pid "$1")
    alive "$pid" || return 0
    inner=$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)
    kill -KILL "$pid"
    await 10 "end of node $1" /dev/null gone "$pid"
    [[ -z $inner ]] || await 10 "end of node $1" /dev/null gone "${inner// /}"
    node_forget "$1"
}

# A dead kernel closes no connection: without this its callers would wait for the
# keepalive's 25 s (and do so where this machine's kernel cannot destroy sockets).
node_forget() {
    rm -f "$(node_dir "$1")/pid"
    in_netns ss --kill dst "10.98.$1.2" >/dev/null 2>&1 || true
}

# Not `link set down`: the guest's driver then spins.
node_cut() { uml_only node-cut && ip -n "$NETNS" link set "tap$1" nomaster; }
node_join() { uml_only node-join && ip -n "$NETNS" link set "tap$1" master "$BRIDGE"; }

# node-exec [--tty] [--env K=V]… N -- CMD…: replaces this process.
node_exec() {
    local options=() n
    while [[ ${1-} == --* && $1 != -- ]]; do
        case "$1" in
        --tty) options+=("$1") && shift ;;
        --env) options+=("$1" "${2-}") && shift 2 ;;
        *) usage_error "node-exec: unknown option $1" ;;
        esac
    done
    n=$(node_arg "$@")
    [[ ${2-} == -- && $# -gt 2 ]] || usage_error "node-exec N -- CMD…"
    shift 2
    if [[ $LAB_KERNEL == host ]]; then
        local variables=("CEPH_CONF=$(cluster_dir a)/client.conf") i
        for ((i = 1; i < ${#options[@]}; i++)); do
            [[ ${options[i - 1]} != --env ]] || variables+=("${options[i]}")
        done
        exec nsenter --net="$NETNS_FILE" -- env "${variables[@]}" "$@"
    fi
    alive "$(node_pid "$n")" || die "node $n is not running"
    node_client "$n"
    exec "${CLIENT[@]}" "${options[@]}" -- "$@"
}

node_status() {
    local state=DOWN
    [[ $LAB_KERNEL == host ]] && state="this machine's kernel"
    ! alive "$(node_pid "$1")" || state=up
    echo "node $1: $state, address $(node_ip "$1"), console $(node_dir "$1")/console.log"
}

node_env() {
    export_line "LAB_NODE$1_IP" "$(node_ip "$1")"
    export_line "LAB_NODE$1_CONTROL_IP" "10.98.$1.2"
    export_line "LAB_NODE$1_PID" "$(node_pid "$1")"
}
