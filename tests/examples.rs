//! `examples/rbd` without a cluster: what its scripts read and write, and whether its files
//! are in step with the driver.
//!
//! What a reader gets wrong: the scripts' functions are run in the bash that the scripts run
//! in. What they do to a Kubernetes is shown by the end-to-end tests.

#![allow(clippy::unwrap_used, reason = "a test reports and fails so")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rbd_csi::volume::parameters::table::{PARAMETERS, SIDECARS, SNAPSHOT_PARAMETERS, SNAPSHOT_SIDECARS};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> PathBuf {
    root().join("examples/rbd")
}

/// Runs a line of bash after the scripts' functions were read; `$1` is the argument.
fn bash(line: &str, argument: &str) -> String {
    let plugin = examples().join("plugin");
    let program = format!(
        "cd {}; . ./shared.sh; . ./config.sh; . ./nodes.sh; . ./pods.sh; . ./objects.sh; . ./owners.sh; \
         . ./snapshots.sh; . ./checks.sh; . ./check-snapshots.sh; check_settings; {line}",
        plugin.display()
    );
    let output = Command::new("bash").args(["-c", &program, "bash", argument]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{line}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn script(name: &str, arguments: &[&str]) -> Output {
    Command::new(examples().join(name)).args(arguments).current_dir("/").output().unwrap()
}

#[test]
fn the_scripts_take_for_json_what_the_driver_does() {
    let sample = r#"[{"clusterID": "a", "monitors": ["10.0.0.1:6789", "[v2:10.0.0.2:3300/0]"],
        "rbd": {"radosNamespace": "", "mirrorDaemonCount": 1}, "x": [-1.5e3, 0, true, false, null, {}, []]}]"#;
    let mut texts: Vec<String> = [
        "[]",
        "{}",
        "\"x\"",
        "7",
        " [ ] ",
        "",
        "[",
        "]",
        "[,]",
        "[1,]",
        "[1 2]",
        "[01]",
        "[1.]",
        "[.5]",
        "[+1]",
        "[1e]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":1 \"b\":2}",
        "{a:1}",
        "{'a':1}",
        "[True]",
        "[nul]",
        "[tru,e]",
        r#"["\"","\\","\u00e9"]"#,
        r#"["\x"]"#,
        r#"["\u00g0"]"#,
        r#"["a]"#,
        "[1]]",
        "[[1]",
        "[1}{2]",
        "[1]x",
        "[#]",
        "// x\n[]",
        "[\"a\",\n\t\"b\"\r\n]",
    ]
    .map(str::to_owned)
    .to_vec();
    // Each text that comes of the sample by the loss of one sign.
    texts.extend((0..sample.len()).map(|n| format!("{}{}", &sample[..n], &sample[n + 1..])));
    texts.push(sample.to_owned());
    let separated = texts.join("\u{1}");
    let line = r#"IFS=$'\001' read -r -d '' -a texts <<<"$1" || true; for t in "${texts[@]}"; do
        [[ $t != "${texts[${#texts[@]}-1]}" ]] || t=${t%$'\n'}; echo "fault: $(json_fault "$t")"; done"#;
    let said = bash(line, &separated);
    let faults: Vec<&str> = said.lines().collect();
    assert_eq!(faults.len(), texts.len(), "an answer to each");
    for (text, fault) in texts.iter().zip(faults) {
        let is_json = serde_json::from_str::<serde_json::Value>(text).is_ok();
        assert_eq!(is_json, fault == "fault: ", "{text}: {fault}");
    }
}

#[test]
fn monitors_are_read_as_ceph_writes_them() {
    for (monitor, addresses) in [
        ("10.0.0.1:6789", "10.0.0.1 6789\n"),
        ("mon-a.example", "mon-a.example 6789\n"),
        ("[fd00::1]:3300", "fd00::1 3300\n"),
        ("[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", "10.0.0.1 3300\n10.0.0.1 6789\n"),
        ("[v2:[fd00::1]:3300/0,v1:[fd00::1]:6789/0]", "fd00::1 3300\nfd00::1 6789\n"),
        ("v1:10.0.0.1:6789", "10.0.0.1 6789\n"),
    ] {
        assert_eq!(bash(r#"monitor_addresses "$1""#, monitor), addresses, "{monitor}");
    }
}

#[test]
fn settings_get_into_every_place() {
    let manifest = "metadata:\n  name: rbd.csi.ceph.com\n  namespace: default\nsubjects:\n  - namespace: default\nimage: \
        quay.io/rbd-csi/rbd-csi:v0.1.0\nargs: [\"--drivername=rbd.csi.ceph.com\"]\npath: /var/lib/kubelet/plugins\n";
    let line = r#"NAMESPACE=123 DRIVER_NAME=1.5 KUBELET_DIR=/data/kubelet IMAGE=registry:5000/x@sha256:1;
        printf %s "$1" | substitute"#;
    assert_eq!(
        bash(line, manifest),
        "metadata:\n  name: \"1.5\"\n  namespace: \"123\"\nsubjects:\n  - namespace: \"123\"\nimage: \
         registry:5000/x@sha256:1\nargs: [\"--drivername=1.5\"]\npath: /data/kubelet/plugins\n"
    );
    let pod = bash("NAMESPACE=123; looker_pod 42 plain ''", "");
    assert!(pod.contains("\n  namespace: \"123\"\n") && pod.contains("\n  nodeName: \"42\"\n"), "{pod}");
}

/// kubectl refuses an object whose namespace is another than it is told.
#[test]
fn the_config_map_is_read_as_it_will_be_applied() {
    let sample = examples().join("csi-config-map-sample.yaml");
    let read = bash(r#"NAMESPACE=storage; kn() { cat; }; config_file "$1""#, sample.to_str().unwrap());
    assert!(read.contains("\n  namespace: \"storage\"\n") && read.contains("clusterID"), "{read}");
}

#[test]
fn a_right_is_missing_only_where_the_cluster_says_no() {
    let line = r#"kn() { case "$*" in *" create "*) echo "Warning: not namespaced" >&2; echo yes ;;
        *" patch "*) echo "no - RBAC: none"; return 1 ;; *" delete "*) echo no; return 1 ;;
        *) echo "Unable to connect: no route to host" >&2; return 1 ;; esac; }
        missing_rights "create pods" && missing_rights "patch pods" "create pods" "delete pods" || exit 1
        ! missing_rights "create pods" "list pods" || exit 1"#;
    assert_eq!(bash(line, ""), "\npatch pods, delete pods\nUnable to connect: no route to host\n");
}

#[test]
fn another_kubelet_folder_than_the_drivers_is_noticed() {
    for (deployed, said) in [("/data/kubelet/plugins_registry/", "/data/kubelet\n"), ("", "\n")] {
        assert_eq!(bash(r#"deployed=$1; kn() { echo "$deployed"; }; other_kubelet_dir"#, deployed), said);
    }
    let line = r#"kn() { echo /var/lib/kubelet/plugins_registry; }; other_kubelet_dir"#;
    assert_eq!(bash(line, ""), "");
}

/// One node's exec does not end, one fails: the others' answers are there.
#[test]
fn nodes_are_asked_side_by_side_and_none_for_ever() {
    let line = r#"FOLDER=$(mktemp -d); TIMEOUT=5; KUBECTL_WORDS=(bash -c 'shift 4; case $1 in
            hangs) exec sleep 60 ;; fails) echo broken >&2; exit 1 ;; *) sleep 1; echo "$1" "${@:5}" ;; esac' kubectl)
        for n in {1..10}; do echo "n$n pod$n c"; done | { cat; echo "n11 hangs c"; echo "n12 fails c"; } >"$FOLDER/in"
        on_nodes purge /k d <"$FOLDER/in"
        for n in 1 10 11 12; do cat "$FOLDER/node-n$n"; done; rm -r "$FOLDER""#;
    let begun = std::time::Instant::now();
    assert_eq!(
        bash(line, ""),
        "pod1 bash -s -- purge /k d\npod10 bash -s -- purge /k d\n\
         kubectl exec hangs has not ended within 5 seconds\ncannot be looked at\nbroken\ncannot be looked at\n"
    );
    assert!(begun.elapsed().as_secs() < 14, "side by side: {:?}", begun.elapsed());
}

/// Kubernetes says of a silent node's pods what it last heard: that they run.
#[test]
fn a_silent_node_is_named_and_not_waited_for() {
    let silent = "silent_nodes() { echo node2; };";
    let pods = r#"kn() { printf '%s\n' 'a|node2||Running||' 'b|node2|gone|Running||' 'c|node1|gone|Running||' 'd|node1||Running||'; };
        pods_not_ready app=x"#;
    assert_eq!(
        bash(&format!("{silent} {pods}"), ""),
        "a on node2: the node is not ready\nb on node2: the node is not ready\n"
    );
    for (ready, wanted, done) in
        [("node1", 2, true), ("node2", 2, false), ("node1", 3, false), ("node1\nnode3", 3, true)]
    {
        let line = format!(
            r#"{silent} kn() {{ [[ $2 != pods ]] || echo "$names"; [[ $2 = pods ]] || echo hash; }}; names=$1
                if said=$(all_but_silent {wanted}); then echo "but $said"; fi"#
        );
        assert_eq!(bash(&line, ready), if done { "but node2\n" } else { "" }, "{ready:?} of {wanted}");
    }
}

/// The scripts look at the nodes that the DaemonSet is for, and wait for no other.
#[test]
fn the_scripts_look_at_the_nodes_of_the_manifests() {
    let manifest = std::fs::read_to_string(root().join("deploy/rbd/kubernetes/csi-rbdplugin.yaml")).unwrap();
    let mut lines = manifest.lines().map(str::trim);
    let mut wanted = vec!["kubernetes.io/os=linux".to_owned()];
    assert!(lines.any(|line| line == "kubernetes.io/os: linux"), "{manifest}");
    while let Some(line) = lines.next() {
        if let Some(key) = line.strip_prefix("- key: ") {
            assert_eq!(lines.next(), Some("operator: NotIn"), "{key}");
            assert_eq!(lines.next(), Some("values:"), "{key}");
            let value = lines.next().and_then(|line| line.strip_prefix("- ")).unwrap();
            wanted.push(format!("{key} notin ({value})"));
        }
    }
    assert_eq!(wanted.len(), 3, "{wanted:?}");
    let asked = bash(r#"k() { printf '%s\n' "$4" >&3; }; plugin_nodes 3>&1"#, "");
    assert_eq!(asked.trim_end(), wanted.join(","));
}

/// Pods that admission refuses have no events of their own. Each try has another name.
#[test]
fn pods_that_are_not_made_are_told_with_the_reason() {
    let kubectl = r#"silent_nodes() { :; }; refusal=$1; kn() { case "$*" in annotate*) echo "${@:1:4}" >&3 ;;
        *" deployment "*generation*) echo "1|1|3||1|1" ;; *" daemonset "*generation*) echo "1|1|2|1|1|2" ;;
        *" deployment "*) printf '%s\n' "$refusal" ;; *" daemonset "*) printf "$counts" ;;
        *events*involvedObject.kind=DaemonSet,involvedObject.name=csi-rbdplugin,*) echo "FailedCreate: older"; printf '%s\n' "$refusal" ;;
        *" pods "*) echo "a|node1||Pending||" ;; esac; };"#;
    let refused = "FailedCreate: (combined from similar events): Error creating: pods \"csi-rbdplugin-x7k2p\" is \
                   forbidden: exceeded quota: none";
    let told = "FailedCreate: pods \"csi-rbdplugin-…\" is forbidden: exceeded quota: none";
    assert_eq!(
        bash(
            &format!("{kubectl} counts='2|1'; rolled_out 'node plugin' || rolled_out 'node plugin' || true"),
            refused
        ),
        format!(
            "   node plugin: 1 of 2 ready, 1 up to date\n        csi-rbdplugin: pods are not made: {told}\n        a on node1: Pending\n"
        )
    );
    // What is an hour old is of no interest where all pods are there.
    let all = bash(&format!("{kubectl} counts='2|2'; not_made csi-rbdplugin"), refused);
    assert_eq!(all, "");
    let controllers =
        r#"FailedCreate: pods "csi-rbdplugin-provisioner-5d8-x7k2p" is forbidden: exceeded quota: none"#;
    assert_eq!(
        bash(&format!("{kubectl} rolled_out controller || true"), controllers),
        "   controller: 1 of 3 ready, 0 up to date\n        csi-rbdplugin-provisioner: pods are not made: FailedCreate: \
         pods \"csi-rbdplugin-provisioner-…\" is forbidden: exceeded quota: none\n        a on node1: Pending\n"
    );
    assert_eq!(bash(&format!("{kubectl} not_made csi-rbdplugin-provisioner"), ""), "");
    // Kubernetes tries again when the object is changed; one whose pods are there is left alone.
    let again = format!("{kubectl} counts='2|2'; try_again 3>&1");
    assert_eq!(bash(&again, controllers), "annotate --overwrite deployment csi-rbdplugin-provisioner\n");
}

/// What `programs` lists of a ceph-csi as its chart writes it, of one that gives its name in
/// two words, of one that gives none, of a registrar, and of this driver.
const PROGRAMS: &str = r#"container a/ceph-csi-rbd-nodeplugin csi-rbdplugin quay.io/cephcsi/cephcsi:v3.15 -
env NODE_ID ""
env DRIVER_NAME "rbd.csi.ceph.com"
arg "--type=rbd"
arg "--drivername=$(DRIVER_NAME)"
container b/two-words csi-rbdplugin image -
arg "--drivername"
arg "x.y"
container c/none csi-rbdplugin image -
arg "--type=rbd"
container d/registrar driver-registrar image -
arg "--kubelet-registration-path=/var/lib/kubelet/plugins/q.r/csi.sock"
container default/csi-rbdplugin csi-rbdplugin harbor/x/driver:1 node-plugin
arg "--type=rbd"
arg "--drivername=rbd.csi.ceph.com"
arg "--kubelet-registration-path=/var/lib/kubelet/plugins/rbd.csi.ceph.com/csi.sock"
container e/sh other image -
arg "sh"
arg "-c\necho --drivername=no"
container default/csi-rbdplugin old harbor/rbd-csi/cephcsi:v3 -
arg "--drivername=$(MISSING)"
"#;

#[test]
fn a_driver_is_known_by_what_it_is_told_and_never_by_its_image() {
    let read = bash(r#"programs_read <<<"$1""#, PROGRAMS);
    assert_eq!(
        read,
        "a/ceph-csi-rbd-nodeplugin csi-rbdplugin quay.io/cephcsi/cephcsi:v3.15 - rbd.csi.ceph.com\n\
         b/two-words csi-rbdplugin image - x.y\n\
         c/none csi-rbdplugin image - rbd.csi.ceph.com\n\
         d/registrar driver-registrar image - q.r\n\
         default/csi-rbdplugin csi-rbdplugin harbor/x/driver:1 node-plugin rbd.csi.ceph.com\n\
         e/sh other image - -\n\
         default/csi-rbdplugin old harbor/rbd-csi/cephcsi:v3 - -\n"
    );
    assert_eq!(
        bash(r#"foreign_containers "$(grep default/ <<<"$1")""#, &read),
        "csi-rbdplugin old harbor/rbd-csi/cephcsi:v3\n",
        "our image under any name is ours, another with ours in its name is not"
    );
    assert_eq!(bash(r#"other_drivers_here "$1""#, &read), "q.r\nx.y\n");
    assert_eq!(
        bash(r#"DRIVER_NAME=x.y; other_drivers_here "$(grep node-plugin <<<"$1")""#, &read),
        "rbd.csi.ceph.com\n"
    );
}

/// The scripts look for that label.
#[test]
fn the_manifests_have_the_label_by_which_the_scripts_know_them() {
    let label = bash(r#"echo "$PART""#, "");
    for file in ["csi-rbdplugin.yaml", "csi-rbdplugin-provisioner.yaml"] {
        let text = std::fs::read_to_string(root().join("deploy/rbd/kubernetes").join(file)).unwrap();
        let template = text.split("\n  template:\n").nth(1).unwrap();
        assert!(template.contains(&format!("        {}: ", label.trim())), "{file}");
    }
}

/// Where the API server does not answer one question of several.
#[test]
fn a_listing_that_failed_is_no_empty_one() {
    for question in [
        "persistentvolumes",
        "pods",
        "storageclasses",
        "persistentvolumeclaims",
        "csinodes",
        "nodes",
        "--raw",
    ] {
        let line = r#"asked="$1"; k() { local word; for word in "$@"; do [[ $word != "$asked" ]] || return 1; done; }
            for f in users pools waiting_claims "cluster_users x" served_by_unknown volumes users_objects snapshots; do
                if $f >/dev/null; then echo "$f"; fi; done"#;
        let answered = bash(line, question);
        let concerned: &[&str] = match question {
            "persistentvolumes" => &["users", "pools", "cluster_users x", "volumes"],
            "pods" => &["users"],
            "storageclasses" => &["pools", "waiting_claims", "cluster_users x", "users_objects"],
            "persistentvolumeclaims" => &["waiting_claims"],
            // Which kinds of snapshots there are.
            "--raw" => &["cluster_users x", "users_objects", "snapshots"],
            _ => &["served_by_unknown"],
        };
        for function in concerned {
            assert!(
                !answered.lines().any(|line| line == *function),
                "{function} without {question}: {answered}"
            );
        }
        assert_eq!(answered.lines().count(), 8 - concerned.len(), "{question}: {answered}");
    }
}

/// What an API server answers to `kubectl get --raw /apis/snapshot.storage.k8s.io/v1`.
const KINDS: &str = r#"{"kind":"APIResourceList","groupVersion":"snapshot.storage.k8s.io/v1","resources":[{"name":"volumesnapshots"},{"name":"volumesnapshots/status"},{"name":"volumesnapshotcontents"},{"name":"volumesnapshotclasses"}]}"#;
const NO_SUCH_GROUP: &str = "Error from server (NotFound): the server could not find the requested resource";

#[test]
fn kinds_of_snapshots_lack_only_where_the_cluster_says_so() {
    let all = "volumesnapshotclasses, volumesnapshotcontents, volumesnapshots\n";
    let without_classes = KINDS.replace(r#"{"name":"volumesnapshotclasses"}"#, "");
    for (answer, status, said) in [
        (KINDS, 0, "\n0\n".to_owned()),
        (without_classes.as_str(), 0, "volumesnapshotclasses\n0\n".to_owned()),
        (NO_SUCH_GROUP, 1, format!("{all}0\n")),
        ("Unable to connect: no route to host", 1, "Unable to connect: no route to host\n1\n".to_owned()),
    ] {
        let line = format!(
            r#"answer=$1; k() {{ echo "$answer"; return {status}; }}
            missing_snapshot_kinds && status=0 || status=$?; echo $status"#
        );
        assert_eq!(bash(&line, answer), said, "{answer}");
    }
}

/// What the go template writes of a driver's snapshots and classes: one that is kept, one that
/// is being deleted.
#[test]
fn snapshots_and_their_classes_are_told() {
    let stub = |lines: &str| {
        format!(
            r#"ANSWER=$1; k() {{ case $* in *--raw*) echo "$ANSWER" ;; *volumesnapshotclasses*) {lines} ;; *contents*)
                echo "snapcontent-1 Delete shop/nightly - 0001-0003-one-1"; echo "snapcontent-2 Retain - deleted -" ;; esac; }};
            kn() {{ :; }};"#
        )
    };
    let classes = stub("echo 'fast csi-rbd-secret default one'; echo 'bare - - -'");
    assert_eq!(
        bash(&format!("{classes} users_objects"), KINDS),
        "volumesnapshotclass fast\nsecret csi-rbd-secret --namespace default\nvolumesnapshotclass bare\n"
    );
    assert_eq!(
        bash(&format!("{classes} cluster_users one"), KINDS),
        "snapshot snapcontent-1\nsnapshotclass fast\n"
    );
    assert_eq!(bash(&format!("{classes} cluster_users two"), KINDS), "");
    // In a cluster without these kinds nobody is asked for them.
    assert_eq!(bash(&format!("{classes} snapshots; users_objects"), "{}"), "");
}

#[test]
fn a_snapshot_controller_is_known_by_its_container() {
    let line = r#"text=$1; k() { printf '%s\n' "$text"; }; NAMESPACE=x; check_snapshot_controller"#;
    let other = "default/web 2 web nginx:1";
    let runs =
        "kube-system/snapshot-controller 1 main registry.k8s.io/sig-storage/snapshot-controller:v8.7.0";
    let idle = "openshift/csi 0 snapshot-controller mirror/x:1";
    let said = bash(line, &format!("{other}\n{runs}"));
    assert_eq!(
        said,
        "   ok      kinds of snapshots, and the snapshot-controller kube-system/snapshot-controller\n"
    );
    let said = bash(line, &format!("{other}\n{idle}"));
    assert!(
        said.starts_with("   note    the snapshot-controller openshift/csi has no pod that is ready"),
        "{said}"
    );
    let said = bash(line, other);
    assert!(
        said.contains("no snapshot-controller is to be seen") && said.contains("kubectl apply -k"),
        "{said}"
    );
}

/// The container goes as a whole, and nothing else.
#[test]
fn csi_snapshotter_is_left_out_of_the_manifests() {
    let containers = |manifests: &str| -> Vec<String> {
        let named = manifests.lines().filter_map(|line| line.strip_prefix("        - name: "));
        named.map(str::to_owned).collect()
    };
    let with = bash("manifests", "");
    let without = bash("WITHOUT_SNAPSHOTS=yes; manifests", "");
    let mut expected = containers(&with);
    assert!(expected.contains(&"csi-snapshotter".to_owned()), "{expected:?}");
    expected.retain(|name| name != "csi-snapshotter");
    assert_eq!(containers(&without), expected);
    assert!(!without.contains("csi-snapshotter:") && !without.contains(":8092"), "{without}");
    // The last container of a list ends with the pod's next field.
    let last = "      containers:\n        - name: a\n          args: []\n        - name: csi-snapshotter\n          image: x\n      volumes:\n        - name: v\n";
    let left =
        "      containers:\n        - name: a\n          args: []\n      volumes:\n        - name: v\n";
    assert_eq!(bash(r#"without_snapshotter <<<"${1%$'\n'}""#, last), left);
}

/// A node's folders as the kubelet makes them, and mapped images as the kernel shows them.
struct OnNode(tempfile::TempDir);

impl OnNode {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn has(&self, path: &str) -> bool {
        self.0.path().join(path).symlink_metadata().is_ok()
    }

    /// What on-node.sh says, with this folder as `/K`.
    fn run(&self, command: &str) -> String {
        let here = self.0.path().to_str().unwrap();
        let output = Command::new("bash")
            .arg(examples().join("plugin/on-node.sh"))
            .args([command, &format!("{here}/kubelet"), "rbd.csi.ceph.com"])
            .env("BUS", here)
            .env("PROC", format!("{here}/proc"))
            .env("UNIX_SOCKETS", format!("{here}/sockets"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.is_empty(), "{command}: {said}");
        String::from_utf8(output.stdout).unwrap().replace(&format!("{here}/kubelet"), "/K")
    }

    fn device(&self, number: u8, fsid: &str) {
        let minor = number.to_string();
        let identity = [("name", "csi-vol-1"), ("pool", "rbd"), ("pool_ns", ""), ("cluster_fsid", fsid)];
        for (file, text) in identity.into_iter().chain([("major", "254"), ("minor", &minor)]) {
            self.write(&format!("devices/{number}/{file}"), text);
        }
    }
}

const OURS: &str = r#"{"driverName":"rbd.csi.ceph.com","specVolID":"pv-1"}"#;

#[test]
fn a_stash_names_a_device_only_where_it_can_be_no_other() {
    let node = OnNode::new();
    let stash = "kubelet/plugins/kubernetes.io/csi/rbd.csi.ceph.com/h/globalmount/image-meta.json";
    let without_fsid = r#"{"image":"csi-vol-1","pool":"rbd","radosNamespace":""}"#;
    node.write(stash, without_fsid);
    node.device(3, "one");
    assert!(node.run("residue").contains("device /dev/rbd3, image rbd/csi-vol-1"), "{}", node.run("residue"));
    node.device(5, "two");
    assert!(!node.run("residue").contains("device"), "of two clusters: {}", node.run("residue"));
    node.write(stash, r#"{"image":"csi-vol-1","pool":"rbd","radosNamespace":"","fsid":"two"}"#);
    let said = node.run("residue");
    assert!(said.contains("/dev/rbd5") && !said.contains("/dev/rbd3"), "{said}");
}

#[test]
fn what_a_container_uses_and_what_is_still_mapped_stays() {
    let node = OnNode::new();
    let folder = "plugins/kubernetes.io/csi/rbd.csi.ceph.com/h";
    let stash = format!("kubelet/{folder}/globalmount/image-meta.json");
    node.write(&stash, r#"{"image":"csi-vol-1","pool":"rbd","radosNamespace":""}"#);
    node.device(3, "one");
    let kubelet = format!("{}/kubelet", node.0.path().to_str().unwrap());
    let mounted = |process: u32, at: &str| {
        let line = format!("40 1 254:3 / {at} rw - ext4 /dev/rbd3 rw\n");
        node.write(&format!("proc/{process}/mountinfo"), &line);
        node.write(&format!("proc/{process}/comm"), "sh\n");
    };
    // The kubelet, and a container that sees the whole node.
    mounted(7, &format!("{kubelet}/{folder}/globalmount/x"));
    mounted(8, &format!("/host{kubelet}/{folder}/globalmount/x"));
    assert!(!node.run("residue").contains("in use"), "{}", node.run("residue"));
    mounted(9, "/data");
    let device = "device /dev/rbd3, image rbd/csi-vol-1, in use by process 9 (sh)\n";
    assert!(node.run("residue").ends_with(device), "{}", node.run("residue"));
    assert_eq!(node.run("purge"), format!("not touched, in use by process 9 (sh): /K/{folder}\n"));
    assert!(node.has(&stash));
    // Without the kernel's door it cannot be unmapped.
    mounted(9, &format!("{kubelet}/{folder}/globalmount/x"));
    std::fs::create_dir(node.0.path().join("remove")).unwrap();
    assert_eq!(node.run("purge"), "/dev/rbd3 (image rbd/csi-vol-1) is still in use here: not unmapped\n");
    assert!(node.has(&stash), "by it the device is found the next time");
    std::fs::remove_dir_all(node.0.path().join("devices/3")).unwrap();
    assert_eq!(node.run("purge"), format!("removed /K/{folder}\n"));
}

#[test]
fn residue_is_all_of_ours_and_nothing_of_others() {
    let node = OnNode::new();
    node.write("kubelet/pods/u/volumes/kubernetes.io~csi/pv-1/vol_data.json", OURS);
    node.write("kubelet/pods/u/volume-subpaths/pv-1/c/0", "");
    node.write("kubelet/plugins/kubernetes.io/csi/volumeDevices/pv-2/data/vol_data.json", OURS);
    node.write("kubelet/pods/u/volumes/kubernetes.io~csi/pv-3/vol_data.json", r#"{"driverName":"other"}"#);
    node.write("kubelet/pods/u/volume-subpaths/pv-3/c/0", "");
    let links = node.0.path().join("kubelet/pods/u/volumeDevices/kubernetes.io~csi");
    std::fs::create_dir_all(&links).unwrap();
    for name in ["pv-2", "pv-4"] {
        std::os::unix::fs::symlink("/dev/nothing", links.join(name)).unwrap();
    }
    assert_eq!(
        node.run("residue"),
        "folder /K/pods/u/volume-subpaths/pv-1\nfolder /K/pods/u/volumes/kubernetes.io~csi/pv-1\n\
         folder /K/pods/u/volumeDevices/kubernetes.io~csi/pv-2\n\
         folder /K/plugins/kubernetes.io/csi/volumeDevices/pv-2\n"
    );
    node.run("purge");
    assert_eq!(node.run("residue"), "");
    for gone in
        ["volume-subpaths/pv-1", "volumes/kubernetes.io~csi/pv-1", "volumeDevices/kubernetes.io~csi/pv-2"]
    {
        assert!(!node.has(&format!("kubelet/pods/u/{gone}")), "{gone}");
    }
    for kept in
        ["volume-subpaths/pv-3/c/0", "volumes/kubernetes.io~csi/pv-3", "volumeDevices/kubernetes.io~csi/pv-4"]
    {
        assert!(node.has(&format!("kubelet/pods/u/{kept}")), "{kept}");
    }
}

#[test]
fn sockets_that_another_process_serves_stay() {
    let node = OnNode::new();
    let sockets =
        ["kubelet/plugins/rbd.csi.ceph.com/csi.sock", "kubelet/plugins_registry/rbd.csi.ceph.com-reg.sock"];
    for socket in sockets {
        node.write(socket, "");
    }
    let line = "ffff: 00000002 00000000 00010000 0001 01 123 /registration/rbd.csi.ceph.com-reg.sock\n";
    node.write("sockets", line);
    assert!(node.run("sweep").starts_with("left /K/plugins/rbd.csi.ceph.com: another process"));
    assert!(sockets.iter().all(|socket| node.has(socket)));
    node.write("sockets", &line.replace("/rbd", "/other.rbd"));
    assert!(node.run("sweep").starts_with("removed /K/plugins/rbd.csi.ceph.com\n"));
    assert!(!sockets.iter().any(|socket| node.has(socket)));
}

#[test]
fn each_script_helps_from_anywhere_and_refuses_what_it_does_not_know() {
    for name in ["plugin-deploy.sh", "plugin-teardown.sh", "exec-bash.sh", "logs.sh"] {
        let help = script(name, &["--help"]);
        assert!(help.status.success() && help.stdout.starts_with(b"usage: "), "{name}");
        for wrong in [&["--no-such-option"][..], &["--timeout", "soon"], &["--namespace=a b"], &["--image"]] {
            let refused = script(name, wrong);
            assert_eq!(refused.status.code(), Some(2), "{name} {wrong:?}: {refused:?}");
            assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{name} {wrong:?}");
        }
    }
}

/// The classes are where people look for what there is.
#[test]
fn the_classes_tell_of_every_parameter() {
    let of_volumes = PARAMETERS.iter().chain(SIDECARS);
    let of_snapshots = SNAPSHOT_PARAMETERS.iter().chain(SNAPSHOT_SIDECARS);
    for (file, known) in [
        ("storageclass.yaml", of_volumes.collect::<Vec<_>>()),
        ("snapshotclass.yaml", of_snapshots.collect()),
    ] {
        let class = std::fs::read_to_string(examples().join(file)).unwrap();
        assert!(known.len() > 4, "{file}: the names were found");
        for parameter in known {
            assert!(class.contains(parameter.name), "{file} does not tell of {}", parameter.name);
        }
    }
}

/// The files are for one cluster, so that all of them can be applied as they stand.
#[test]
fn all_files_speak_of_one_cluster() {
    const CLUSTER: &str = "b9127830-b0cc-4e34-aa47-9d1a2e9949a8";
    let mut seen = 0;
    for file in std::fs::read_dir(examples()).unwrap().flatten() {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        for line in
            text.lines().filter(|line| line.trim_start().trim_start_matches('"').starts_with("clusterID"))
        {
            assert!(line.contains(CLUSTER), "{}: {line}", file.path().display());
            seen += 1;
        }
    }
    assert_eq!(seen, 4, "config map, both classes and static volume");
}

#[test]
fn volumes_that_are_not_served_are_found_however_yes_is_spelt() {
    // What the go template writes: name, handle, encrypted, mounter, migration, claim.
    let volumes = ["true", "True", "T", "1", "yes", "-", "false", "F", "0"]
        .map(|encrypted| format!("pv-{encrypted} handle {encrypted} - - shop/{encrypted}\n"))
        .concat()
        + "nbd handle - rbd-nbd - -\nold mig_x - - - -\n";
    let said = bash(r#"TEXT=$1; k() { printf %s "$TEXT"; }; unserved_volumes"#, &volumes);
    let names: Vec<&str> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, ["pv-true", "pv-True", "pv-T", "pv-1", "pv-yes", "nbd", "old"], "{said}");
}
