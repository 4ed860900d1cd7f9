//! Texts that must agree with the code: the generated parts of docs/, the messages that it
//! quotes (reference/), and the versions and numbers that several files repeat.
//!
//! `make reference` writes the generated parts anew; this test only compares, and says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "reference/quotes.rs"]
mod quotes;

use std::fmt::Write as _;
use std::path::PathBuf;

use rbd_csi::options::table::{FLAGS, Flag, Sort};
use rbd_csi::volume::parameters::table::{
    LIMITS, PARAMETERS, Parameter, SIDECARS, SNAPSHOT_PARAMETERS, SNAPSHOT_SIDECARS, State,
};

const BEGIN: &str = "<!-- made by `make reference`: begin -->\n";
const END: &str = "<!-- made by `make reference`: end -->";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares the part between the marks, or writes it when `make reference` runs this.
fn holds(name: &str, generated: &str) {
    let text = read(name);
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{name} has no {BEGIN:?}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{name} has no {END:?}"));
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(path(name), format!("{before}{BEGIN}{generated}{END}{after}")).unwrap();
        return;
    }
    let differs = found.lines().zip(generated.lines()).find(|(found, wanted)| found != wanted);
    assert!(
        found == generated,
        "{name} is not what the code says; `make reference` writes it anew. First difference:\n{differs:#?}"
    );
}

/// What a table's cell may hold.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn parameter_rows(parameters: &[Parameter]) -> String {
    let mut text = "| parameter | values | default | |\n|---|---|---|---|\n".to_owned();
    for Parameter { name, values, default, state, meaning } in parameters {
        let meaning = match state {
            State::Works | State::Sidecars => (*meaning).to_owned(),
            State::NotYet => format!("**not yet**: {meaning}"),
            State::NoEffect => format!("*no effect*: {meaning}"),
        };
        let cells = [&format!("`{name}`"), *values, *default, &meaning].map(cell);
        writeln!(text, "| {} |", cells.join(" | ")).unwrap();
    }
    text
}

#[test]
fn every_parameter_is_documented() {
    let mut text = parameter_rows(PARAMETERS);
    let limits = LIMITS.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    writeln!(text, "| {limits} | a number | none | **not yet**: limits of I/O; `0` passes |").unwrap();
    writeln!(text, "\nWhat Kubernetes' sidecars read:\n").unwrap();
    text.push_str(&parameter_rows(SIDECARS));
    writeln!(text, "\nOf a VolumeSnapshotClass:\n").unwrap();
    text.push_str(&parameter_rows(SNAPSHOT_PARAMETERS));
    writeln!(text, "\nWhat csi-snapshotter reads of it:\n").unwrap();
    text.push_str(&parameter_rows(SNAPSHOT_SIDECARS));
    holds("docs/parameters.md", &text);
}

fn values(flag: &Flag) -> String {
    match flag.sort {
        Sort::Switch => "`true`, `false`".to_owned(),
        Sort::Text => "text".to_owned(),
        Sort::Number => "a number".to_owned(),
        Sort::Time => "a time, such as `1m30s`".to_owned(),
        Sort::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
    }
}

fn flag_rows(flags: &[&Flag]) -> String {
    let mut text = "| flag | values | default | |\n|---|---|---|---|\n".to_owned();
    for flag in flags {
        let default = if flag.default.is_empty() { "–".to_owned() } else { format!("`{}`", flag.default) };
        let cells = [format!("`--{}`", flag.name), values(flag), default, flag.help.to_owned()];
        writeln!(text, "| {} |", cells.map(|text| cell(&text)).join(" | ")).unwrap();
    }
    text
}

#[test]
fn every_flag_is_documented() {
    let (used, ignored): (Vec<&Flag>, Vec<&Flag>) = FLAGS.iter().partition(|flag| !flag.help.is_empty());
    let mut text = flag_rows(&used);
    let names = ignored.iter().map(|flag| format!("`--{}`", flag.name)).collect::<Vec<_>>();
    writeln!(text, "\nAccepted without effect, for manifests that were written for ceph-csi:\n").unwrap();
    for line in names.chunks(4) {
        writeln!(text, "{}", line.join(" ")).unwrap();
    }
    holds("docs/flags.md", &text);
}

/// The value of the line that begins so.
fn value<'a>(text: &'a str, beginning: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(beginning));
    line.unwrap_or_else(|| panic!("no line begins with {beginning:?}")).trim_matches(['"', ' '])
}

#[test]
fn the_image_is_built_by_the_pinned_compiler_and_has_our_version() {
    let dockerfile = read("Dockerfile");
    assert_eq!(value(&dockerfile, "ARG RUST="), value(&read("rust-toolchain.toml"), "channel = "));
    assert_eq!(value(&dockerfile, "ARG VERSION="), env!("CARGO_PKG_VERSION"));
}

/// scripts/image compares the page's with that of the image that it has made.
#[test]
fn the_image_has_one_size_in_all_texts() {
    let page = read("docs/support.md");
    let (before, _) = page.split_once(" MB unpacked").unwrap();
    let size = before.rsplit(' ').next().unwrap();
    assert!(read("CHANGELOG.md").contains(&format!("  {size} MB unpacked")), "CHANGELOG.md has another size");
}
