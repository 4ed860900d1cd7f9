//! What config.json says of the way to a cluster, seen in the mapping that the kernel has.

use std::path::Path;

use serde_json::{Value, json};
use tonic::Code;

use super::process::{Plugin, file};
use super::support::inside::{run, variable};
use super::support::lonely::Lonely;
use super::volume::{Form, Volume};

/// The cluster `a` as config.json has it from now on.
fn configure(monitors: &str, rbd: &Value) {
    let config = json!([{"clusterID": "a", "monitors": [monitors], "rbd": rbd}]);
    std::fs::write(file("config.json"), config.to_string()).unwrap();
}

/// The line that the kernel was given, without the key.
fn map_line(volume: &Volume) -> String {
    let number = volume.mappings()[0].number;
    std::fs::read_to_string(format!("/sys/bus/rbd/devices/{number}/config_info")).unwrap()
}

/// The one monitor speaks both protocols; config.json names it by the second one's address.
#[test]
#[ignore = "runs inside a node"]
fn the_kernel_gets_the_addresses_of_the_monitor_map() {
    let (maker, plugin) = (Plugin::maker(), Plugin::node());
    let monitors = variable("LAB_MONITORS");
    let ip = monitors.strip_suffix(":6789").unwrap();
    let volume = maker.create("a", Form::Block, 8);
    configure(&format!("{ip}:3300"), &json!({}));
    let staged = |volume: &Volume| {
        plugin.stage(volume).unwrap();
        let line = map_line(volume);
        println!("{line}");
        plugin.unstage(volume).unwrap();
        volume.is_gone_at("staged with another address");
        line
    };
    let line = staged(&volume);
    assert!(line.starts_with(&format!("{ip}:6789 ")) && !line.contains("ms_mode"), "{line}");
    // A user who may not see the map: what config.json says is all that there is.
    plugin.arm(&format!("fail={}:before:mon dump", libc::EACCES));
    let line = staged(&volume);
    assert!(line.starts_with(&format!("{ip}:3300 ")) && line.contains("ms_mode=prefer-crc"), "{line}");
    assert!(plugin.log().contains("the monitors of config.json are used"));
    configure(&monitors, &json!({}));
    maker.delete(&volume);
}

#[test]
#[ignore = "runs inside a node"]
fn the_kernel_connects_in_the_configured_network_namespace() {
    let maker = Plugin::maker();
    let monitors = variable("LAB_MONITORS");
    let volume = maker.create("a", Form::Ext4, Form::Ext4.mib());
    let mut impatient = volume.clone();
    impatient.context.insert("mapOptions".into(), "mount_timeout=3".into());
    let own = "/run/plugin/own-network";
    run(&format!("touch {own}; mount --bind /proc/self/ns/net {own}"));
    for flags in [&["--nodeserver=true"][..], &["--nodeserver=true", "--map-with=rbd"]] {
        let plugin = Plugin::start("node", flags);
        let lonely = Lonely::new();
        let netns = lonely.path();
        for (netns, code, says) in [
            // The driver's own connection is not in there: only the kernel reaches nobody.
            (netns.to_str().unwrap(), Code::Unavailable, "the kernel would reach none of the monitors"),
            ("/run/plugin/missing", Code::FailedPrecondition, "netNamespaceFilePath"),
            ("/etc/hostname", Code::FailedPrecondition, "netNamespaceFilePath"),
        ] {
            configure(&monitors, &json!({"netNamespaceFilePath": netns}));
            let status = plugin.stage_within(&impatient, 30).unwrap_err();
            println!("{status}");
            assert!(status.code() == code && status.message().contains(says), "{netns}: {status}");
            assert!(status.message().contains(netns), "{netns}: {status}");
            volume.is_gone_at(netns);
        }
        drop(lonely);
        assert!(Path::new(own).exists());
        configure(&monitors, &json!({"netNamespaceFilePath": own}));
        plugin.stage(&volume).unwrap();
        volume.is_staged_once(own);
        plugin.unstage(&volume).unwrap();
        volume.is_gone_at(own);
    }
    run(&format!("umount {own}; rm {own}"));
    configure(&monitors, &json!({}));
    maker.delete(&volume);
}
