# shellcheck shell=bash
# The parts of `lab up --kubernetes` in their order, and what it tells a person.

SECRET_FILE=$CHECKOUT/examples/rbd/secret.yaml

# Before anything is started, and as the calling user: what is built is kept for later.
kube_require() {
    [[ $LAB_KERNEL != host ]] || die "--kubernetes needs UML nodes, and LAB_KERNEL is host"
    packages_require --kubernetes
    tools_build "${1-}" >/dev/null
}

# The Ceph user that the examples' secret names, with that very key and the documented
# rights, so that the examples work as they stand.
kube_ceph_user() {
    local user key keyring
    if [[ ! -e $SECRET_FILE ]]; then
        say "no Ceph user is made for the examples: there is no $SECRET_FILE"
        return
    fi
    user=$(secret_value userID) key=$(secret_value userKey)
    [[ -n $user && -n $key ]] || die "$SECRET_FILE names no userID and userKey"
    keyring=$RUN_DIR/kubernetes.keyring
    printf '[client.%s]\nkey = %s\ncaps mon = "profile rbd"\ncaps osd = "profile rbd pool=rbd"\n' \
        "$user" "$key" >"$keyring"
    ceph_admin a ceph auth import -i "$keyring"
    rm "$keyring"
}

secret_value() { sed -nE "s/^ *$1: *\"?([^\" #]+)\"?.*/\1/p" "$SECRET_FILE" | head -n 1; }

# What a person reads after `make k8s-lab`.
kube_hints() {
    local me=scripts/lab/lab
    cat <<TEXT

Kubernetes is running, with the nodes $(nodes | sed 's/^/node/' | xargs). From the top of this checkout:
  eval "\$($me env)"                 then: \$LAB_KUBECTL get nodes
  $me kube-stop apiserver          stop a part of the control plane; kube-start starts it
  $me kubelet-restart 1
  $me node-kill 1                  pull a node's plug; node-start boots it again
  $me image-load FILE.tar          an image for the nodes (a docker-archive)
  logs: $(kube_dir)/log, $(kube_node_dir N)/
TEXT
}

# Our image, when it has been made.
kube_load_ours() {
    local image=$CHECKOUT/target/image/rbd-csi.tar
    if [[ -e $image ]]; then
        step "the import of $image" kube_image_load "$image"
    else
        say "the driver's image is not there ($image); make it with: make image; then: scripts/lab/lab image-load $image"
    fi
}
