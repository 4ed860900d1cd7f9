//! One test's namespace, and what tests do in it again and again.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::kubectl::Kubectl;
use super::wait::{seconds, until};
use super::world::World;

/// "Within seconds": what a claim may take when nothing disturbs it.
pub const PROMPTLY: Duration = seconds(15);
/// A pod with a volume, on a machine where everything runs on two cores.
pub const POD: Duration = seconds(150);
/// A snapshot, whose controller and sidecar look again after seconds.
pub const SNAPSHOT: Duration = seconds(60);
/// A pod's end, its volume unmounted, detached.
pub const GONE: Duration = seconds(120);

/// The same of all that a failed test may have left, fifty pods at worst.
const LEFT_BEHIND: Duration = seconds(600);

type Undo<'a> = Box<dyn FnOnce() + 'a>;

pub struct Space<'a> {
    pub world: &'a World,
    pub name: String,
    /// kubectl in this namespace.
    pub kubectl: Kubectl,
    /// Cluster-wide objects that the test made, as kind/name.
    wide: RefCell<Vec<String>>,
    /// What is to be undone when the test stops half-way, before and after that.
    restore: RefCell<Vec<Undo<'a>>>,
    undo: RefCell<Vec<Undo<'a>>>,
}

impl<'a> Space<'a> {
    pub fn new(world: &'a World, test: &str) -> Self {
        let name = format!("e2e-{test}").replace('_', "-");
        let kubectl = world.kubectl.within(&name);
        let space = Self {
            world,
            name,
            kubectl,
            wide: RefCell::default(),
            restore: RefCell::default(),
            undo: RefCell::default(),
        };
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": space.name } });
        space.kubectl.create(&[namespace]);
        // Without it the namespace's first pods are refused.
        until("the namespace has its service account", seconds(30), || {
            space.kubectl.try_get(&["serviceaccount", "default"]).map(drop)
        });
        space
    }

    pub fn apply(&self, objects: &[Value]) {
        self.kubectl.apply(objects);
    }

    /// Makes cluster-wide objects, which go when the test ends.
    pub fn apply_wide(&self, objects: &[Value]) {
        for object in objects {
            let name = |key: &Value| key.as_str().unwrap().to_owned();
            self.wide.borrow_mut().push(format!(
                "{}/{}",
                name(&object["kind"]),
                name(&object["metadata"]["name"])
            ));
        }
        self.kubectl.apply(objects);
    }

    /// What is to be done when the test stops half-way, so that its objects can be removed: a
    /// stopped part of the cluster started.
    pub fn if_it_fails_first(&self, undo: impl FnOnce() + 'a) {
        self.restore.borrow_mut().push(Box::new(undo));
    }

    /// What is to be done when the test stops half-way, after its objects are removed.
    pub fn if_it_fails(&self, undo: impl FnOnce() + 'a) {
        self.undo.borrow_mut().push(Box::new(undo));
    }

    /// Waits for a claim; gives the name of its volume.
    pub fn bound(&self, claim: &str, limit: Duration) -> String {
        self.kubectl.wait(limit, &["--for=jsonpath={.status.phase}=Bound", &format!("pvc/{claim}")]);
        self.kubectl.get(&["pvc", claim])["spec"]["volumeName"].as_str().unwrap().to_owned()
    }

    /// Waits for a pod; gives how long that took.
    pub fn ready(&self, pod: &str) -> Duration {
        let started = Instant::now();
        self.kubectl.wait(POD, &["--for=condition=Ready", &format!("pod/{pod}")]);
        started.elapsed()
    }

    /// A line for the shell of a pod's only container.
    pub fn sh(&self, pod: &str, line: &str) -> String {
        self.try_sh(pod, line).unwrap_or_else(|text| panic!("{text}"))
    }

    pub fn try_sh(&self, pod: &str, line: &str) -> Result<String, String> {
        self.kubectl.try_run(&["exec", pod, "--", "sh", "-ec", line])
    }

    /// Waits until a snapshot is ready; gives the name of its content.
    pub fn snapshot_ready(&self, snapshot: &str) -> String {
        let name = format!("volumesnapshot/{snapshot}");
        self.kubectl.wait(SNAPSHOT, &["--for=jsonpath={.status.readyToUse}=true", &name]);
        let content = &self.kubectl.get(&[&name])["status"]["boundVolumeSnapshotContentName"];
        content.as_str().unwrap().to_owned()
    }

    /// Asks for a claim to be so large, and waits until it is; gives how long that took.
    pub fn grow(&self, claim: &str, size: &str) -> Duration {
        let asked = json!({ "spec": { "resources": { "requests": { "storage": size } } } });
        self.kubectl.run(&["patch", "pvc", claim, "--type=merge", "-p", &asked.to_string()]);
        self.grown(claim, size)
    }

    /// Waits until a claim is so large.
    pub fn grown(&self, claim: &str, size: &str) -> Duration {
        let started = Instant::now();
        let capacity = format!("--for=jsonpath={{.status.capacity.storage}}={size}");
        self.kubectl.wait(POD, &[&capacity, &format!("pvc/{claim}")]);
        started.elapsed()
    }

    /// The node that a pod is on.
    pub fn node_of(&self, pod: &str) -> String {
        self.kubectl.get(&["pod", pod])["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
    }

    /// Deletes objects such as `pod/writer` and waits until they are gone.
    pub fn delete(&self, objects: &[&str]) {
        self.kubectl.delete(GONE, objects);
    }

    /// The image of a volume, as its attributes tell.
    pub fn image_of(&self, volume: &str) -> String {
        let volume = self.kubectl.get(&["pv", volume]);
        volume["spec"]["csi"]["volumeAttributes"]["imageName"].as_str().unwrap().to_owned()
    }

    /// What the events of an object say, newest state of each; waits until one has all these words.
    pub fn event(&self, object: &str, words: &[&str], limit: Duration) -> String {
        let mut found = String::new();
        until(&format!("an event of {object} with {words:?}"), limit, || {
            let field = format!("involvedObject.name={object}");
            let list = self.kubectl.try_get(&["events", "--field-selector", &field])?;
            let messages: Vec<&str> = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|e| e["message"].as_str())
                .collect();
            match messages.iter().find(|text| words.iter().all(|word| text.contains(word))) {
                Some(text) => {
                    (*text).clone_into(&mut found);
                    Ok(())
                }
                None => Err(format!("{messages:#?}")),
            }
        });
        found
    }

    /// Removes all that the test made; it must go.
    pub fn remove(&self) {
        self.remove_within(GONE);
    }

    fn remove_within(&self, limit: Duration) {
        self.kubectl.delete(limit, &["pods,statefulsets", "--all"]);
        self.kubectl.delete(limit, &["volumesnapshots", "--all"]);
        self.kubectl.delete(limit, &["pvc", "--all"]);
        for object in self.wide.borrow_mut().drain(..) {
            self.kubectl.delete(limit, &[&object]);
        }
        self.world.kubectl.delete(limit, &["namespace", &self.name]);
    }

    /// The same after a test that failed, or for what it left: as far as it goes, with
    /// patience, since the next test shall not find it.
    pub fn clear(&self) {
        let remove = std::panic::AssertUnwindSafe(|| self.remove_within(LEFT_BEHIND));
        let attempt = std::panic::catch_unwind(remove);
        if attempt.is_err() {
            println!("the namespace {} could not be cleared", self.name);
        }
    }

    /// Does what the two were told, as far as it goes: the last first.
    pub fn clear_failed(&self) {
        self.undo(&self.restore);
        self.clear();
        self.undo(&self.undo);
    }

    fn undo(&self, all: &RefCell<Vec<Undo<'a>>>) {
        for undo in all.borrow_mut().drain(..).rev() {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(undo)).is_err() {
                println!("what {} changed besides could not all be undone", self.name);
            }
        }
    }
}
