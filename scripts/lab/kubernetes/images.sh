# shellcheck shell=bash
# The container images that the nodes need besides the driver's own, made here from what
# was built and from Debian's busybox: no registry is asked. An image is a docker-archive,
# which is a tar of one layer (itself a tar), its configuration and a list of its names.
#
# What a reader gets wrong: the names are those that manifests and Kubernetes' suite ask
# for, the content is only as much of the original as they use. With a tag that is not
# here a pod waits for a registry that does not exist: its policy must be IfNotPresent.

PAUSE_IMAGE=registry.k8s.io/pause:3.10.1
BUSYBOX_IMAGE=docker.io/library/busybox:1.36

# Images change with the way they are made and with busybox, programs do not.
images_hash() { cat "$KUBE_SCRIPTS/images.sh" "$KUBE_SCRIPTS/pause.c" "$(command -v busybox)" | sha256sum | cut -c1-12; }

# image_write FILE ROOT ENTRYPOINT NAME…: ENTRYPOINT as a JSON list.
image_write() {
    local file=$1 root=$2 entrypoint=$3 parts names
    shift 3
    parts=$(mktemp -d "$file.XXXXXX")
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$root" -cf "$parts/layer.tar" .
    printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":%s,"Env":["PATH=%s"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(go_architecture)" "$entrypoint" /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        "$(sha256sum "$parts/layer.tar" | cut -d' ' -f1)" >"$parts/config.json"
    names=$(printf ',"%s"' "$@")
    printf '[{"Config":"config.json","RepoTags":[%s],"Layers":["layer.tar"]}]' "${names#,}" >"$parts/manifest.json"
    tar -C "$parts" -cf "$file" manifest.json config.json layer.tar
    rm -r "$parts"
}

go_architecture() { case $(uname -m) in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }

# An image of one static program, as the sidecars are.
image_of_program() {
    local file=$1 program=$2 root
    shift 2
    root=$(mktemp -d "$file.root.XXXXXX")
    chmod 755 "$root"
    cp "$program" "$root/"
    image_write "$file" "$root" "[\"/$(basename "$program")\"]" "$@"
    rm -r "$root"
}

# A folder with busybox under all its names and what a small system has besides.
busybox_root() {
    local root=$1 name
    mkdir -p "$root"/{bin,etc,root,tmp,var/tmp,usr/bin,usr/sbin,sbin,mnt,home}
    chmod 755 "$root" && chmod 1777 "$root/tmp" "$root/var/tmp"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for name in $(busybox --list); do
        [[ $name == busybox ]] || ln -s /bin/busybox "$root/bin/$name"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
}

build_images() {
    local dir=$1 tools name
    tools=$(dirname "$dir")
    gcc -Os -static -o "$dir/pause" "$KUBE_SCRIPTS/pause.c"
    image_of_program "$dir/0-pause.tar" "$dir/pause" "$PAUSE_IMAGE"
    rm "$dir/pause"
    busybox_root "$dir/root"
    image_write "$dir/busybox.tar" "$dir/root" '["sh"]' "$BUSYBOX_IMAGE"
    rm -r "$dir/root"
    for name in "${SIDECARS[@]}"; do
        # It runs beside the API server, not in a pod.
        [[ $name != snapshot-controller ]] || continue
        image_of_program "$dir/$name.tar" "$tools/$name" "registry.k8s.io/sig-storage/$name:$(sidecar_version "$name")"
    done
}

# The names come from the suite itself, so that they are those which its release uses.
suite_names() { "$1/e2e.test" --list-images | grep -E "/($2):" || die "Kubernetes' suite asks for no image $2"; }

# What the storage tests run: agnhost with a shell beside it, and, under the names of
# busybox and nginx, of which they use only the shell, busybox.
build_suite_images() {
    local dir=$1 tools shells agnhosts names
    tools=$(dirname "$dir")
    # Not in < <(…), where `die` would end only itself and leave archives without a name.
    shells=$(suite_names "$tools" 'busybox|nginx|nginx-new') || exit
    agnhosts=$(suite_names "$tools" agnhost) || exit
    busybox_root "$dir/root"
    mapfile -t names <<<"$shells"
    image_write "$dir/suite-busybox.tar" "$dir/root" '[]' "${names[@]}"
    cp "$tools/agnhost" "$dir/root/agnhost"
    mapfile -t names <<<"$agnhosts"
    image_write "$dir/suite-agnhost.tar" "$dir/root" '["/agnhost"]' "${names[@]}"
    rm -r "$dir/root"
}

# Called by tools_build, after the programs.
images_build() {
    local tools=$1
    build_once "$tools/images-$(images_hash)" "the nodes' images" build_images
    [[ ${2-} != --e2e ]] || build_once "$tools/images-suite-$(images_hash)" "the suite's images" build_suite_images
}

# images_files [--e2e]: the archives for a node; the first is what every pod needs.
images_files() {
    find "$(tools_dir)/images-$(images_hash)" -name '*.tar' | sort || return
    [[ ${1-} != --e2e ]] || find "$(tools_dir)/images-suite-$(images_hash)" -name '*.tar' | sort
}
