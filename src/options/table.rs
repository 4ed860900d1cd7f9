//! Every flag: its kind, its default, and a line for `--help`.

use super::value;

/// What a flag's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// true or false; without a value true.
    Switch,
    /// Any text.
    Text,
    /// A whole number.
    Number,
    /// Go's notation: `1m30s`.
    Time,
    /// One of these words.
    Choice(&'static [&'static str]),
}

impl Sort {
    /// Why a text is no such value.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Switch => value::switch(text).map(drop),
            Self::Text => Ok(()),
            Self::Number => value::number(text).map(drop),
            Self::Time => value::duration(text).map(drop),
            Self::Choice(words) if words.contains(&text) => Ok(()),
            Self::Choice(words) => Err(format!("must be one of {}", words.join(", "))),
        }
    }
}

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What its value is.
    pub sort: Sort,
    /// What it is when it is not given.
    pub default: &'static str,
    /// What it means; empty for flags that are accepted and have no effect.
    pub help: &'static str,
}

const fn flag(name: &'static str, sort: Sort, default: &'static str, help: &'static str) -> Flag {
    Flag { name, sort, default, help }
}

const fn ignored(name: &'static str, sort: Sort, default: &'static str) -> Flag {
    flag(name, sort, default, "")
}

use Sort::{Choice, Number, Switch, Text, Time};

/// In the order of `--help`; those without effect last.
pub const FLAGS: &[Flag] = &[
    flag(
        "type",
        Text,
        "",
        "what to run: rbd (the driver), liveness (probes a driver), controller (no work yet)",
    ),
    flag("endpoint", Text, "unix:///tmp/csi.sock", "where to serve CSI: unix://PATH or tcp://ADDRESS:PORT"),
    flag("nodeid", Text, "", "the node's name (required for rbd)"),
    flag("drivername", Text, "", "the name of the CSIDriver object (rbd.csi.ceph.com)"),
    flag("controllerserver", Switch, "false", "serve the controller: create and delete volumes"),
    flag("nodeserver", Switch, "false", "serve the node: stage and publish volumes"),
    flag("instanceid", Text, "default", "tells apart the journals of several drivers in one pool"),
    flag("clustername", Text, "", "written onto each image: csi.ceph.com/cluster/name"),
    flag("pluginpath", Text, "/var/lib/kubelet/plugins", "the kubelet's plugin folder; made if missing"),
    flag(
        "kubelet-registration-path",
        Text,
        "",
        "the CSI socket as the node sees it; given, the node plugin registers itself",
    ),
    flag(
        "plugin-registration-path",
        Text,
        "/registration",
        "where the kubelet looks for plugins (its plugins_registry, as mounted here)",
    ),
    flag(
        "service-account-path",
        Text,
        "/var/run/secrets/kubernetes.io/serviceaccount",
        "token and ca.crt for the Kubernetes API",
    ),
    flag("pidlimit", Number, "0", "the container's limit of processes: 0 leaves it, -1 takes it away"),
    flag(
        "strict-parameters",
        Switch,
        "false",
        "refuse unknown StorageClass parameters instead of carrying them",
    ),
    flag(
        "map-with",
        Choice(&["krbd", "rbd"]),
        "krbd",
        "map in this process (krbd) or by the rbd program (rbd)",
    ),
    flag(
        "takeover-grace",
        Time,
        "5s",
        "a volume begun by another controller: wait so long for it, then blocklist it in Ceph and go on",
    ),
    flag(
        "rbdhardmaxclonedepth",
        Number,
        "8",
        "so many images a clone may depend on; it is flattened before it gets deeper",
    ),
    flag("rbdsoftmaxclonedepth", Number, "4", "from so many on it is flattened in the background"),
    flag(
        "maxsnapshotsonimage",
        Number,
        "450",
        "so many snapshots an image may have, those kept for clones included",
    ),
    flag("minsnapshotsonimage", Number, "250", "above so many, clones of it are flattened in the background"),
    flag("flatten-concurrency", Number, "2", "how many images are flattened side by side"),
    flag("cluster-config", Text, "/etc/ceph-csi-config/config.json", "the clusters; read on each call"),
    flag(
        "cluster-mapping",
        Text,
        "/etc/ceph-csi-config/cluster-mapping.json",
        "clusters that stand for others",
    ),
    flag("ceph-conf", Text, "", "settings for librados ($CEPH_CONF, else /etc/ceph/ceph.conf)"),
    flag("v", Number, "0", "how much to log: 0 to 3 calls, 4 requests, 5 each Ceph call"),
    flag(
        "log-format",
        Choice(&["text", "json"]),
        "text",
        "log lines as text, or as JSON with one object a line",
    ),
    flag("logslowopinterval", Time, "30s", "how often to tell of a call that is not answered yet"),
    flag(
        "metricsport",
        Number,
        "8080",
        "serve metrics and health there (always for liveness; else only if given)",
    ),
    flag("metricspath", Text, "/metrics", "the path of the metrics"),
    flag("polltime", Time, "60s", "liveness: how often to probe"),
    flag("timeout", Time, "3s", "liveness: how long a probe may take"),
    flag("version", Switch, "false", "print the version and end"),
    flag("help", Switch, "false", "print this and end"),
    ignored("h", Switch, "false"),
    // ceph-csi's, of features that are not here yet or that Rust has no use for.
    ignored("drivernamespace", Text, "default"),
    ignored("stagingpath", Text, "/var/lib/kubelet/plugins/kubernetes.io/csi/"),
    ignored("setmetadata", Switch, "true"),
    ignored("enable-fencing", Switch, "false"),
    ignored("automaxprocs", Switch, "false"),
    ignored("domainlabels", Text, ""),
    ignored("enable-read-affinity", Switch, "false"),
    ignored("crush-location-labels", Text, ""),
    ignored("skipforceflatten", Switch, "false"),
    ignored("enableprofiling", Switch, "false"),
    ignored("csi-addons-endpoint", Text, "unix:///tmp/csi-addons.sock"),
    ignored("feature-gates", Text, ""),
    ignored("forcecephkernelclient", Switch, "false"),
    ignored("kernelmountoptions", Text, ""),
    ignored("radosnamespacecephfs", Text, ""),
    ignored("fusemountoptions", Text, ""),
    // ceph-csi's of old releases: manifests of then may still carry them.
    ignored("enablegrpcmetrics", Switch, "false"),
    ignored("histogramoption", Text, "0.5,2,6"),
    ignored("metadatastorage", Text, ""),
    ignored("mountcachedir", Text, ""),
    // klog's.
    ignored("logtostderr", Switch, "true"),
    ignored("alsologtostderr", Switch, "false"),
    ignored("vmodule", Text, ""),
    ignored("log_dir", Text, ""),
    ignored("log_file", Text, ""),
    ignored("log_file_max_size", Number, "1800"),
    ignored("skip_headers", Switch, "false"),
    ignored("skip_log_headers", Switch, "false"),
    ignored("one_output", Switch, "false"),
    ignored("stderrthreshold", Text, "2"),
    ignored("log_backtrace_at", Text, ":0"),
    ignored("add_dir_header", Switch, "false"),
    ignored("legacy_stderr_threshold_behavior", Switch, "true"),
];

/// The flag of that name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// What to say of a name that is no flag's.
pub fn unknown(name: &str) -> String {
    let near = FLAGS
        .iter()
        .map(|flag| (crate::spelling::distance(name, flag.name), flag.name))
        .filter(|(distance, known)| *distance <= 2 && distance * 2 < known.len())
        .min();
    match near {
        Some((_, known)) => format!("unknown flag --{name}: --{known} is meant?"),
        None => format!("unknown flag --{name}; --help lists all"),
    }
}
