//! plugin-teardown.sh while volumes are in use.

use super::deployment;
use super::objects::{claim, pod};
use super::run::Test;
use super::space::{PROMPTLY, Space};

pub const TESTS: &[Test] = &[Test::new(
    "teardown_refused",
    "plugin-teardown.sh refuses while a volume is in use, names it, and harms nothing",
    refused,
)];

fn refused(space: &Space) {
    space.apply(&[claim("disk"), pod("user", "disk")]);
    let volume = space.bound("disk", PROMPTLY);
    space.ready("user");
    let text = deployment::refused_teardown(space.world);
    assert!(text.contains(&volume) && text.contains("user"), "names volume {volume} and pod user:\n{text}");
    space.sh("user", "echo still >/data/mark");
    // The driver is still there for it.
    space.delete(&["pod/user"]);
    space.apply(&[pod("user", "disk")]);
    space.ready("user");
}
