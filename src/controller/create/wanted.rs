//! What a CreateVolume asks for, checked.

use super::content::Content;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::parameters::Parameters;
use crate::volume::size::CapacityRange;

/// What CreateVolume asks for, checked.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The CO's name.
    pub name: String,
    /// The sizes that will do.
    pub capacity: CapacityRange,
    /// What it is made of.
    pub content: Content,
    /// What the StorageClass says.
    pub parameters: Parameters,
    /// `--clustername`, written onto the image.
    pub cluster_name: Option<String>,
}

impl Wanted {
    /// The size for a new image: what is asked for, and room for the content.
    ///
    /// # Errors
    /// [`Kind::OutOfRange`] when no size will do.
    pub fn size(&self) -> Result<u64> {
        let content = self.content.size();
        let Some(origin) = self.content.origin() else { return self.capacity.size() };
        let CapacityRange { required, limit } = self.capacity;
        // A request without a size gets one of the source's; a smaller one is a mistake.
        let too_small = (required != 0 && required < content) || (limit != 0 && limit < content);
        if too_small {
            let text = format!(
                "{origin} has {content} bytes, and a volume of it cannot have {required} to {limit} (0: any): ask \
                 for as many at least"
            );
            return Err(Error::new(Kind::OutOfRange, text));
        }
        if required == 0 || required == content {
            return Ok(content);
        }
        self.capacity.size()
    }
}
