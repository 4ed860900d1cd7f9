//! kubectl: asked for JSON, given JSON.
//!
//! What a reader gets wrong: a call that fails is a panic with what kubectl said, except
//! in the functions that begin with `try_`. No call outlasts its limit.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Longer than kubectl's own patience in any call here but `wait`.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    namespace: String,
}

impl Kubectl {
    pub fn new(program: PathBuf, namespace: &str) -> Self {
        Self { program, namespace: namespace.to_owned() }
    }

    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    pub fn program(&self) -> &std::path::Path {
        &self.program
    }

    fn command(&self, limit: Duration, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &limit.as_secs().to_string()]).arg(&self.program);
        command.args(["--namespace", &self.namespace]).args(arguments).stdin(Stdio::null());
        command
    }

    /// The output, or what it said on failing.
    pub fn try_run(&self, arguments: &[&str]) -> Result<String, String> {
        self.try_within(LIMIT, arguments)
    }

    fn try_within(&self, limit: Duration, arguments: &[&str]) -> Result<String, String> {
        answer(self.command(limit, arguments), arguments)
    }

    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments).unwrap_or_else(|text| panic!("{text}"))
    }

    pub fn try_json(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.try_run(&all)?;
        serde_json::from_str(&text).map_err(|error| format!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// `get …` as JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        self.try_get(arguments).unwrap_or_else(|text| panic!("{text}"))
    }

    pub fn try_get(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut all = vec!["get"];
        all.extend(arguments);
        self.try_json(&all)
    }

    /// The items of `get …`.
    pub fn items(&self, arguments: &[&str]) -> Vec<Value> {
        self.try_items(arguments).unwrap_or_else(|text| panic!("{text}"))
    }

    pub fn try_items(&self, arguments: &[&str]) -> Result<Vec<Value>, String> {
        let list = self.try_get(arguments)?;
        list["items"].as_array().cloned().ok_or_else(|| format!("get {}: no list", arguments.join(" ")))
    }

    /// What the API server says at a path.
    pub fn get_raw(&self, path: &str) -> Value {
        serde_json::from_str(&self.run(&["get", "--raw", path])).unwrap()
    }

    /// `apply -f FILE`.
    pub fn apply_file(&self, file: &std::path::Path) {
        self.run(&["apply", "-f", file.to_str().unwrap()]);
    }

    pub fn apply(&self, objects: &[Value]) {
        self.send(&["apply", "-f", "-"], objects);
    }

    /// For what an `apply` would not show: that the object is a new one.
    pub fn create(&self, objects: &[Value]) {
        self.send(&["create", "-f", "-"], objects);
    }

    fn send(&self, arguments: &[&str], objects: &[Value]) {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        self.feed(arguments, &list.to_string());
    }

    /// Runs it with a text as its standard input.
    pub fn feed(&self, arguments: &[&str], text: &str) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut command = self.command(LIMIT, arguments);
        command.stdin(file.reopen().unwrap());
        answer(command, arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Says of a VolumeAttachment what an attacher says when it is done.
    pub fn mark_attached(&self, attachment: &str) {
        let status = r#"{"status":{"attached":true}}"#;
        self.run(&[
            "patch",
            "volumeattachment",
            attachment,
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ]);
    }

    /// `wait --for=…`; the panic names what did not come.
    pub fn wait(&self, limit: Duration, arguments: &[&str]) {
        let time = format!("--timeout={}s", limit.as_secs());
        let mut all = vec!["wait", &time];
        all.extend(arguments);
        if let Err(text) = self.try_within(limit + LIMIT, &all) {
            panic!("waited {} s in vain: {text}", limit.as_secs());
        }
    }

    /// Waits until a Deployment or DaemonSet is as it is asked to be.
    pub fn wait_for_rollout(&self, namespace: &str, part: &str, limit: Duration) {
        let time = format!("--timeout={}s", limit.as_secs());
        let arguments = ["rollout", "status", "-n", namespace, part, &time];
        self.try_within(limit + LIMIT, &arguments).unwrap_or_else(|text| panic!("{text}"));
    }

    /// `delete …`, which returns when the objects are gone.
    pub fn delete(&self, limit: Duration, arguments: &[&str]) {
        let time = format!("--timeout={}s", limit.as_secs());
        let mut all = vec!["delete", "--ignore-not-found", "--wait", &time];
        all.extend(arguments);
        if let Err(text) = self.try_within(limit + LIMIT, &all) {
            panic!("not gone after {} s: {text}", limit.as_secs());
        }
    }
}

fn answer(mut command: Command, arguments: &[&str]) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(stdout.trim_end_matches('\n').to_owned());
    }
    let limit = if output.status.code() == Some(124) { " (it did not end in time)" } else { "" };
    Err(format!("kubectl {}: {}{limit}\n{stdout}{stderr}", arguments.join(" "), output.status))
}
