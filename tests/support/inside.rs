//! Running a part of a test inside a node: the test's own executable, started there with
//! the name of one of its ignored tests.
//!
//! What a reader gets wrong: the part inside knows the lab only by variables; the key
//! among them is the canary that must not be seen anywhere else.

use std::process::Command;

use super::lab::{Cluster, Lab, succeed};

/// The variable with the key of `client.admin`.
pub const KEY: &str = "LAB_KEY";

/// How to run parts of a test in a lab's node, the first if nothing else is said.
#[derive(Clone)]
pub struct Inside<'a> {
    lab: &'a Lab,
    node: usize,
    variables: Vec<(String, String)>,
}

impl<'a> Inside<'a> {
    /// Knowing of no cluster.
    pub fn new(lab: &'a Lab) -> Self {
        Self { lab, node: 0, variables: Vec::new() }
    }

    /// In the i-th node, from 0.
    pub fn on(self, node: usize) -> Self {
        Self { node, ..self }
    }

    /// With what the sweeps of this run draw.
    fn with_sweep(mut self) -> Self {
        for name in ["SWEEP", "SWEEP_SEED"] {
            if let Ok(value) = std::env::var(name) {
                self.variables.push((name.to_owned(), value));
            }
        }
        self
    }

    /// With what is to be known of a cluster.
    pub fn of(self, cluster: &Cluster) -> Self {
        self.with_sweep()
            .with("LAB_MONITORS", &cluster.monitors)
            .with("LAB_FSID", &cluster.fsid)
            .with(KEY, &cluster.admin_key)
    }

    /// With one more variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The test of that name there, for what may fail or runs beside this.
    pub fn command(&self, test: &str) -> Command {
        let executable = std::env::current_exe().unwrap();
        let executable = executable.to_str().unwrap();
        let argv = [executable, "--exact", test, "--ignored", "--nocapture", "--test-threads=1"];
        let variables: Vec<_> =
            self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        self.lab.node(self.node).command_with(&variables, &argv)
    }

    /// Runs the test of that name there; it must succeed. Gives its output.
    pub fn run(&self, test: &str) -> String {
        let output = succeed(&mut self.command(test));
        assert!(output.contains("1 passed"), "{test} did not run in the node: {output}");
        output
    }
}

/// Tests of the same names that run these parts as the function `$how` says. A program
/// that has something to do before each of its parts does without.
#[allow(unused_macros)]
macro_rules! runs_inside {
    ($how:ident: $($file:ident::$test:ident),* $(,)?) => {
        $(#[test]
        fn $test() {
            println!("{}", $how().run(concat!(stringify!($file), "::", stringify!($test))));
        })*
    };
}
#[allow(unused_imports)]
pub(crate) use runs_inside;

/// A variable of the part inside.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by the part outside"))
}

/// Runs a line for the shell, on the node where this is called; it must succeed. Gives its output.
#[track_caller]
pub fn run(line: &str) -> String {
    succeed(Command::new("sh").args(["-ec", line])).trim_end().to_owned()
}
