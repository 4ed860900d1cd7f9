# shellcheck shell=bash
# One small Ceph: a monitor, a manager and one OSD that keeps its data in memory, cephx
# on, a pool "rbd". Clusters are called a, b, …; they differ in address and fsid.
#
# What a reader gets wrong: an OSD with memstore writes its data out only when it is
# stopped in order, so ceph_stop takes its time and `down` does not.

CLUSTER_NAMES=(a b c d e f g h i)
CEPH_LIMIT=60 # seconds for any one step

cluster_name() { echo "${CLUSTER_NAMES[$1 - 1]}"; }
cluster_dir() { echo "$LAB_DIR/clusters/$1"; }
cluster_fsid() { cat "$(cluster_dir "$1")/fsid"; }
cluster_pid() { cat "$RUN_DIR/$1/$2.pid" 2>/dev/null || true; }
ceph_clusters() { find "$LAB_DIR/clusters" -mindepth 1 -maxdepth 1 -printf '%f\n' 2>/dev/null | sort; }

cluster_ip() {
    local i
    for i in "${!CLUSTER_NAMES[@]}"; do
        [[ ${CLUSTER_NAMES[$i]} != "$1" ]] || echo "10.99.0.$((i + 1))"
    done
}

cluster_arg() {
    [[ -n ${1-} && -n $(cluster_ip "$1") ]] || usage_error "which cluster? one of ${CLUSTER_NAMES[*]}"
    echo "$1"
}

# ceph.conf for the daemons, client.conf for everybody else.
ceph_write_conf() {
    local dir=$1 run=$2 ip=$3 fsid=$4
    cat >"$dir/client.conf" <<CONF
[global]
fsid = $fsid
mon_host = [v2:$ip:3300,v1:$ip:6789]
[client]
keyring = $dir/admin.keyring
log_file = /dev/null
admin_socket =
CONF
    cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon_host = [v2:$ip:3300,v1:$ip:6789]
public_addr = $ip
run_dir = $run
admin_socket = $run/\$name.asok
pid_file = $run/\$name.pid
log_file = $dir/log/\$name.log
crash_dir = $dir/crash
keyring = $dir/\$name.keyring
auth_allow_insecure_global_id_reclaim = false
mon_warn_on_insecure_global_id_reclaim_allowed = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_warn_on_pool_no_redundancy = false
[mon]
mon_data = $dir/mon
keyring = $dir/mon.keyring
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
paxos_propose_interval = 0.05
mon_data_avail_warn = 1
mon_data_avail_crit = 1
mgr_initial_modules =
[mgr]
mgr_data = $dir/mgr
[osd]
osd_data = $dir/osd
osd_objectstore = memstore
memstore_device_bytes = 4294967296
# The OSD takes its memory for a spinning disk, and would rest 5 s between two objects of a removed snapshot.
osd_snap_trim_sleep_hdd = 0
# Off, so that a stopped OSD writes its memory to its folder and ceph_start finds it.
osd_fast_shutdown = false
CONF
}

ceph_write_keyrings() {
    local dir=$1
    ceph-authtool --create-keyring "$dir/admin.keyring" --gen-key -n client.admin \
        --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    ceph-authtool --create-keyring "$dir/mgr.x.keyring" --gen-key -n mgr.x \
        --cap mon 'allow profile mgr' --cap osd 'allow *' --cap mds 'allow *'
    ceph-authtool --create-keyring "$dir/osd.0.keyring" --gen-key -n osd.0 \
        --cap mon 'allow profile osd' --cap mgr 'allow profile osd' --cap osd 'allow *'
    ceph-authtool --create-keyring "$dir/mon.keyring" --gen-key -n mon. --cap mon 'allow *'
    cat "$dir/admin.keyring" "$dir/mgr.x.keyring" "$dir/osd.0.keyring" >>"$dir/mon.keyring"
}

# Makes the folders, keys and the monitor's and the OSD's stores of a new cluster.
ceph_create() {
    local name=$1 dir run ip fsid
    dir=$(cluster_dir "$name") run=$RUN_DIR/$name ip=$(cluster_ip "$name")
    fsid=$(cat /proc/sys/kernel/random/uuid)
    mkdir -p "$dir"/{mon,mgr,osd,log,crash}
    echo "$fsid" >"$dir/fsid"
    cat /proc/sys/kernel/random/uuid >"$dir/osd-uuid"
    ceph_write_conf "$dir" "$run" "$ip" "$fsid"
    (umask 077; ceph_write_keyrings "$dir" >/dev/null)
    monmaptool --create --fsid "$fsid" --addv a "[v2:$ip:3300,v1:$ip:6789]" "$dir/monmap" >/dev/null
    limited "$CEPH_LIMIT" ceph-mon -c "$dir/ceph.conf" -i a --mkfs --monmap "$dir/monmap" --keyring "$dir/mon.keyring"
    limited "$CEPH_LIMIT" ceph-osd -c "$dir/ceph.conf" -i 0 --mkfs --osd-uuid "$(cat "$dir/osd-uuid")" --no-mon-config
}

ceph_daemon() {
    local name=$1 daemon=$2 id=$3 dir
    dir=$(cluster_dir "$name")
    gone "$(cluster_pid "$name" "${daemon#ceph-}.$id")" || return 0
    if ! limited "$CEPH_LIMIT" nsenter --net="$NETNS_FILE" setsid "$daemon" -c "$dir/ceph.conf" -i "$id"; then
        show_log "$dir/log/${daemon#ceph-}.$id.log"
        return 1
    fi
}

ceph_admin() {
    local name=$1
    shift
    limited "$CEPH_LIMIT" nsenter --net="$NETNS_FILE" \
        env CEPH_CONF="$(cluster_dir "$name")/client.conf" CEPH_ARGS= "$@"
}

# Steps: 1 monitor, 2 the OSD's place in the map and the pool, 3 OSD and manager,
# 4 the pool's first write, which answers only when the OSD serves it.
ceph_start() {
    local name=$1 dir fresh=""
    dir=$(cluster_dir "$name")
    mkdir -p "$RUN_DIR/$name"
    network_add_address "$(cluster_ip "$name")"
    if [[ ! -e $dir/fsid ]]; then
        fresh=yes
        ceph_create "$name"
    fi
    ceph_daemon "$name" ceph-mon a
    if [[ -n $fresh ]]; then
        ceph_admin "$name" ceph osd new "$(cat "$dir/osd-uuid")"
        # Else the manager makes a pool of its own, and tests would find it.
        ceph_admin "$name" ceph config set mgr mgr/devicehealth/enable_monitoring false --force
    fi
    ceph_daemon "$name" ceph-osd 0
    ceph_daemon "$name" ceph-mgr x
    if [[ -n $fresh ]]; then
        ceph_admin "$name" ceph osd pool create rbd 8
        ceph_admin "$name" rbd pool init rbd
    else
        ceph_admin "$name" rbd ls rbd
    fi
}

# The OSD first: it tells the monitor, and writes its data out.
ceph_stop() {
    local name=$1 daemon pid
    for daemon in osd.0 mgr.x mon.a; do
        pid=$(cluster_pid "$name" "$daemon")
        alive "$pid" || continue
        kill -CONT "$pid" && kill -TERM "$pid"
        await "$CEPH_LIMIT" "end of $daemon of Ceph $name" "$(cluster_dir "$name")/log/$daemon.log" gone "$pid"
    done
}

# exec [NAME] -- CMD…: replaces this process, so signals and status are the command's own.
ceph_exec() {
    local name=a
    if [[ ${1-} != -- ]]; then
        name=$(cluster_arg "$@")
        shift
    fi
    [[ ${1-} == -- && $# -gt 1 ]] || usage_error "exec [NAME] -- CMD…"
    shift
    [[ -e $(cluster_dir "$name")/fsid ]] || die "there is no Ceph $name in lab $LAB_NAME"
    exec nsenter --net="$NETNS_FILE" -- env CEPH_CONF="$(cluster_dir "$name")/client.conf" "$@"
}

ceph_status() {
    local daemon state=()
    for daemon in mon.a mgr.x osd.0; do
        if alive "$(cluster_pid "$1" "$daemon")"; then state+=("$daemon up"); else state+=("$daemon DOWN"); fi
    done
    echo "Ceph $1: ${state[*]}; monitor $(cluster_ip "$1"):6789, fsid $(cluster_fsid "$1"), logs in $(cluster_dir "$1")/log"
}

ceph_env() {
    local up=${1^^}
    export_line "LAB_${up}_CONF" "$(cluster_dir "$1")/client.conf"
    export_line "LAB_${up}_KEYRING" "$(cluster_dir "$1")/admin.keyring"
    export_line "LAB_${up}_FSID" "$(cluster_fsid "$1")"
    export_line "LAB_${up}_IP" "$(cluster_ip "$1")"
    export_line "LAB_${up}_MONITORS" "$(cluster_ip "$1"):6789"
    # There: mon.a.pid, mgr.x.pid, osd.0.pid and the daemons' admin sockets (osd.0.asok).
    export_line "LAB_${up}_RUN" "$RUN_DIR/$1"
}
