//! Our `proto/` against the published files: every message, field, enum, service and
//! option, by name, number, type and label.
//!
//! `make conformance` runs it: CSI_SPEC_DIRS names the folders of the published
//! releases of CSI, 1.12.0 first, then 1.13.0, and PLUGIN_REGISTRATION_DIR that of the
//! kubelet's registration. Without them there is nothing to compare with, hence `ignore`.
//!
//! What a reader gets wrong: the lists of differences are exact. One that is gone
//! from the descriptors fails as one that is new does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test reports and fails so"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind,
    MessageDescriptor, ServiceDescriptor,
};

/// What 1.13 removed from 1.12 and we keep for older consumers.
const KEPT: &[&str] = &[
    "enum value csi.v1.ControllerServiceCapability.RPC.Type.VOLUME_CONDITION",
    "enum value csi.v1.NodeServiceCapability.RPC.Type.VOLUME_CONDITION",
    "field csi.v1.ControllerGetVolumeResponse.VolumeStatus.volume_condition",
    "field csi.v1.ListVolumesResponse.VolumeStatus.volume_condition",
    "field csi.v1.NodeGetVolumeStatsResponse.volume_condition",
    "field csi.v1.VolumeCondition.abnormal",
    "field csi.v1.VolumeCondition.message",
    "message csi.v1.VolumeCondition",
];

/// Where 1.13 is newer than 1.12: what belongs to these, and nothing else.
const SINCE_1_13: &[&str] = &[
    "enum csi.v1.StorageHealthErrorType",
    "enum csi.v1.VolumeHealthErrorType",
    "enum value csi.v1.ControllerServiceCapability.RPC.Type.GET_VOLUME_HEALTH",
    "enum value csi.v1.ControllerServiceCapability.RPC.Type.LIST_VOLUME_HEALTH",
    "enum value csi.v1.NodeServiceCapability.RPC.Type.GET_STORAGE_HEALTH",
    "enum value csi.v1.NodeServiceCapability.RPC.Type.GET_VOLUME_HEALTH",
    "enum value csi.v1.PluginCapability.Service.Type.SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
    "field csi.v1.CreateSnapshotRequest.accessibility_requirements",
    "field csi.v1.Snapshot.accessible_topology",
    "message csi.v1.ControllerGetVolumeHealthRequest",
    "message csi.v1.ControllerGetVolumeHealthResponse",
    "message csi.v1.ControllerListVolumeHealthRequest",
    "message csi.v1.ControllerListVolumeHealthResponse",
    "message csi.v1.NodeGetStorageHealthRequest",
    "message csi.v1.NodeGetStorageHealthResponse",
    "message csi.v1.NodeGetVolumeHealthRequest",
    "message csi.v1.NodeGetVolumeHealthResponse",
    "message csi.v1.VolumeHealth",
    "rpc csi.v1.Controller.ControllerGetVolumeHealth",
    "rpc csi.v1.Controller.ControllerListVolumeHealth",
    "rpc csi.v1.Node.NodeGetStorageHealth",
    "rpc csi.v1.Node.NodeGetVolumeHealth",
];

/// Every item of a file with all that describes it.
type Items = BTreeMap<String, String>;

#[test]
#[ignore = "needs the published csi.proto: make conformance"]
fn differs_from_the_published_files_only_as_listed() {
    let ours = items("csi.v1", rbd_csi::csi::proto::DESCRIPTOR);
    let dirs = std::env::var_os("CSI_SPEC_DIRS").expect("CSI_SPEC_DIRS: the folders of 1.12.0 and 1.13.0");
    let dirs: Vec<PathBuf> = std::env::split_paths(&dirs).collect();
    let [old, new] = dirs.as_slice() else { panic!("CSI_SPEC_DIRS names {} folders, not 2", dirs.len()) };

    let mut wrong = compare("1.13.0", &published(new), &ours, KEPT);
    let since: Vec<&str> = ours.keys().map(String::as_str).filter(|item| newer(item)).collect();
    wrong.extend(compare("1.12.0", &published(old), &ours, &since));
    let unknown = SINCE_1_13.iter().filter(|item| !ours.contains_key(**item));
    wrong.extend(unknown.map(|item| format!("1.13.0 is said to have added {item}, which we lack")));
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    println!("{} items are as in CSI 1.13.0 and 1.12.0, but for {} kept from 1.12", ours.len(), KEPT.len());
}

#[test]
#[ignore = "needs the published api.proto: make conformance"]
fn the_registration_is_as_the_kubelet_has_it() {
    const PACKAGE: &str = "pluginregistration";
    let dir = std::env::var_os("PLUGIN_REGISTRATION_DIR").expect("PLUGIN_REGISTRATION_DIR: of api.proto");
    let ours = items(PACKAGE, rbd_csi::registration::proto::DESCRIPTOR);
    let theirs = items(PACKAGE, &compiled(Path::new(&dir), "api.proto"));
    let wrong = compare("the kubelet", &theirs, &ours, &[]);
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    println!("{} items are as in the kubelet's plugin registration", ours.len());
}

/// Whether an item is one that 1.13 added, or a part of one.
fn newer(item: &str) -> bool {
    let Some((_, name)) = item.rsplit_once(' ') else { return false };
    SINCE_1_13.iter().any(|added| {
        let Some((_, whole)) = added.rsplit_once(' ') else { return false };
        *added == item || name.strip_prefix(whole).is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The differences that are not expected, and the expected ones that are not there.
fn compare(version: &str, published: &Items, ours: &Items, only_ours: &[&str]) -> Vec<String> {
    let expected: BTreeSet<&str> = only_ours.iter().copied().collect();
    let mut found = Vec::new();
    for (item, description) in published {
        match ours.get(item) {
            None => found.push(format!("{version} has {item}: {description}; we do not")),
            Some(other) if other != description => {
                found.push(format!("{version} has {item}: {description}; we have {other}"));
            }
            Some(_) if expected.contains(item.as_str()) => {
                found.push(format!("{version} has {item}, which the test expects to be ours alone"));
            }
            Some(_) => {}
        }
    }
    let extra = ours.keys().filter(|item| !published.contains_key(*item));
    found.extend(
        extra
            .filter(|item| !expected.contains(item.as_str()))
            .map(|item| format!("{version} lacks {item}; we have {}", ours[item])),
    );
    let gone = expected.iter().filter(|item| !ours.contains_key(**item));
    found.extend(gone.map(|item| format!("{item} should be kept; we lack it")));
    found
}

fn published(dir: &Path) -> Items {
    items("csi.v1", &compiled(dir, "csi.proto"))
}

fn compiled(dir: &Path, file: &str) -> Vec<u8> {
    let mut compiler = protox::Compiler::new([dir]).expect("a folder");
    compiler.include_imports(true).open_file(file).expect("a file that compiles");
    compiler.encode_file_descriptor_set()
}

fn items(package: &str, descriptor: &[u8]) -> Items {
    let pool = DescriptorPool::decode(descriptor).unwrap();
    let file: FileDescriptor = pool.files().find(|file| file.package_name() == package).expect("the package");
    let mut items = Items::new();
    items.insert("file".into(), format!("{:?} {}", file.syntax(), options(&file.options())));
    for extension in file.extensions() {
        let kind = extension.kind();
        let of = extension.containing_message().full_name().to_owned();
        let text = format!("{} {of} {}", extension.number(), kind_name(&kind));
        items.insert(format!("extension {}", extension.full_name()), text);
    }
    file.messages().for_each(|message| add_message(&mut items, &message));
    file.enums().for_each(|enumeration| add_enum(&mut items, &enumeration));
    file.services().for_each(|service| add_service(&mut items, &service));
    items
}

fn add_message(items: &mut Items, message: &MessageDescriptor) {
    items.insert(format!("message {}", message.full_name()), options(&message.options()));
    for field in message.fields() {
        items.insert(format!("field {}", field.full_name()), describe(&field));
    }
    message.child_messages().for_each(|child| add_message(items, &child));
    message.child_enums().for_each(|child| add_enum(items, &child));
}

fn describe(field: &FieldDescriptor) -> String {
    let label = match field.cardinality() {
        Cardinality::Optional => "single",
        Cardinality::Required => "required",
        Cardinality::Repeated => "repeated",
    };
    let oneof = field.containing_oneof().map(|oneof| format!(" oneof {}", oneof.name())).unwrap_or_default();
    let presence = if field.supports_presence() { " presence" } else { "" };
    format!(
        "{} {label}{presence} {}{oneof} json {} {}",
        field.number(),
        kind_name(&field.kind()),
        field.json_name(),
        options(&field.options())
    )
}

fn add_enum(items: &mut Items, enumeration: &EnumDescriptor) {
    items.insert(format!("enum {}", enumeration.full_name()), options(&enumeration.options()));
    for value in enumeration.values() {
        // A value's full name is its enum's sibling; ours says which enum it is of.
        let name = format!("enum value {}.{}", enumeration.full_name(), value.name());
        items.insert(name, format!("{} {}", value.number(), options(&value.options())));
    }
}

fn add_service(items: &mut Items, service: &ServiceDescriptor) {
    items.insert(format!("service {}", service.full_name()), options(&service.options()));
    for method in service.methods() {
        let text = format!(
            "{}{} -> {}{} {}",
            if method.is_client_streaming() { "stream " } else { "" },
            method.input().full_name(),
            if method.is_server_streaming() { "stream " } else { "" },
            method.output().full_name(),
            options(&method.options())
        );
        items.insert(format!("rpc {}", method.full_name()), text);
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(enumeration) => enumeration.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    }
}

/// The options that are set, those of CSI (extensions) among them.
fn options(options: &DynamicMessage) -> String {
    let own = options.fields().map(|(field, value)| format!("{}={value:?}", field.name()));
    let extensions = options.extensions().map(|(field, value)| format!("{}={value:?}", field.name()));
    let set: BTreeSet<String> = own.chain(extensions).collect();
    format!("[{}]", set.into_iter().collect::<Vec<_>>().join(", "))
}
