//! What ginkgo reports, counted, and as a page for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

/// Cases by the suite's own groups.
#[derive(Default)]
pub struct Report {
    groups: BTreeMap<String, Count>,
    failures: Vec<String>,
    version: String,
}

#[derive(Default, Clone, Copy)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    pub fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let suites: Value = serde_json::from_str(&text).unwrap();
        let mut report = Self::default();
        for suite in suites.as_array().unwrap() {
            let specs = suite["SpecReports"].as_array().into_iter().flatten();
            specs.for_each(|spec| report.add(spec));
        }
        report
    }

    /// Cases that the focus left out are "skipped", too, but nobody said why.
    fn add(&mut self, spec: &Value) {
        let texts: Vec<&str> = spec["ContainerHierarchyTexts"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let ours = texts.first().is_some_and(|text| text.starts_with("External Storage"));
        let (state, message) = (&spec["State"], spec["Failure"]["Message"].as_str().unwrap_or_default());
        if !ours || spec["LeafNodeType"] != "It" || (state == "skipped" && message.is_empty()) {
            return;
        }
        let name = texts.get(1).copied().unwrap_or_default();
        let count = self.groups.entry(name.to_owned()).or_default();
        match state.as_str() {
            Some("passed") => count.passed += 1,
            Some("skipped") => count.skipped += 1,
            _ => {
                count.failed += 1;
                let case = spec["LeafNodeText"].as_str().unwrap_or_default();
                let reason = message.lines().next().unwrap_or_default();
                self.failures.push(format!("{name}: {case}: {reason}"));
            }
        }
    }

    fn total(&self) -> Count {
        self.groups.values().fold(Count::default(), |sum, count| Count {
            passed: sum.passed + count.passed,
            failed: sum.failed + count.failed,
            skipped: sum.skipped + count.skipped,
        })
    }

    pub fn is_success(&self) -> bool {
        let Count { passed, failed, .. } = self.total();
        passed > 0 && failed == 0
    }

    pub fn summary(&self) -> String {
        let Count { passed, failed, skipped } = self.total();
        format!("{passed} passed, {failed} failed, {skipped} do not apply")
    }

    pub fn failures(&self) -> String {
        self.failures.join("\n")
    }

    pub fn page(&self) -> String {
        let mut page = format!(
            "# Kubernetes' external-storage suite\n\n\
             What `make e2e-storage` last gave, with the driver of version {} and Kubernetes {}: {}.\n\n\
             The definition is `tests/e2e/storage/driver.yaml`. A case does not apply when it skips\n\
             itself for a capability that the definition lacks. Left out altogether are the cases\n\
             marked disruptive, serial or slow, those for Windows, and those of a feature that the\n\
             driver does not have yet (snapshots of groups).\n\n\
             | group | passed | failed | does not apply |\n|---|---:|---:|---:|\n",
            env!("CARGO_PKG_VERSION"),
            self.version,
            self.summary()
        );
        for (name, Count { passed, failed, skipped }) in &self.groups {
            let name = name.replace("[Testpattern: ", "").replace(']', ":").replace('|', "\\|");
            let _ = writeln!(page, "| {name} | {passed} | {failed} | {skipped} |");
        }
        if !self.failures.is_empty() {
            page += "\nFailed:\n\n";
            self.failures.iter().for_each(|failure| page += &format!("- {failure}\n"));
        }
        page
    }

    /// The same with the version of Kubernetes, for the page.
    pub fn of(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }
}
