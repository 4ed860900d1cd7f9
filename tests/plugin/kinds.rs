//! Images that have grown, mount flags with a label, kernels with a major number for each
//! device, and what another driver staged in a way that this one does not serve.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rbd_csi::csi::proto::volume_capability::AccessType;
use tonic::Code;

use super::process::Plugin;
use super::support::inside::run;
use super::support::lab::Running;
use super::volume::{Form, Volume, read, write};

const TEXT: &str = "written by a pod";
const LABEL: &str = "system_u:object_r:container_file_t:s0:c15,c25";

#[test]
#[ignore = "runs inside a node"]
fn a_file_system_grows_when_it_is_staged_again() {
    let (maker, mut plugin) = (Plugin::maker(), Plugin::node());
    for (form, mib, larger) in [(Form::Ext4, 64, 192), (Form::Xfs, 320, 448)] {
        let volume = maker.create("a", form, mib);
        plugin.stage(&volume).unwrap();
        write(&volume.entry(), TEXT);
        let before = plugin.total_bytes(&volume, &volume.entry()).unwrap();
        plugin.unstage(&volume).unwrap();
        run(&format!("rbd resize --no-progress -s {larger}M {}", volume.image));
        plugin.restart();
        plugin.stage(&volume).unwrap();
        let after = plugin.total_bytes(&volume, &volume.entry()).unwrap();
        let grown = (larger - mib) << 20;
        assert!(after > before + grown * 9 / 10 && after <= larger << 20, "{form:?}: {before} {after}");
        assert_eq!(read(&volume.entry(), TEXT.len()), TEXT);
        plugin.stage(&volume).unwrap();
        assert_eq!(plugin.total_bytes(&volume, &volume.entry()).unwrap(), after);
        plugin.unstage(&volume).unwrap();
        volume.is_gone_at("grown");
        maker.delete(&volume);
    }
}

/// Each call meets a driver that knows of nothing.
#[test]
#[ignore = "runs inside a node"]
fn each_call_is_another_drivers() {
    let (maker, mut plugin) = (Plugin::maker(), Plugin::node());
    for form in [Form::Ext4, Form::Xfs, Form::Block] {
        let volume = maker.create("a", form, form.mib());
        let (one, two) = (volume.target("one"), volume.target("two"));
        let mut call = |call: &dyn Fn(&Plugin)| {
            call(&plugin);
            plugin.restart();
        };
        for is_blank in [true, false] {
            call(&|plugin| plugin.stage(&volume).unwrap());
            call(&|plugin| plugin.stage(&volume).unwrap());
            volume.is_staged_once("staged twice");
            call(&|plugin| plugin.publish(&volume, &one).unwrap());
            call(&|plugin| plugin.publish(&volume, &two).unwrap());
            if is_blank {
                write(&one, TEXT);
            }
            assert_eq!(read(&two, TEXT.len()), TEXT, "{form:?}");
            call(&|plugin| assert!(plugin.total_bytes(&volume, &two).unwrap() > 0));
            call(&|plugin| assert_eq!(plugin.unstage(&volume).unwrap_err().code(), Code::FailedPrecondition));
            call(&|plugin| plugin.unpublish(&volume, &one).unwrap());
            call(&|plugin| plugin.unpublish(&volume, &two).unwrap());
            assert!(!one.exists() && !two.exists(), "{form:?}");
            volume.is_staged_once("unpublished");
            call(&|plugin| plugin.unstage(&volume).unwrap());
            call(&|plugin| plugin.unstage(&volume).unwrap());
            volume.is_gone_at("the end");
        }
        maker.delete(&volume);
    }
}

/// The only child of the driver that lives: its helper.
fn helper(plugin: &Plugin) -> u32 {
    run(&format!("cat /proc/{}/task/*/children", plugin.pid())).trim().parse().unwrap()
}

/// The calls of mount(2) by the helper, while `work` is done.
fn mounts_of(helper: u32, work: impl FnOnce()) -> String {
    let trace = "/run/plugin/mounts";
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-s", "400", "-e", "trace=mount", "-o", trace, "-p", &helper.to_string()]);
    let mut tracer = Running(strace.stdin(Stdio::null()).spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(20);
    while run(&format!("grep TracerPid /proc/{helper}/status")).ends_with("\t0") {
        assert!(tracer.0.try_wait().unwrap().is_none() && Instant::now() < until, "strace does not trace");
        std::thread::sleep(Duration::from_millis(50));
    }
    work();
    run(&format!("kill {}", tracer.0.id()));
    tracer.0.wait().unwrap();
    std::fs::read_to_string(trace).unwrap()
}

/// The lab's kernel has SELinux and no policy, so it knows the option and cannot obey it.
#[test]
#[ignore = "runs inside a node"]
fn a_label_with_a_comma_reaches_the_kernel_whole() {
    let (maker, plugin) = (Plugin::maker(), Plugin::node());
    let plain = maker.create("a", Form::Ext4, 32);
    plugin.stage(&plain).unwrap();
    plugin.unstage(&plain).unwrap();
    let mut labelled = plain.clone();
    if let Some(AccessType::Mount(mount)) = &mut labelled.capability.access_type {
        mount.mount_flags = vec!["noatime".into(), format!("context=\"{LABEL}\",discard")];
    }
    run("dmesg -C");
    let mut answer = None;
    let calls = mounts_of(helper(&plugin), || answer = Some(plugin.stage(&labelled)));
    println!("{calls}\n{answer:?}\n{}", run("dmesg"));
    let given = format!("\"ext4\", MS_NOATIME, \"context=\\\"{LABEL}\\\",discard\")");
    assert!(calls.contains(&given), "{given} is missing: {calls}");
    match answer.unwrap() {
        Ok(()) => {
            let mounted = run(&format!("grep ' {} ' /proc/self/mountinfo", labelled.entry().display()));
            assert!(mounted.contains(LABEL), "{mounted}");
            plugin.unstage(&labelled).unwrap();
        }
        Err(status) => {
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(
                status.message().contains("mount_flags") && !status.message().contains(LABEL),
                "{status}"
            );
            assert!(run("dmesg").contains("SELinux"), "it is SELinux that refuses the label");
        }
    }
    labelled.is_gone_at("labelled");
    maker.delete(&plain);
}

/// Mapped, used and unmapped; nothing is left.
fn lives(plugin: &Plugin, volume: &Volume) {
    plugin.stage(volume).unwrap();
    plugin.stage(volume).unwrap();
    let target = volume.target("one");
    plugin.publish(volume, &target).unwrap();
    write(&target, TEXT);
    assert_eq!(read(&target, TEXT.len()), TEXT);
    plugin.unpublish(volume, &target).unwrap();
    plugin.unstage(volume).unwrap();
    volume.is_gone_at("the end");
}

#[test]
#[ignore = "runs inside a node"]
fn a_kernel_that_gives_each_device_a_major_number() {
    let bus = Path::new("/sys/bus/rbd");
    run("! lsmod | grep -q '^rbd ' || modprobe -r rbd; modprobe rbd single_major=0");
    assert!(bus.join("add").exists() && !bus.join("add_single_major").exists());
    let maker = Plugin::maker();
    let volumes = [Form::Ext4, Form::Xfs, Form::Block].map(|form| maker.create("a", form, form.mib()));
    for flags in [&["--nodeserver=true"][..], &["--nodeserver=true", "--map-with=rbd"]] {
        let plugin = Plugin::start("node", flags);
        volumes.iter().for_each(|volume| lives(&plugin, volume));
    }
    volumes.iter().for_each(|volume| maker.delete(volume));
    run("modprobe -r rbd; modprobe rbd");
    assert!(bus.join("add_single_major").exists());
}

/// A stash as ceph-csi writes it: mapped with rbd-nbd, or encrypted.
#[test]
#[ignore = "runs inside a node"]
fn what_another_driver_staged_with_nbd_is_not_touched() {
    let (maker, plugin) = (Plugin::maker(), Plugin::node());
    for (nbd, encrypted) in [(true, false), (false, true)] {
        let volume = maker.create("a", Form::Ext4, 32);
        let stash = volume.staging.join("image-meta.json");
        let text = format!(
            r#"{{"Version":3,"pool":"rbd","radosNamespace":"","image":"{}","unmapOptions":"","accessType":{nbd},"encrypted":{encrypted},"device":"/dev/nbd0","logDir":"","logFileStrategy":""}}"#,
            volume.image
        );
        // Something is mounted there, as the other driver has it.
        let entry = volume.entry();
        run(&format!("mkdir {0}; mount -t tmpfs theirs {0}; echo theirs >{0}/file", entry.display()));
        std::fs::write(&stash, &text).unwrap();
        let target = volume.target("one");
        let answers = [plugin.stage(&volume), plugin.publish(&volume, &target), plugin.unstage(&volume)];
        for answer in answers {
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
            let said = if nbd { "is mapped with rbd-nbd" } else { "is encrypted" };
            assert!(status.message().contains(said), "{status}");
        }
        assert_eq!(std::fs::read_to_string(&stash).unwrap(), text);
        assert_eq!(read(&entry, 6), "theirs");
        assert!(volume.mappings().is_empty() && volume.mounts().len() == 1 && !target.exists());
        run(&format!("umount {}; rmdir {0}", entry.display()));
        std::fs::remove_file(&stash).unwrap();
        maker.delete(&volume);
    }
}
