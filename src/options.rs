//! The command line: ceph-csi's flags, klog's, and a few of our own.
//!
//! Lives here: the only reader of arguments and environment. The forms are those
//! of Go's `flag` package, since the manifests in use are written for it:
//! `-flag` and `--flag`, `=value` or the next argument, booleans only with `=`.
//! No argument library knows these forms, so the parser is ours. Flags that mean
//! nothing here are accepted: an unknown flag would stop a pod that ceph-csi starts.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

mod help;
mod kubernetes;
pub mod table;
mod value;

pub use help::{help, version};
pub use kubernetes::{KubeletRegistration, KubernetesApi};
use table::{Flag, Sort};

/// What the process is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The CSI driver.
    Rbd,
    /// Asks a driver's Probe and shows the answer as a metric.
    Liveness,
    /// ceph-csi's background controller; there is no work for it yet.
    Controller,
}

/// How images are mapped on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapWith {
    /// In this process, through sysfs.
    Krbd,
    /// By the `rbd` program.
    Rbd,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The command line, checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--type`
    pub role: Role,
    /// `--endpoint`
    pub endpoint: String,
    /// `--drivername`
    pub driver_name: String,
    /// `--nodeid`
    pub node_id: String,
    /// `--pluginpath`
    pub plugin_path: PathBuf,
    /// `--clustername`, when not empty
    pub cluster_name: Option<String>,
    /// `--instanceid`
    pub instance: String,
    /// `--pidlimit`: 0 leaves the limit, -1 takes it away
    pub pid_limit: i64,
    /// `--controllerserver`
    pub controller: bool,
    /// `--nodeserver`
    pub node: bool,
    /// `--metricsport`, when it was given
    pub metrics_port: Option<u16>,
    /// `--metricspath`
    pub metrics_path: String,
    /// `--polltime`
    pub poll_time: Duration,
    /// `--timeout`
    pub probe_timeout: Duration,
    /// `--logslowopinterval`
    pub slow_call_interval: Duration,
    /// `--v`: klog's level
    pub verbosity: u8,
    /// `--log-format`
    pub log_format: LogFormat,
    /// `--map-with`
    pub map_with: MapWith,
    /// `--strict-parameters`
    pub strict_parameters: bool,
    /// `--takeover-grace`
    pub takeover_grace: Duration,
    /// `--rbdhardmaxclonedepth`
    pub hard_depth: usize,
    /// `--rbdsoftmaxclonedepth`
    pub soft_depth: usize,
    /// `--maxsnapshotsonimage`
    pub most_snapshots: usize,
    /// `--minsnapshotsonimage`
    pub many_snapshots: usize,
    /// `--flatten-concurrency`
    pub flatten_concurrency: usize,
    /// `--cluster-config`
    pub cluster_config: PathBuf,
    /// `--cluster-mapping`
    pub cluster_mapping: PathBuf,
    /// `--ceph-conf`, else `$CEPH_CONF`, else Ceph's own place
    pub ceph_conf: PathBuf,
    /// Given flags of features that are not here yet, as `--name=value`.
    pub without_effect: Vec<String>,
    /// The Kubernetes API, when this runs in a pod
    pub kubernetes: Option<KubernetesApi>,
    /// `--kubelet-registration-path` and where the kubelet looks, when it is given
    pub registration: Option<KubeletRegistration>,
    /// `$POD_IP`: where metrics are served
    pub pod_ip: Option<String>,
    /// The machine's or pod's name
    pub host_name: String,
}

/// What a command line asks for.
#[derive(Debug, Clone)]
pub enum Asked {
    /// To run.
    Run(Box<Options>),
    /// `--version`
    Version,
    /// `--help`
    Help,
}

/// Reads a command line without the program's name, and the environment.
///
/// # Errors
/// One line that says what is wrong and what is meant perhaps.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Asked, String> {
    let given = Given::read(arguments)?;
    if given.switch("help")? || given.switch("h")? {
        return Ok(Asked::Help);
    }
    if given.switch("version")? {
        return Ok(Asked::Version);
    }
    given.check_all()?;
    given.options().map(|options| Asked::Run(Box::new(options)))
}

/// The flags as they were given; the last of several counts.
struct Given(HashMap<&'static str, String>);

impl Given {
    fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut given = HashMap::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let argument = argument.into_string().map_err(|raw| format!("argument {raw:?} is not UTF-8"))?;
            let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                return Err(format!("unexpected argument {argument:?}: every option begins with --"));
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let flag = table::find(name).ok_or_else(|| table::unknown(name))?;
            let value = match (value, flag.sort) {
                (Some(value), _) => value,
                (None, Sort::Switch) => "true".to_owned(),
                (None, _) => arguments
                    .next()
                    .and_then(|value| value.into_string().ok())
                    .ok_or_else(|| format!("--{name} needs a value"))?,
            };
            given.insert(flag.name, value);
        }
        Ok(Self(given))
    }

    /// Values of flags without effect here must still be of their kind.
    fn check_all(&self) -> Result<(), String> {
        table::FLAGS.iter().filter(|flag| self.0.contains_key(flag.name)).try_for_each(|flag| {
            let value = self.text(flag.name);
            flag.sort.check(&value).map_err(|why| format!("--{}={value}: {why}", flag.name))
        })
    }

    fn text(&self, name: &str) -> String {
        let default = || table::find(name).map(|flag: &Flag| flag.default).unwrap_or_default().to_owned();
        self.0.get(name).cloned().unwrap_or_else(default)
    }

    fn switch(&self, name: &str) -> Result<bool, String> {
        let text = self.text(name);
        value::switch(&text).map_err(|why| format!("--{name}={text}: {why}"))
    }

    fn number(&self, name: &str, from: i64, to: i64) -> Result<i64, String> {
        let text = self.text(name);
        let number = value::number(&text).map_err(|why| format!("--{name}={text}: {why}"))?;
        if !(from..=to).contains(&number) {
            return Err(format!("--{name}={text}: must be {from} to {to}"));
        }
        Ok(number)
    }

    fn time(&self, name: &str) -> Result<Duration, String> {
        let text = self.text(name);
        value::duration(&text).map_err(|why| format!("--{name}={text}: {why}"))
    }

    fn options(&self) -> Result<Options, String> {
        let role = match self.text("type").as_str() {
            "rbd" => Role::Rbd,
            "liveness" => Role::Liveness,
            "controller" => Role::Controller,
            "" => return Err("driver type not specified: --type=rbd, liveness or controller".to_owned()),
            other => return Err(format!("--type={other}: this driver serves rbd, liveness and controller")),
        };
        self.check_limits()?;
        let node_id = self.text("nodeid");
        if role == Role::Rbd && node_id.is_empty() {
            return Err("--nodeid is missing: the name of the node that this runs on".to_owned());
        }
        let (endpoint, node) = (self.endpoint()?, self.switch("nodeserver")?);
        let (path, folder) = (self.text("kubelet-registration-path"), self.text("plugin-registration-path"));
        Ok(Options {
            role,
            registration: kubernetes::registration(path, folder, node, &endpoint)?,
            kubernetes: kubernetes::api(self.text("service-account-path"))?,
            endpoint,
            driver_name: self.driver_name(role)?,
            node_id,
            plugin_path: self.text("pluginpath").into(),
            cluster_name: Some(self.text("clustername")).filter(|name| !name.is_empty()),
            instance: self.text("instanceid"),
            pid_limit: self.number("pidlimit", -1, i64::MAX)?,
            controller: self.switch("controllerserver")?,
            node,
            metrics_port: self.metrics_port(role)?,
            metrics_path: self.text("metricspath"),
            poll_time: self.time("polltime")?,
            probe_timeout: self.time("timeout")?,
            slow_call_interval: self.time("logslowopinterval")?,
            verbosity: u8::try_from(self.number("v", -10, 20)?.max(0)).unwrap_or(0),
            log_format: if self.text("log-format") == "json" { LogFormat::Json } else { LogFormat::Text },
            map_with: if self.text("map-with") == "rbd" { MapWith::Rbd } else { MapWith::Krbd },
            strict_parameters: self.switch("strict-parameters")?,
            takeover_grace: self.time("takeover-grace")?,
            hard_depth: self.count("rbdhardmaxclonedepth")?,
            soft_depth: self.count("rbdsoftmaxclonedepth")?,
            most_snapshots: self.count("maxsnapshotsonimage")?,
            many_snapshots: self.count("minsnapshotsonimage")?,
            flatten_concurrency: self.count("flatten-concurrency")?,
            cluster_config: self.text("cluster-config").into(),
            cluster_mapping: self.text("cluster-mapping").into(),
            ceph_conf: self.ceph_conf(),
            without_effect: self.without_effect(),
            pod_ip: std::env::var("POD_IP").ok().filter(|ip| !ip.is_empty()),
            host_name: host_name(),
        })
    }

    /// Those whose absence somebody would notice; not those that are at rest.
    fn without_effect(&self) -> Vec<String> {
        let names = ["enable-fencing", "domainlabels", "enable-read-affinity"];
        let given = names.into_iter().map(|name| (name, self.text(name)));
        let asked = given.filter(|(_, value)| value::switch(value).unwrap_or(!value.is_empty()));
        asked.map(|(name, value)| format!("--{name}={value}")).collect()
    }

    fn check_limits(&self) -> Result<(), String> {
        let hard = self.number("rbdhardmaxclonedepth", 1, 14)?;
        self.number("rbdsoftmaxclonedepth", 1, hard)?;
        let most = self.number("maxsnapshotsonimage", 1, 500)?;
        self.number("minsnapshotsonimage", 1, most)?;
        self.number("flatten-concurrency", 1, 64)?;
        Ok(())
    }

    /// A number that [`Self::check_limits`] has looked at.
    fn count(&self, name: &str) -> Result<usize, String> {
        Ok(usize::try_from(self.number(name, 1, 1024)?).unwrap_or(1))
    }

    fn endpoint(&self) -> Result<String, String> {
        let endpoint = self.text("endpoint");
        match endpoint.split_once("://") {
            Some(("unix" | "tcp", rest)) if !rest.is_empty() => Ok(endpoint),
            _ => Err(format!("--endpoint={endpoint}: must be unix://PATH or tcp://ADDRESS:PORT")),
        }
    }

    fn driver_name(&self, role: Role) -> Result<String, String> {
        let name = self.text("drivername");
        if name.is_empty() {
            return match role {
                Role::Rbd => Ok("rbd.csi.ceph.com".to_owned()),
                Role::Liveness => Ok("liveness.csi.ceph.com".to_owned()),
                Role::Controller => Err("--drivername is missing: --type=controller needs it".to_owned()),
            };
        }
        value::driver_name(&name).map_err(|why| format!("--drivername={name}: {why}"))?;
        Ok(name)
    }

    fn metrics_port(&self, role: Role) -> Result<Option<u16>, String> {
        if role != Role::Liveness && !self.0.contains_key("metricsport") {
            return Ok(None);
        }
        Ok(u16::try_from(self.number("metricsport", 1, 65535)?).ok())
    }

    fn ceph_conf(&self) -> PathBuf {
        let given = Some(self.text("ceph-conf")).filter(|path| !path.is_empty()).map(PathBuf::from);
        given
            .or_else(|| std::env::var_os("CEPH_CONF").filter(|path| !path.is_empty()).map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("/etc/ceph/ceph.conf"))
    }
}

fn host_name() -> String {
    let names = nix::sys::utsname::uname();
    names.map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<Options, String> {
        match parse(arguments.iter().map(OsString::from))? {
            Asked::Run(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_forms_of_go_are_understood() {
        let options = run(&[
            "-type",
            "rbd",
            "--nodeid=n",
            "-controllerserver=true",
            "--nodeserver",
            "--v",
            "5",
            "--v=4",
        ])
        .unwrap();
        assert!(options.controller && options.node);
        assert_eq!((options.verbosity, options.node_id.as_str()), (4, "n"));
    }

    #[test]
    fn every_flag_is_accepted_with_its_default() {
        for flag in table::FLAGS.iter().filter(|flag| !matches!(flag.name, "help" | "h" | "version")) {
            let argument = format!("--{}={}", flag.name, flag.default);
            if matches!(flag.name, "type" | "nodeid") || (flag.default.is_empty() && flag.sort != Sort::Text)
            {
                continue;
            }
            run(&["--type=rbd", "--nodeid=n", &argument])
                .unwrap_or_else(|error| panic!("{argument}: {error}"));
        }
    }

    #[test]
    fn features_that_are_missing_are_named() {
        let options =
            run(&["--type=rbd", "--nodeid=n", "--enable-fencing=true", "--enable-read-affinity=false"])
                .unwrap();
        assert_eq!(options.without_effect, ["--enable-fencing=true"]);
        assert_eq!(
            run(&["--type=rbd", "--nodeid=n", "--domainlabels=zone"]).unwrap().without_effect,
            ["--domainlabels=zone"]
        );
    }

    #[test]
    fn mistakes_are_told_in_one_line() {
        for (arguments, word) in [
            (&["--typ=rbd"][..], "--type"),
            (&["--type=cephfs"], "cephfs"),
            (&[], "not specified"),
            (&["--type=rbd"], "--nodeid"),
            (&["--type=rbd", "--nodeid=n", "--pidlimit=x"], "pidlimit"),
            (&["--type=rbd", "--nodeid=n", "--nodeserver", "true"], "unexpected"),
            (&["--type=rbd", "--nodeid=n", "--rbdhardmaxclonedepth=15"], "1 to 14"),
            (&["--type=rbd", "--nodeid=n", "--endpoint=/csi.sock"], "unix://"),
            (&["--type=rbd", "--nodeid=n", "--drivername=-x"], "drivername"),
            (&["--type=rbd", "--nodeid=n", "--polltime=5"], "unit"),
            (&["--type=rbd", "--nodeid=n", "--map-with=nbd"], "krbd"),
        ] {
            let error = run(arguments).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{arguments:?}: {error}");
        }
    }
}
