//! What volumes left on a node is named by plugin-teardown.sh and taken away by
//! --purge-node-residue; what is in use, and what is another driver's, is not.
//!
//! What a reader gets wrong: nothing of our residue is made by hand. A process holds a volume
//! where it is mounted, so that it cannot be unstaged; the kubelet, started again, knows
//! nothing of it any more; and somebody takes the objects away by force.

use super::ceph;
use super::deployment;
use super::disturbed::goes_on_writing;
use super::objects::{DATA, claim, on, pod, ticking_pod};
use super::picture::Picture;
use super::run::Test;
use super::scripts;
use super::space::{GONE, POD, PROMPTLY, Space};
use super::support::lab::{Node, Running};
use super::support::pool;
use super::wait::until;
use super::world::{DRIVER_NAMESPACE, NODES, POOL};

pub const TEST: Test = Test::new(
    "residue_purged",
    "--purge-node-residue takes away what volumes left on nodes, and nothing that is in use",
    steps,
);

const PURGE: &str = "--purge-node-residue";

/// Steps: 1 the driver, 2 a staged volume that no pod, object or kubelet knows, and another
/// driver's, 3 the script's words to it, 4 refused while a pod uses a volume, 5 that pod gone, but
/// not one that only the node knows: it keeps its volume, while all else goes, 6 all goes,
/// and all is as before, the images untouched.
fn steps(space: &Space) {
    let world = space.world;
    space.if_it_fails(|| deployment::remove(world));
    let node = world.node(NODES[0]);
    let before = Picture::take(world);
    scripts::deploy(world, &[]);
    scripts::apply_users(world);
    let left = Left::make(space, node);
    let foreign = Foreign::make(space, node);
    println!("  left on {}: {} and another driver's {}", NODES[0], left.device, foreign.device);

    let text = scripts::try_teardown(world, &[]).expect_err("there is residue");
    left.is_named(&text);
    assert!(text.contains("nothing was removed") && text.contains(PURGE), "what to do:\n{text}");
    left.is_there(node);

    space.apply(&[claim("used"), on(ticking_pod("user", "used"), NODES[0])]);
    let used = space.bound("used", PROMPTLY);
    let used_image = space.image_of(&used);
    space.ready("user");
    let text = scripts::try_teardown(world, &[PURGE]).expect_err("a pod uses a volume");
    let user = format!("pod {}/user", space.name);
    assert!(text.contains(&used) && text.contains(&user), "names volume and pod:\n{text}");
    left.is_there(node);
    goes_on_writing(space, "user");
    println!("  refused while a pod uses a volume");

    let container = Container::start(node, &mount_of(node, &used_image));
    space.delete(&["pod/user"]);
    take_away(space, "used", &used);
    forget(space, node);
    refused_for_a_container(space, &left, &used, &used_image);
    container.has_it_still(node);
    container.end(node);
    foreign.is_there(node);

    scripts::remove_users(world);
    scripts::teardown(world, &[PURGE]);
    assert_eq!(mapped(node), foreign.image, "what is mapped");
    foreign.is_there(node);
    foreign.remove(space, node);
    before.wait_until_as(world);

    let images = [&left.image, &used_image];
    for image in images {
        assert!(pool::images(world.cluster(), POOL).contains(image), "Ceph was touched: {image} is gone");
    }
    read_in_ceph(node, &left.image);
    images.into_iter().for_each(|image| ceph::remove_volume(world, image));
}

/// The cluster knows no pod that uses the volume, as the volume itself is gone from it. Its
/// attachment is left, which csi-attacher cannot end without the volume.
fn refused_for_a_container(space: &Space, left: &Left, volume: &str, image: &str) {
    let (world, node) = (space.world, space.world.node(NODES[0]));
    let text = scripts::try_teardown(world, &[]).expect_err("it is attached");
    let attached = format!("volume {volume} on {}", NODES[0]);
    assert!(text.contains(&attached) && text.contains(PURGE), "the attachment and what to do:\n{text}");
    println!("  the attachment is named");

    let text = scripts::try_teardown(world, &[PURGE]).expect_err("a container has it mounted");
    left.is_named(&text);
    left.is_gone(node);
    let image = format!("image {POOL}/{image}, in use by process ");
    assert!(text.contains(&image), "who uses it ({image}):\n{text}");
    assert!(text.contains("nothing else was removed"), "{text}");
    let attachments = space.kubectl.items(&["volumeattachments"]);
    assert!(attachments.is_empty(), "{attachments:?}");
    space.kubectl.get(&["-n", DRIVER_NAMESPACE, "daemonset/csi-rbdplugin"]);
    println!("  the residue is gone, and what a container uses is not");
}

/// A container that the cluster does not know: it has mounts of its own, and in them a volume.
struct Container {
    process: Running,
}

const ROOT: &str = "/run/e2e-container";

impl Container {
    fn start(node: &Node, mount: &str) -> Self {
        // As a container's, its mounts are its own alone.
        let line = format!(
            "mkdir -p {ROOT} && mount --bind {mount} {ROOT}
             for other in $(cut -d' ' -f5 /proc/self/mountinfo | grep ^/var/lib/kubelet | sort -r); do
                 umount -l $other
             done
             exec sleep 36000"
        );
        let process = node.spawn(&["unshare", "--mount", "--propagation", "private", "sh", "-ec", &line]);
        let container = Self { process };
        until("the container has its volume", PROMPTLY, || container.read(node).map(drop));
        container
    }

    /// What the pod before it wrote.
    fn read(&self, node: &Node) -> Result<String, String> {
        let line = format!("cat /proc/$(pgrep -f '[s]leep 36000')/root{ROOT}/ticks");
        let output = node.command(&["sh", "-ec", &line]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() && !text.is_empty() { Ok(text) } else { Err(format!("{output:?}")) }
    }

    fn has_it_still(&self, node: &Node) {
        self.read(node).unwrap_or_else(|text| panic!("the container has lost its volume: {text}"));
    }

    fn end(self, node: &Node) {
        drop(self.process);
        node.exec(&["rmdir", ROOT]);
    }
}

/// Where a node has an image mounted for all its pods.
fn mount_of(node: &Node, image: &str) -> String {
    node.shell(&format!(
        "for device in /sys/bus/rbd/devices/*; do
             [ $(cat $device/name) != {image} ] || grep \" $(cat $device/major):$(cat $device/minor) \" /proc/self/mountinfo
         done | cut -d' ' -f5 | grep globalmount"
    ))
}

/// The kubelet, started again, knows of no volume that no pod has any more; so the cluster
/// wants it detached.
fn forget(space: &Space, node: &Node) {
    space.world.lab.lab(&["kubelet-restart", &node.number]);
}

/// The images that a node has mapped.
fn mapped(node: &Node) -> String {
    node.shell("cat /sys/bus/rbd/devices/*/name || true")
}

/// Takes a claim and its volume away without asking anybody.
fn take_away(space: &Space, claim: &str, volume: &str) {
    let nothing = r#"{"metadata":{"finalizers":null}}"#;
    for object in [format!("pvc/{claim}"), format!("pv/{volume}")] {
        space.kubectl.run(&["delete", &object, "--wait=false"]);
        let patched = space.kubectl.try_run(&["patch", &object, "--type=merge", "-p", nothing]);
        assert!(patched.as_ref().err().is_none_or(|text| text.contains("NotFound")), "{patched:?}");
    }
    space.kubectl.wait(GONE, &["--for=delete", &format!("pv/{volume}")]);
}

/// A volume of ours: mapped, mounted and noted on a node, and known nowhere else.
struct Left {
    image: String,
    device: String,
    mount: String,
    folder: String,
}

impl Left {
    fn make(space: &Space, node: &Node) -> Self {
        let kubectl = &space.kubectl;
        space.apply(&[claim("left"), on(pod("leaver", "left"), NODES[0])]);
        let volume = space.bound("left", PROMPTLY);
        let image = space.image_of(&volume);
        space.ready("leaver");
        space.sh("leaver", &format!("echo kept >{DATA}/mark; sync"));
        let mount = mount_of(node, &image);
        let (folder, _) = mount.split_once("/globalmount").unwrap_or_else(|| panic!("one mount: {mount:?}"));
        let device = node.exec(&["findmnt", "-n", "-o", "SOURCE", &mount]);

        let holder = node.spawn(&["sh", "-c", &format!("cd {mount} && exec sleep 3600")]);
        let held = format!("readlink /proc/[0-9]*/cwd | grep -qxF {mount}");
        until("somebody is in the mount", POD, || {
            let seen = node.command(&["sh", "-c", &held]).status().unwrap();
            if seen.success() { Ok(()) } else { Err("nobody".into()) }
        });
        space.delete(&["pod/leaver"]);
        forget(space, node);
        until("the volume is detached", GONE, || {
            let left = kubectl.try_items(&["volumeattachments"])?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        drop(holder);
        take_away(space, "left", &volume);
        let folder = folder.to_owned();
        let left = Self { image, device, mount, folder };
        left.is_there(node);
        left
    }

    fn is_named(&self, text: &str) {
        let device = format!("device {}, image {POOL}/{}", self.device, self.image);
        for line in [format!("folder {}", self.folder), format!("mount  {}", self.mount), device] {
            let line = format!("{}: {line}", NODES[0]);
            assert!(text.lines().any(|said| said.trim() == line), "no line {line:?} in:\n{text}");
        }
    }

    fn is_there(&self, node: &Node) {
        node.shell(&format!(
            "test -e {0}/vol_data.json && test -e {0}/globalmount/image-meta.json",
            self.folder
        ));
        assert_eq!(node.shell(&format!("cat {}/mark", self.mount)), "kept");
    }

    fn is_gone(&self, node: &Node) {
        let (folder, number) = (&self.folder, self.device.trim_start_matches("/dev/rbd"));
        node.shell(&format!(
            "! test -e {folder} && ! grep -F {folder} /proc/self/mountinfo && ! test -e /sys/bus/rbd/devices/{number}"
        ));
    }
}

/// Another driver's volume, staged as ours are.
struct Foreign {
    image: &'static str,
    device: String,
    folder: &'static str,
}

impl Foreign {
    fn make(space: &Space, node: &Node) -> Self {
        let image = "e2e-of-another-driver";
        let folder = "/var/lib/kubelet/plugins/kubernetes.io/csi/another.example.com/0123";
        let (world, name) = (space.world, NODES[0]);
        space.if_it_fails(move || ceph::remove_image(world, &format!("{POOL}/{image}")));
        space.if_it_fails(move || {
            world.node(name).shell(&format!(
                "umount {folder}/globalmount/x || true; rm -rf --one-file-system $(dirname {folder})
                 for device in /sys/bus/rbd/devices/*; do
                     [ \"$(cat $device/name)\" != {image} ] || echo ${{device##*/}} >/sys/bus/rbd/remove_single_major
                 done"
            ));
        });
        ceph::make_image(space.world, &format!("{POOL}/{image}"), 16);
        let device = ceph::map(node, &format!("{POOL}/{image}"));
        node.shell(&format!(
            r#"mkdir -p {folder}/globalmount/x
               echo '{{"driverName":"another.example.com","volumeHandle":"x"}}' >{folder}/vol_data.json
               echo '{{"pool":"{POOL}","radosNamespace":"","image":"{image}"}}' >{folder}/globalmount/image-meta.json
               mount {device} {folder}/globalmount/x
               echo foreign >{folder}/globalmount/x/mark"#
        ));
        Self { image, device, folder }
    }

    fn is_there(&self, node: &Node) {
        let files = "vol_data.json globalmount/image-meta.json globalmount/x/mark";
        let text = node.shell(&format!("cd {} && ls {files} && cat globalmount/x/mark", self.folder));
        assert!(text.ends_with("foreign"), "{text}");
    }

    fn remove(&self, space: &Space, node: &Node) {
        let folder = self.folder;
        node.shell(&format!("umount {folder}/globalmount/x; rm -r {folder}; rmdir $(dirname {folder})"));
        ceph::unmap(node, &self.device);
        ceph::remove_image(space.world, &format!("{POOL}/{}", self.image));
    }
}

/// What the pod had written is in the image still.
fn read_in_ceph(node: &Node, image: &str) {
    let device = ceph::map(node, &format!("{POOL}/{image}"));
    let text = node.shell(&format!(
        "mkdir /tmp/read; mount {device} /tmp/read; cat /tmp/read/mark; umount /tmp/read; rmdir /tmp/read"
    ));
    ceph::unmap(node, &device);
    assert_eq!(text, "kept");
}
