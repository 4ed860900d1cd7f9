//! What the name of an image of this driver or of ceph-csi says: a prefix, and the uuid that its
//! handle has. What stands beside a volume that was cloned from another is named as that volume's
//! image, with `-temp` behind.

use uuid::Uuid;

const BESIDE: &str = "-temp";
/// Characters of a uuid.
const UUID: usize = 36;

/// The name of what stands beside a volume with this image.
pub fn beside(image: &str) -> String {
    format!("{image}{BESIDE}")
}

/// The image of the volume that an image of this name stands beside, if it does.
pub fn beside_which(name: &str) -> Option<&str> {
    name.strip_suffix(BESIDE)
}

/// The name of the volume or snapshot that an image of this name belongs to.
pub fn belongs_to(name: &str) -> &str {
    beside_which(name).unwrap_or(name)
}

/// The uuid that a name ends with.
pub fn uuid_of(name: &str) -> Option<Uuid> {
    parts(name).map(|(_, uuid)| uuid)
}

/// What is in front of the uuid of what an image of this name belongs to.
pub fn prefix_of(name: &str) -> Option<String> {
    parts(belongs_to(name)).map(|(prefix, _)| prefix.to_owned())
}

fn parts(name: &str) -> Option<(&str, Uuid)> {
    let (prefix, uuid) = name.split_at_checked(name.len().checked_sub(UUID)?)?;
    Some((prefix, Uuid::try_parse(uuid).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_by_the_end_of_its_images_name() {
        let uuid = "b0285c97-a0ce-11eb-8c66-0242ac110002";
        assert_eq!(uuid_of(&format!("csi-vol-{uuid}")).unwrap().to_string(), uuid);
        assert_eq!(uuid_of(uuid).unwrap().to_string(), uuid);
        for none in ["", "image", "ü2345678901234567890123456789012345678", &format!("csi-vol-{uuid}-temp")]
        {
            assert_eq!(uuid_of(none), None, "{none}");
        }
    }
}
