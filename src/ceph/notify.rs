//! What the clients that have an image open tell each other over its header.
//!
//! Lives here: sending a notification and gathering the answers, and the few messages of
//! `librbd/WatchNotifyTypes.h` that librbd and krbd both know. Not here: listening
//! (`image_lock`). What a reader gets wrong: a notification waits for the answers of *all*
//! watchers, and one of a client that died stays a watcher for half a minute.

use std::ptr::null_mut;
use std::time::Duration;

use super::encoding::{Decoded, Decoder, Encoder};
use super::error::{CephError, Result};
use super::ffi;
use super::image::ImageId;
use super::pool::Pool;
use super::read_op::owned;
use super::watchers::Watch;

/// librbd's `NOTIFY_TIMEOUT`, and how long a watcher has for its answer here.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// `NotifyMessage`'s version, as librbd 16.2 sends it; krbd reads an owner from 2 on.
const VERSION: u8 = 7;

/// The messages that are sent or understood (`NotifyOp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// The exclusive lock is free: whoever waits for it tries again.
    ReleasedLock,
    /// Somebody wants the exclusive lock.
    RequestLock(Watch),
    /// The header was changed: read it anew.
    HeaderUpdate,
}

impl Message {
    const RELEASED_LOCK: u32 = 1;
    const REQUEST_LOCK: u32 = 2;
    const HEADER_UPDATE: u32 = 3;

    fn encode(self) -> Vec<u8> {
        let contents = match self {
            // Of no client in particular: krbd ignores one of a client that it does not know as owner.
            Self::ReleasedLock => Encoder::default().u32(Self::RELEASED_LOCK).u64(0).u64(0),
            // Behind the client stands whether the owner may be forced: it may not.
            Self::RequestLock((client, cookie)) => {
                Encoder::default().u32(Self::REQUEST_LOCK).u64(client).u64(cookie).u8(0)
            }
            Self::HeaderUpdate => Encoder::default().u32(Self::HEADER_UPDATE),
        };
        Encoder::default().versioned(VERSION, 1, contents).finish()
    }

    /// `None` for a message that is not one of these.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut contents = Decoder::new(bytes).versioned().ok()?.contents;
        match contents.u32().ok()? {
            Self::RELEASED_LOCK => Some(Self::ReleasedLock),
            Self::REQUEST_LOCK => Some(Self::RequestLock((contents.u64().ok()?, contents.u64().ok()?))),
            Self::HEADER_UPDATE => Some(Self::HeaderUpdate),
            _ => None,
        }
    }
}

/// `ResponseMessage`: what the owner of a lock answers to who asks for it.
pub(super) fn response(code: i32) -> Vec<u8> {
    let code = Encoder::default().u32(u32::from_le_bytes(code.to_le_bytes()));
    Encoder::default().versioned(1, 1, code).finish()
}

/// A watcher's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Whose.
    pub watch: Watch,
    /// The code of its `ResponseMessage`; `None` when it answered with nothing, as all do who
    /// do not own the lock.
    pub code: Option<i32>,
}

impl Pool {
    /// Which of an image's watchers answer within that time (`rados_notify2`): a watch alone
    /// does not say that, since it outlives its client by half a minute. The notification is
    /// empty, which librbd and krbd take for a changed header: they read it anew, and answer.
    /// Two operations when somebody watches; ENOENT when there is no image.
    pub async fn who_answers(&self, id: &ImageId, limit: Duration) -> Result<Vec<Watch>> {
        let (answers, _) = self.notify(id, Vec::new(), limit).await?;
        Ok(answers.into_iter().map(|answer| answer.watch).collect())
    }

    /// Tells all who have the image open (librbd, krbd) that its header has changed, and waits
    /// until they have read it anew, or at least heard of it: ETIMEDOUT after 5 s, when one of them does not
    /// answer; the change is made all the same. Two operations when somebody does.
    pub async fn notify_header_update(&self, id: &ImageId) -> Result<()> {
        let (_, all) = self.tell(id, Message::HeaderUpdate).await?;
        if all { Ok(()) } else { Err(self.unanswered(id)) }
    }

    /// Somebody who has the image open did not answer in time.
    pub(super) fn unanswered(&self, id: &ImageId) -> CephError {
        CephError::new(OP, self.describe(&id.header_object()), libc::ETIMEDOUT)
    }

    /// Sends a message: the answers that came within 5 s, and whether those are all.
    pub(super) async fn tell(&self, id: &ImageId, message: Message) -> Result<(Vec<Answer>, bool)> {
        self.notify(id, message.encode(), ANSWER).await
    }

    async fn notify(&self, id: &ImageId, payload: Vec<u8>, limit: Duration) -> Result<(Vec<Answer>, bool)> {
        let object = id.header_object();
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let (context, name) = (self.context(), self.c_text(OP, &object)?);
        let ask = move |_| {
            let length = i32::try_from(payload.len()).unwrap_or(0);
            let (mut reply, mut reply_length) = (null_mut(), 0usize);
            // SAFETY: a live context, a C string, a payload of that length, room for the reply,
            // which is copied and freed.
            unsafe {
                let code = ffi::rados_notify2(
                    context.io(),
                    name.as_ptr(),
                    payload.as_ptr().cast(),
                    length,
                    limit,
                    &mut reply,
                    &mut reply_length,
                );
                let bytes = owned(reply, reply_length);
                if !reply.is_null() {
                    ffi::rados_buffer_free(reply);
                }
                // Somebody did not answer; who did stands in the reply.
                let late = code == -libc::ETIMEDOUT && !bytes.is_empty();
                (if late { 0 } else { code.into() }, (bytes, !late))
            }
        };
        let told = self.connection().blocking_notification(OP, self.describe(&object), ask).await;
        let (reply, all) = told?.1;
        let answers =
            answers(&reply).map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))?;
        Ok((answers, all))
    }
}

const OP: &str = "rados_notify2";

/// What the OSD gathered: (client, watch) and its answer, then those who gave none.
fn answers(reply: &[u8]) -> Decoded<Vec<Answer>> {
    let mut reply = Decoder::new(reply);
    let count = reply.u32()?;
    (0..count)
        .map(|_| {
            let watch = (reply.u64()?, reply.u64()?);
            let code =
                Decoder::new(reply.bytes()?).versioned().and_then(|mut message| message.contents.u32());
            Ok(Answer { watch, code: code.ok().map(|code| i32::from_le_bytes(code.to_le_bytes())) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_librbd_s() {
        assert_eq!(Message::HeaderUpdate.encode(), b"\x07\x01\x04\0\0\0\x03\0\0\0");
        let request = Message::RequestLock((4123, 94)).encode();
        let by_hand = b"\x07\x01\x15\0\0\0\x02\0\0\0\x1b\x10\0\0\0\0\0\0\x5e\0\0\0\0\0\0\0\0";
        assert_eq!(request, by_hand);
        for message in [Message::ReleasedLock, Message::RequestLock((1, 2)), Message::HeaderUpdate] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
        // A kernel's: no flag behind the client. Then one that asks its owner for a snapshot, and nothing.
        assert_eq!(
            Message::decode(b"\x02\x01\x14\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0"),
            Some(Message::RequestLock((1, 2)))
        );
        assert_eq!(Message::decode(b"\x07\x01\x04\0\0\0\x07\0\0\0"), None);
        assert_eq!(Message::decode(b""), None);
    }

    #[test]
    fn answers_tell_who_and_what() {
        let mut reply = Encoder::default().u32(3);
        for (client, bytes) in [(7, response(0)), (8, response(-libc::EROFS)), (9, Vec::new())] {
            reply = reply.u64(client).u64(1).bytes(&bytes);
        }
        // Behind them: two who did not answer.
        let reply = reply.u32(0).finish();
        let told: Vec<_> = answers(&reply).unwrap().into_iter().map(|answer| answer.code).collect();
        assert_eq!(told, [Some(0), Some(-libc::EROFS), None]);
        assert_eq!(answers(&reply[..9]), Err(super::super::encoding::Malformed));
    }
}
