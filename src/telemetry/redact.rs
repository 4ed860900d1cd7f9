//! A call's request, read by the messages' descriptor: which volume it is about,
//! and what may be shown of it.
//!
//! What a reader gets wrong: a field is secret because csi.proto marks it with
//! `csi_secret`, not because of its name, so a field that a later CSI adds is
//! blanked without a change here. `mount_flags` has no mark, but the
//! specification says that it may be sensitive.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, MapKey, MessageDescriptor, Value,
};
use serde_json::Value as Json;

use crate::csi::proto::DESCRIPTOR;

/// What stands for something that is not shown.
const BLANK: &str = "***";
/// CSI's mark: `extend google.protobuf.FieldOptions { bool csi_secret = 1059; }`.
const SECRET: u32 = 1059;
/// The end of the context key under which the kubelet passes tokens when a CSIDriver
/// asks for them (`tokenRequests`): no field of CSI's, so nothing marks it.
const TOKENS: &str = "serviceAccount.tokens";
/// A name or a handle has at most 128 bytes; what is longer is refused and not worth more.
const SUBJECT_SHOWN: usize = 256;
/// Fields that say which volume or snapshot a call is about, the best first.
const SUBJECTS: [&str; 3] = ["volume_id", "snapshot_id", "name"];

struct Methods {
    by_path: HashMap<String, Method>,
    secret: Option<ExtensionDescriptor>,
}

/// A method of CSI.
#[derive(Debug)]
pub struct Method {
    /// Its name, without the service's.
    pub name: String,
    input: MessageDescriptor,
    subject: Option<u32>,
}

static METHODS: LazyLock<Methods> = LazyLock::new(|| {
    // The descriptor is part of the program; a test reads it.
    let pool = DescriptorPool::decode(DESCRIPTOR).unwrap_or_default();
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let by_path = methods.map(|method| {
        let input = method.input();
        let subject =
            SUBJECTS.iter().find_map(|name| input.get_field_by_name(name)).map(|field| field.number());
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        (path, Method { name: method.name().to_owned(), input, subject })
    });
    let by_path = by_path.collect();
    let options = pool.get_message_by_name("google.protobuf.FieldOptions");
    Methods { by_path, secret: options.and_then(|options| options.get_extension(SECRET)) }
});

/// The method of a call's path: `/csi.v1.Controller/CreateVolume`.
pub fn method(path: &str) -> Option<&'static Method> {
    METHODS.by_path.get(path)
}

impl Method {
    /// The volume or snapshot that a request names. Nothing else of it is read.
    pub fn subject(&self, mut request: &[u8]) -> Option<String> {
        let wanted = self.subject?;
        while !request.is_empty() {
            let (field, wire) = decode_key(&mut request).ok()?;
            if field == wanted && wire == WireType::LengthDelimited {
                let length = usize::try_from(decode_varint(&mut request).ok()?).ok()?;
                let text = request.get(..length)?;
                return Some(String::from_utf8_lossy(&text[..length.min(SUBJECT_SHOWN)]).into_owned());
            }
            skip_field(wire, field, &mut request, DecodeContext::default()).ok()?;
        }
        None
    }

    /// A request as JSON, secrets blanked.
    pub fn show(&self, request: &[u8]) -> String {
        match DynamicMessage::decode(self.input.clone(), request) {
            Ok(message) => shown(&message).to_string(),
            // The error's text quotes nothing of the message, but says little either.
            Err(_) => "not a message of this method".to_owned(),
        }
    }
}

fn shown(message: &DynamicMessage) -> Json {
    let fields = message.fields().map(|(field, value)| {
        let value = if is_secret(&field) { blanked(value) } else { json(value, &field) };
        (field.name().to_owned(), value)
    });
    Json::Object(fields.collect())
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let marked = match &METHODS.secret {
        Some(mark) => field.options().get_extension(mark).as_bool() == Some(true),
        // Without the mark nothing is known to be harmless.
        None => true,
    };
    marked || field.name() == "mount_flags"
}

/// The names of secrets are shown, which helps to find a missing one.
fn blanked(value: &Value) -> Json {
    match value {
        Value::Map(entries) => entries.keys().map(|key| (name(key), Json::from(BLANK))).collect(),
        _ => BLANK.into(),
    }
}

fn json(value: &Value, field: &FieldDescriptor) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::I64(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        Value::U64(value) => (*value).into(),
        Value::F32(value) => (*value).into(),
        Value::F64(value) => (*value).into(),
        Value::String(value) => value.as_str().into(),
        Value::Bytes(value) => format!("{} bytes", value.len()).into(),
        Value::EnumNumber(number) => match field.kind().as_enum().and_then(|kind| kind.get_value(*number)) {
            Some(value) => value.name().into(),
            None => (*number).into(),
        },
        Value::Message(message) => shown(message),
        Value::List(values) => values.iter().map(|value| json(value, field)).collect(),
        Value::Map(entries) => entries.iter().map(|(key, value)| entry(name(key), value, field)).collect(),
    }
}

fn entry(key: String, value: &Value, field: &FieldDescriptor) -> (String, Json) {
    let value = if key.ends_with(TOKENS) { BLANK.into() } else { json(value, field) };
    (key, value)
}

fn name(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::csi::proto;

    fn stage() -> Vec<u8> {
        let mount = proto::volume_capability::MountVolume {
            fs_type: "ext4".into(),
            mount_flags: vec!["context=canary-flag".into()],
            ..Default::default()
        };
        let capability = proto::VolumeCapability {
            access_mode: Some(proto::volume_capability::AccessMode { mode: 1 }),
            access_type: Some(proto::volume_capability::AccessType::Mount(mount)),
        };
        let request = proto::NodeStageVolumeRequest {
            volume_id: "0001-vol".into(),
            volume_capability: Some(capability),
            secrets: [("userKey".to_owned(), "canary-key".to_owned())].into(),
            volume_context: [
                ("pool".to_owned(), "rbd".to_owned()),
                ("csi.storage.k8s.io/serviceAccount.tokens".to_owned(), "canary-token".to_owned()),
            ]
            .into(),
            ..Default::default()
        };
        request.encode_to_vec()
    }

    #[test]
    fn what_is_marked_is_blanked_and_the_rest_is_shown() {
        let method = method("/csi.v1.Node/NodeStageVolume").unwrap();
        let text = method.show(&stage());
        assert!(!text.contains("canary"), "{text}");
        for word in [
            r#""userKey":"***""#,
            r#""pool":"rbd""#,
            "SINGLE_NODE_WRITER",
            "0001-vol",
            r#""mount_flags":"***""#,
        ] {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert_eq!(method.show(&[0xff, 0xff]), "not a message of this method");
    }

    #[test]
    fn the_mark_is_known_and_some_field_of_each_service_with_secrets_has_it() {
        assert!(METHODS.secret.is_some());
        for path in [
            "/csi.v1.Controller/CreateVolume",
            "/csi.v1.Controller/DeleteVolume",
            "/csi.v1.Node/NodeStageVolume",
        ] {
            let field = method(path).unwrap().input.get_field_by_name("secrets").unwrap();
            assert!(is_secret(&field), "{path}");
        }
        let field =
            method("/csi.v1.Controller/CreateVolume").unwrap().input.get_field_by_name("parameters").unwrap();
        assert!(!is_secret(&field));
    }

    #[test]
    fn the_subject_is_the_id_or_else_the_name() {
        assert_eq!(
            method("/csi.v1.Node/NodeStageVolume").unwrap().subject(&stage()).as_deref(),
            Some("0001-vol")
        );
        let create = proto::CreateVolumeRequest { name: "pvc-1".into(), ..Default::default() };
        let method = method("/csi.v1.Controller/CreateVolume").unwrap();
        assert_eq!(method.subject(&create.encode_to_vec()).as_deref(), Some("pvc-1"));
        assert_eq!(method.subject(&[0x0a, 0x7f, 1]), None);
        let endless = proto::CreateVolumeRequest { name: "x".repeat(5000), ..Default::default() };
        assert_eq!(method.subject(&endless.encode_to_vec()).map(|text| text.len()), Some(SUBJECT_SHOWN));
    }
}
