# shellcheck shell=bash
# The control plane: etcd, API server, controller manager, scheduler and snapshot-controller as
# plain processes in the lab's network namespace, where 10.99.0.1 is the API server's address and
# 10.98.0.1 the service `kubernetes`. Keys, tokens, logs and etcd's data are in kube_dir.
#
# What a reader gets wrong: there is no kube-proxy and no DNS. The namespace routes between
# the nodes' pods (10.97.N.0/24) and answers for 10.98.0.1; no other service address works.

KUBE_LIMIT=60 # seconds for any one step
KUBE_ADDRESS=10.99.0.1
KUBE_SERVICE=10.98.0.1
KUBE_PARTS=(etcd apiserver controller-manager scheduler snapshot-controller)

kube_dir() { echo "$LAB_DIR/kubernetes"; }
kube_exists() { [[ -d $(kube_dir) ]]; }
kube_pid() { cat "$(kube_dir)/$1.pid" 2>/dev/null || true; }
kube_log() { echo "$(kube_dir)/log/$1.log"; }
kube_tools() { cat "$(kube_dir)/tools"; }
need_kube() { kube_exists || die "lab $LAB_NAME has no Kubernetes; start one with: lab up --kubernetes"; }

# Everything that needs no running process: keys, tokens, kubeconfigs, routes, and which
# images the nodes get. Arguments: those of images_files.
kube_prepare() {
    local dir
    dir=$(kube_dir)
    mkdir -p "$dir"/{log,images,pki}
    tools_dir >"$dir/tools"
    local list images
    # Not in < <(…), where a failure would be lost and the nodes get no images.
    list=$(images_files "$@") || return
    [[ -n $list ]] ||
        die "no images for the nodes under $(tools_dir); remove that folder, so that they are made again"
    mapfile -t images <<<"$list"
    ln -s "${images[@]}" "$dir/images/"
    echo "$(tools_dir)/store-$(images_hash)${1-}.disk" >"$dir/store"
    (umask 077; kube_write_keys >/dev/null; kube_write_tokens)
    kube_write_kubectl
    network_add_address "$KUBE_ADDRESS"
    ip -n "$NETNS" addr add "$KUBE_SERVICE/32" dev lo
    # An answer at once instead of silence for whoever asks for another service or for DNS.
    ip -n "$NETNS" route add unreachable 10.98.0.0/24
    in_netns sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
}

# One authority signs the API server's certificate and the one by which it shows itself to
# kubelets; a key pair signs the service accounts' tokens.
kube_write_keys() {
    local pki
    pki=$(kube_dir)/pki
    kube_openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
        -subj /CN=lab-kubernetes -keyout "$pki/ca.key" -out "$pki/ca.crt"
    kube_sign server /CN=kube-apiserver serverAuth "IP:$KUBE_ADDRESS,IP:127.0.0.1,IP:$KUBE_SERVICE,DNS:kubernetes.default.svc"
    kube_sign to-kubelet /O=system:masters/CN=kube-apiserver clientAuth DNS:kube-apiserver
    kube_openssl genrsa -out "$pki/accounts.key" 2048
    kube_openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub"
}

kube_openssl() { limited "$KUBE_LIMIT" openssl "$@"; }

kube_sign() {
    local name=$1 subject=$2 usage=$3 names=$4 pki
    pki=$(kube_dir)/pki
    kube_openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$subject" \
        -keyout "$pki/$name.key" -out "$pki/$name.csr"
    printf 'extendedKeyUsage=%s\nsubjectAltName=%s\n' "$usage" "$names" >"$pki/$name.ext"
    kube_openssl x509 -req -in "$pki/$name.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial \
        -days 3650 -extfile "$pki/$name.ext" -out "$pki/$name.crt"
}

# Users as a real cluster has them, so that its roles and NodeRestriction are real too.
kube_write_tokens() {
    local n
    kube_user admin admin system:masters
    kube_user controller-manager system:kube-controller-manager
    kube_user scheduler system:kube-scheduler
    # The account to which its own manifests give rights.
    kube_user snapshot-controller system:serviceaccount:kube-system:snapshot-controller
    for ((n = 1; n <= 9; n++)); do kube_user "node$n" "system:node:node$n" system:nodes; done
}

# kube_user FILE USER [GROUP]: a token, and a kubeconfig with it.
kube_user() {
    local dir token
    dir=$(kube_dir)
    token=$(tr -d - </proc/sys/kernel/random/uuid)
    echo "$token,$2,$2${3:+,$3}" >>"$dir/tokens.csv"
    cat >"$dir/$1.kubeconfig" <<CONF
apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster: {server: "https://$KUBE_ADDRESS:443", certificate-authority-data: $(base64 -w0 "$dir/pki/ca.crt")}
users:
- name: $2
  user: {token: $token}
contexts:
- name: lab
  context: {cluster: lab, user: "$2"}
current-context: lab
CONF
}

# kubectl for any caller, whatever network it is in. Its cache is the lab's own: another
# lab's API server has the same address.
kube_write_kubectl() {
    local file
    file=$(kube_dir)/kubectl
    cat >"$file" <<SH
#!/bin/sh
# Runs kubectl as the administrator of this lab's Kubernetes, in the lab's network.
export KUBECONFIG="$(kube_dir)/admin.kubeconfig" KUBECACHEDIR="$(kube_dir)/cache"
exec nsenter --net="$NETNS_FILE" -- "$(kube_tools)/kubectl" "\$@"
SH
    chmod 755 "$file"
}

kubectl() { "$(kube_dir)/kubectl" --request-timeout=5s "$@"; }

# The command line of one part, as the array COMMAND.
kube_command() {
    local dir tools pki
    dir=$(kube_dir) tools=$(kube_tools) pki=$dir/pki
    case "$1" in
    etcd)
        # Nothing of it has to outlive this machine, so it need not wait for the disk.
        COMMAND=("$tools/etcd" --data-dir="$dir/etcd" --unsafe-no-fsync --log-level=warn
            --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
            --listen-peer-urls=http://127.0.0.1:2380)
        ;;
    apiserver)
        # shellcheck disable=SC2054  # the comma belongs to the option
        COMMAND=("$tools/kube-apiserver" --etcd-servers=http://127.0.0.1:2379
            --bind-address=0.0.0.0 --advertise-address="$KUBE_ADDRESS" --secure-port=443
            --tls-cert-file="$pki/server.crt" --tls-private-key-file="$pki/server.key"
            --token-auth-file="$dir/tokens.csv" --anonymous-auth=false
            --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction
            --service-cluster-ip-range=10.98.0.0/24 --endpoint-reconciler-type=none
            --service-account-issuer=https://kubernetes.default.svc
            --service-account-key-file="$pki/accounts.pub" --service-account-signing-key-file="$pki/accounts.key"
            --kubelet-client-certificate="$pki/to-kubelet.crt" --kubelet-client-key="$pki/to-kubelet.key"
            --kubelet-preferred-address-types=InternalIP --allow-privileged=true)
        ;;
    controller-manager)
        COMMAND=("$tools/kube-controller-manager" --kubeconfig="$dir/controller-manager.kubeconfig"
            --leader-elect=false --use-service-account-credentials --bind-address=127.0.0.1
            --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt"
            --node-monitor-grace-period=20s)
        ;;
    scheduler)
        COMMAND=("$tools/kube-scheduler" --kubeconfig="$dir/scheduler.kubeconfig"
            --leader-elect=false --bind-address=127.0.0.1)
        ;;
    snapshot-controller)
        COMMAND=("$tools/snapshot-controller" --kubeconfig="$dir/snapshot-controller.kubeconfig"
            --http-endpoint=127.0.0.1:10270)
        ;;
    *) usage_error "which part of Kubernetes? one of ${KUBE_PARTS[*]}" ;;
    esac
}

# Where a part says that it is ready; the controller manager's and the scheduler's ports
# are their defaults.
kube_ready() {
    case "$1" in
    etcd) in_netns curl -fs --max-time 2 http://127.0.0.1:2379/health ;;
    apiserver) kubectl get --raw /readyz ;;
    controller-manager) in_netns curl -fsk --max-time 2 https://127.0.0.1:10257/healthz ;;
    scheduler) in_netns curl -fsk --max-time 2 https://127.0.0.1:10259/healthz ;;
    snapshot-controller) in_netns curl -fs --max-time 2 -o /dev/null http://127.0.0.1:10270/metrics ;;
    esac
}

kube_start() {
    local part=$1 dir
    dir=$(kube_dir)
    kube_command "$part"
    gone "$(kube_pid "$part")" || return 0
    rm -f "$dir/$part.pid"
    # shellcheck disable=SC2016  # expanded by the inner shell
    in_netns setsid sh -c 'echo $$ >"$0.new" && mv "$0.new" "$0"; exec "$@"' "$dir/$part.pid" "${COMMAND[@]}" \
        >>"$(kube_log "$part")" 2>&1 </dev/null &
    await "$KUBE_LIMIT" "Kubernetes' $part" "$(kube_log "$part")" kube_ready "$part"
}

# In order when that takes few seconds (the API server waits for its clients), else at once.
kube_stop() {
    local part=$1 pid
    kube_command "$part"
    pid=$(kube_pid "$part")
    alive "$pid" || return 0
    kill -TERM "$pid"
    await 5 "end of $part" /dev/null gone "$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
    await "$KUBE_LIMIT" "end of $part" "$(kube_log "$part")" gone "$pid"
}

kube_start_all() {
    kube_start etcd
    kube_start apiserver
    kube_start controller-manager
    kube_start scheduler
    kube_snapshot_kinds
    kube_start snapshot-controller
    # Made by the controller manager; until it is there, no pod can be created.
    await "$KUBE_LIMIT" "the default service account" "$(kube_log controller-manager)" \
        kubectl get serviceaccount default
}

# A cluster has them, and the controller's rights, once for all drivers.
kube_snapshot_kinds() {
    kubectl create --validate=ignore -f "$(kube_tools)/snapshots/crds" -f "$(kube_tools)/snapshots/rbac.yaml" >/dev/null
}

kube_status() {
    local part state=()
    for part in "${KUBE_PARTS[@]}"; do
        if alive "$(kube_pid "$part")"; then state+=("$part up"); else state+=("$part DOWN"); fi
    done
    echo "Kubernetes: ${state[*]}; https://$KUBE_ADDRESS:443, kubectl $(kube_dir)/kubectl, logs in $(kube_dir)/log"
}

kube_env() {
    export_line LAB_KUBECONFIG "$(kube_dir)/admin.kubeconfig"
    export_line LAB_KUBECTL "$(kube_dir)/kubectl"
    # There: kubelet, etcd, …, and after `lab k8s-tools --e2e` e2e.test and ginkgo.
    export_line LAB_KUBE_TOOLS "$(kube_tools)"
}
