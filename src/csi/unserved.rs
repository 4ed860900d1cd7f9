//! The answer to a call that this version does not serve.

use tonic::Status;

/// UNIMPLEMENTED, with the call and where to see what there is.
pub(super) fn unserved<T>(rpc: &str, capabilities: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{rpc} is not served by this version of the driver; {capabilities} lists what is"
    )))
}
