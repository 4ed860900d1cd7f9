//! Flags and their answers. The list of ceph-csi's flags is written down here once
//! more: a flag that goes missing in the driver's own table must be seen.

use std::process::{Command, Output};

use super::program::Place;

/// ceph-csi 3.17, klog, and the removed ones of older releases: name and a value.
const FLAGS: &[(&str, &str)] = &[
    ("drivername", "rbd.csi.ceph.com"),
    ("drivernamespace", "kube-system"),
    ("stagingpath", "/var/lib/kubelet/plugins/kubernetes.io/csi/"),
    ("clustername", "prod"),
    ("setmetadata", "true"),
    ("enable-fencing", "false"),
    ("instanceid", "default"),
    ("pidlimit", "0"),
    ("automaxprocs", "true"),
    ("controllerserver", "true"),
    ("nodeserver", "false"),
    ("domainlabels", ""),
    ("enable-read-affinity", "false"),
    ("crush-location-labels", ""),
    ("metricspath", "/metrics"),
    ("polltime", "1m30s"),
    ("timeout", "3s"),
    ("logslowopinterval", "30s"),
    ("rbdhardmaxclonedepth", "8"),
    ("rbdsoftmaxclonedepth", "4"),
    ("maxsnapshotsonimage", "450"),
    ("minsnapshotsonimage", "250"),
    ("skipforceflatten", "F"),
    ("enableprofiling", "0"),
    ("csi-addons-endpoint", "unix:///csi/csi-addons.sock"),
    ("feature-gates", "SlowGRPCRestart=false"),
    ("forcecephkernelclient", "false"),
    ("kernelmountoptions", ""),
    ("radosnamespacecephfs", "csi"),
    ("fusemountoptions", ""),
    ("logtostderr", "true"),
    ("v", "5"),
    ("vmodule", "a=1,b=2"),
    ("alsologtostderr", "false"),
    ("log_dir", ""),
    ("log_file", ""),
    ("log_file_max_size", "1800"),
    ("skip_headers", "false"),
    ("skip_log_headers", "false"),
    ("one_output", "false"),
    ("stderrthreshold", "2"),
    ("log_backtrace_at", ":0"),
    ("add_dir_header", "false"),
    ("enablegrpcmetrics", "false"),
    ("histogramoption", "0.5,2,6"),
    ("metadatastorage", "k8s_configmap"),
    ("mountcachedir", "/mount-cache"),
];
/// These take their value only behind `=`.
const SWITCHES: &[&str] = &[
    "setmetadata",
    "enable-fencing",
    "automaxprocs",
    "controllerserver",
    "nodeserver",
    "enable-read-affinity",
    "skipforceflatten",
    "enableprofiling",
    "forcecephkernelclient",
    "logtostderr",
    "alsologtostderr",
    "skip_headers",
    "skip_log_headers",
    "one_output",
    "add_dir_header",
    "enablegrpcmetrics",
];

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rbd-csi")).args(arguments).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn every_flag_of_ceph_csi_is_accepted_in_each_form() {
    for dashes in ["-", "--"] {
        for by_next in [false, true] {
            let place = Place::new();
            let mut arguments = place.arguments();
            for (name, value) in FLAGS {
                if by_next && !SWITCHES.contains(name) {
                    arguments.extend([format!("{dashes}{name}"), (*value).to_owned()]);
                } else {
                    arguments.push(format!("{dashes}{name}={value}"));
                }
            }
            let program = place.run(arguments);
            program.wait_for(&place.socket());
            program.stop_within(5);
        }
    }
}

#[test]
fn mistakes_end_with_2_and_one_line() {
    let rbd = ["--type=rbd", "--nodeid=n"];
    for (arguments, words) in [
        (&[][..], &["type"][..]),
        (&["--type=cephfs", "--nodeid=n"], &["cephfs", "rbd"]),
        (&["--type=rbd"], &["--nodeid"]),
        (&["--type=controller"], &["--drivername"]),
        (&[rbd[0], rbd[1], "--controlerserver=true"], &["--controlerserver", "--controllerserver"]),
        (&[rbd[0], rbd[1], "--nonsense"], &["--nonsense", "--help"]),
        (&[rbd[0], rbd[1], "--nodeserver", "true"], &["\"true\""]),
        (&[rbd[0], rbd[1], "--nodeserver=maybe"], &["nodeserver", "maybe"]),
        (&[rbd[0], rbd[1], "--pidlimit=many"], &["pidlimit", "many"]),
        (&[rbd[0], rbd[1], "--pidlimit=-2"], &["pidlimit", "-2"]),
        (&[rbd[0], rbd[1], "--polltime=60"], &["polltime", "60"]),
        (&[rbd[0], rbd[1], "--metricsport=70000"], &["metricsport", "65535"]),
        (&[rbd[0], rbd[1], "--rbdhardmaxclonedepth=15"], &["rbdhardmaxclonedepth", "14"]),
        (&[rbd[0], rbd[1], "--rbdsoftmaxclonedepth=9"], &["rbdsoftmaxclonedepth", "8"]),
        (&[rbd[0], rbd[1], "--maxsnapshotsonimage=501"], &["maxsnapshotsonimage", "500"]),
        (&[rbd[0], rbd[1], "--minsnapshotsonimage=451"], &["minsnapshotsonimage", "450"]),
        (&[rbd[0], rbd[1], "--drivername=-rbd"], &["drivername", "-rbd"]),
        (&[rbd[0], rbd[1], "--endpoint=/csi/csi.sock"], &["endpoint", "unix://"]),
        (&[rbd[0], rbd[1], "--map-with=nbd"], &["map-with", "krbd"]),
        (&[rbd[0], rbd[1], "--v"], &["--v", "value"]),
        (
            &[rbd[0], rbd[1], "--kubelet-registration-path=/csi.sock"],
            &["kubelet-registration-path", "--nodeserver"],
        ),
        (
            &[rbd[0], rbd[1], "--nodeserver", "--kubelet-registration-path=csi.sock"],
            &["kubelet-registration-path", "absolute"],
        ),
    ] {
        let output = run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word} is not in {said}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_tells_of_every_flag_that_has_an_effect_and_fits_a_terminal() {
    for flag in ["--help", "-help", "-h"] {
        let output = run(&[flag]);
        let help = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{flag}");
        for word in
            ["--type", "--endpoint", "--nodeid", "--metricsport", "--map-with", "--v", "rbd.csi.ceph.com"]
                .into_iter()
                .chain(["--kubelet-registration-path", "--plugin-registration-path"])
        {
            assert!(help.contains(word), "{word} is not in\n{help}");
        }
        let longest = help.lines().map(str::len).max().unwrap();
        assert!(longest <= 130, "a line of {longest} bytes");
    }
}

#[test]
fn the_version_has_the_lines_that_ceph_csi_prints() {
    let output = run(&["--version"]);
    let version = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for word in ["Version:", "Git Commit:", "Compiler:", "Platform:", "Kernel:", env!("CARGO_PKG_VERSION")] {
        assert!(version.contains(word), "{word} is not in\n{version}");
    }
}

/// Said once and plainly, instead of by each call.
#[test]
fn a_node_with_a_kernel_that_is_too_old_does_not_start() {
    let place = Place::new();
    let plan = place.path("faults");
    std::fs::write(&plan, format!("fail={}:before:host: openat2", libc::ENOSYS)).unwrap();
    let faults = [("RBD_CSI_FAULTS", plan.to_str().unwrap())];
    let arguments = |role: &str| place.arguments().into_iter().chain([role.to_owned()]).collect::<Vec<_>>();
    let mut node = place.run_with(&faults, arguments("--nodeserver=true"));
    let (ended, _) = node.ended();
    assert_eq!(ended.code(), Some(1), "{}", node.log());
    assert!(node.log().contains("older than Linux 5.6"), "{}", node.log());
    let controller = place.run_with(&faults, arguments("--controllerserver=true"));
    controller.wait_for(&place.socket());
}

#[test]
fn the_controller_role_stays_up_and_says_that_it_has_no_work() {
    let place = Place::new();
    let arguments = ["--type=controller", "--drivername=rbd.csi.ceph.com", "--drivernamespace=default"];
    let mut program = place.run(arguments.map(str::to_owned));
    program.wait_for_log("no work yet");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(program.is_running());
    program.stop_within(5);
}
