//! The driver on a real Kubernetes: deployed with its scripts, used through claims and
//! pods, disturbed, and removed. `make e2e`, `make e2e-short` and `make e2e-storage` run it.
//!
//! Lives here: which tests there are and in which order. One lab serves all of them;
//! `E2E_LAB=NAME` takes one that runs already (`make k8s-lab`).
//!
//! What a reader gets wrong: this is a program, not a test harness, since its tests share
//! one cluster and some need it without the driver. A test that fails stops no other, and
//! one that cannot run ("not run") counts as failed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test reports and fails so"
)]

mod access;
mod ceph;
mod deployment;
mod disturbed;
mod dropin;
mod examples;
mod explain;
mod helm;
mod kubectl;
mod life;
mod many;
mod node_lost;
mod not_made;
mod objects;
mod other_names;
mod picture;
mod publish;
mod purged;
mod reclaim;
mod refused;
mod residue;
mod run;
mod scripts;
mod short;
mod snapshots;
mod space;
mod storage;
#[path = "../support/mod.rs"]
mod support;
mod teardown;
mod unserved;
mod upgrade;
mod wait;
mod without_snapshots;
mod world;

use std::process::ExitCode;

use run::{Run, Test};
use world::World;

/// On a cluster without the driver; they deploy and remove it themselves.
const BARE: &[Test] = &[short::TEST, not_made::TEST, unserved::TEST, without_snapshots::TEST];

/// On a cluster where plugin-deploy.sh has run.
const DEPLOYED: &[&[Test]] = &[
    examples::TESTS,
    life::TESTS,
    snapshots::TESTS,
    access::TESTS,
    reclaim::TESTS,
    refused::TESTS,
    publish::TESTS,
    many::TESTS,
    disturbed::TESTS,
    upgrade::TESTS,
    node_lost::TESTS,
    teardown::TESTS,
];

/// On a cluster without the driver, after all others: deployments that are not the usual one.
const LAST: &[Test] = &[purged::TEST, other_names::TEST, helm::TEST, dropin::TEST];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [publish::INSIDE, ..] => return publish::inside(&words[1..]),
        ["list"] => return list(),
        [] => return usage(),
        _ => {}
    }
    let Some(wanted) = choose(&words) else { return usage() };
    let mut run = Run::new();
    let suite = wanted == ["storage"];
    let chosen = |test: &&Test| wanted.is_empty() || wanted.contains(&test.name);
    let deployed: Vec<&Test> =
        if suite { vec![&storage::TEST] } else { every_deployed().filter(chosen).collect() };
    let (bare, last) = (BARE.iter().filter(chosen), LAST.iter().filter(chosen));
    let Some(world) = run.start(|| World::start(suite)) else {
        run.not_run(bare.chain(deployed).chain(last));
        return run.end();
    };
    bare.for_each(|test| run.one(&world, test));
    if !deployed.is_empty() {
        run.deployed(&world, &deployed);
    }
    last.for_each(|test| run.one(&world, test));
    run.end()
}

fn every_deployed() -> impl Iterator<Item = &'static Test> {
    DEPLOYED.iter().copied().flatten()
}

fn every() -> impl Iterator<Item = &'static Test> {
    BARE.iter().chain(every_deployed()).chain(LAST)
}

/// The names of the tests to run, none for all; nothing when there is no such test.
fn choose<'a>(words: &[&'a str]) -> Option<Vec<&'a str>> {
    match words {
        ["all"] => Some(Vec::new()),
        ["storage"] => Some(vec!["storage"]),
        names => names.iter().all(|name| every().any(|test| test.name == *name)).then(|| names.to_vec()),
    }
}

fn list() -> ExitCode {
    for test in every() {
        println!("{:<28}{}", test.name, test.about);
    }
    println!("{:<28}{}", storage::TEST.name, storage::TEST.about);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("usage: e2e all | storage | TEST… (`e2e list` names them; run them by scripts/e2e)");
    ExitCode::from(2)
}
