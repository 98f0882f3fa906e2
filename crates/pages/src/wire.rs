//! The protocol between hub and agents: frames over a Unix stream socket, both on one host.
//!
//! A frame is a header (body length u32, kind u32, sequence number u64; native byte order) and a
//! body. Bodies are arrays of the structs below, or UTF-8 text. A descriptor travels with the first
//! byte of the frame it belongs to, and such a frame is a message of its own.

use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;

/// The version of the protocol, raised whenever a frame changes its meaning; both sides refuse
/// another version.
pub const VERSION: u32 = 5;

/// The longest body, in bytes: a plan of 16 million runs is split long before that.
pub const MOST_BODY: usize = 64 << 20;

/// The size of a header, in bytes.
pub const HEADER: usize = 16;

/// The largest number of descriptors that may wait for their frames.
const MOST_DESCRIPTORS: usize = 64;

/// Kinds of frames.
pub mod kind {
    /// Agent: greeting (`Hello`, then text: the name of its domain, which may be empty, a NUL, and
    /// the reason for the barrier).
    pub const HELLO: u32 = 1;
    /// Agent: all its regions (`Region`s); the answer to `LIST`.
    pub const REGIONS: u32 = 2;
    /// Agent: a request to merge at once pages that no thread writes (`Intern`).
    pub const INTERN: u32 = 3;
    /// Agent: the result of a `MERGE` (`Merged`, then one bit for each planned page, in order).
    pub const MERGED: u32 = 4;
    /// Agent, to a new hub: a slab that the agent maps (with its descriptor; no body).
    pub const HANDBACK: u32 = 5;
    /// Agent: why background merging is held back now (text; empty if it is not).
    pub const NOTE: u32 = 6;
    /// Hub: welcome (`Hello`, whose barrier is 0).
    pub const WELCOME: u32 = 17;
    /// Hub: a request for the agent's regions.
    pub const LIST: u32 = 18;
    /// Hub: a slab that a later `MERGE` names (with its descriptor; no body).
    pub const SLAB: u32 = 19;
    /// Hub: merge (`Run`s); with the sequence number of an `INTERN`, its answer.
    pub const MERGE: u32 = 20;
    /// Hub: slabs that no client shares any more (ids, u64), which the agent has to close.
    pub const DROP: u32 = 21;
    /// Hub: an `INTERN` that cannot be done (text).
    pub const REFUSED: u32 = 22;
    /// Hub: what merging saves the client (`Saved`).
    pub const SAVED: u32 = 23;
    /// A viewer: a request for the hub's counters.
    pub const STATUS: u32 = 33;
    /// Hub: the counters, as JSON text.
    pub const COUNTERS: u32 = 34;
}

/// Instead of a slab's id: pages that have to leave the slab under them and keep their contents.
pub const OWN: u64 = u64::MAX;

/// Instead of a slab's id: whole blocks of 2 MiB, with the contents that they have, that have to
/// become huge pages. A plan that names such blocks names nothing else.
pub const WHOLE: u64 = u64::MAX - 1;

/// What a client says of a region.
pub mod mark {
    /// It would have huge pages without us, as far as it has room for them.
    pub const HUGE: u64 = 1;
    /// Nothing may be merged there now.
    pub const CLOSED: u64 = 2;
    /// Some of its pages are mapped from slabs.
    pub const SLABBED: u64 = 4;
}

/// Barriers by number, as `Hello` carries them.
pub mod barrier {
    /// No background merging: only what is merged at birth, or interned.
    pub const INTERN: u32 = 0;
    /// UFFDIO_MOVE.
    pub const MOVE: u32 = 1;
    /// UFFDIO_WRITEPROTECT.
    pub const WRITE_PROTECT: u32 = 2;
    /// All threads stopped.
    pub const PARK: u32 = 3;
    /// Each barrier and its name, the best first.
    pub const NAMES: [(u32, &str); 4] =
        [(MOVE, "move"), (WRITE_PROTECT, "write-protect"), (PARK, "park"), (INTERN, "intern")];
}

/// A struct of integers without padding, so that its bytes are its wire form.
///
/// # Safety
/// Only for `repr(C)` structs of unsigned integers that have no padding.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }
        // SAFETY: integers only; the assertion rules out padding.
        unsafe impl Plain for $name {}
        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())+);
    };
}

plain! {
    /// The first frame of either side.
    Hello {
        /// `VERSION`.
        version: u32,
        /// One of `barrier`.
        barrier: u32,
    }
}

plain! {
    /// A mergeable range of the client.
    Region {
        /// Never used twice by one client: other memory may have the same address later.
        id: u64,
        /// The address of its first page.
        start: u64,
        /// The number of its pages.
        pages: u64,
        /// Of `mark`, those that hold.
        marks: u64,
        /// How many times pages of it have left slabs without a plan: the program gave them up, or
        /// had to have its own memory there.
        left: u64,
    }
}

plain! {
    /// Pages to be merged at once.
    Intern {
        /// Where the contents are; any address.
        source: u64,
        /// Where the merged pages go; page-aligned, in a region of the client.
        target: u64,
        /// The number of pages.
        pages: u64,
        /// The id of the region that holds the target: the hub may know another one at that
        /// address.
        region: u64,
    }
}

plain! {
    /// Consecutive pages that have to map consecutive slots, or to read as zero.
    Run {
        /// The address of the first page, in the client.
        address: u64,
        /// The slab's id (its inode number), 0 for zero pages, `OWN`, or `WHOLE`.
        slab: u64,
        /// The first slot.
        slot: u32,
        /// The number of pages.
        pages: u32,
    }
}

plain! {
    /// Pages of a plan that were left alone, by reason.
    Merged {
        /// Their bytes were not those of the slot.
        differed: u64,
        /// They are pinned, or shared with a fork child.
        busy: u64,
        /// They went away.
        vanished: u64,
        /// The kernel refused a mapping (vm.max_map_count).
        unmapped: u64,
        /// No barrier could be raised, or the memory is not a region (any more).
        refused: u64,
        /// The client does not want them merged.
        unwanted: u64,
    }
}

plain! {
    /// What merging saves a client.
    Saved {
        /// Bytes of the client that are merged now.
        merged: u64,
        /// The bytes that this saves; of memory that several processes share, a part for each.
        saved: u64,
    }
}

/// The bytes of some values.
pub fn bytes_of<T: Plain>(values: &[T]) -> &[u8] {
    // SAFETY: Plain has no padding, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The values of some bytes.
///
/// # Errors
/// `Protocol` if the length does not fit.
pub fn values_of<T: Plain>(bytes: &[u8]) -> Result<Vec<T>> {
    if bytes.len() % size_of::<T>() != 0 {
        return Err(Error::Protocol(format!("a body of {} bytes does not fit", bytes.len())));
    }
    let read = |chunk: &[u8]| {
        // SAFETY: Plain takes any bits, and the chunk has its size.
        unsafe { chunk.as_ptr().cast::<T>().read_unaligned() }
    };
    Ok(bytes.chunks_exact(size_of::<T>()).map(read).collect())
}

/// A frame that has arrived.
#[derive(Debug)]
pub struct Frame {
    /// One of `kind`.
    pub kind: u32,
    /// Ties an answer to its request.
    pub sequence: u64,
    /// The body.
    pub body: Vec<u8>,
}

/// The agent's end of a connection; it blocks on sending and never on receiving.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    /// In the order of their frames; None if one came for which we had no room (RLIMIT_NOFILE).
    descriptors: VecDeque<Option<OwnedFd>>,
}

impl Connection {
    /// Wrap a connected socket.
    #[must_use]
    pub const fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), descriptors: VecDeque::new() }
    }

    /// Send one frame, with a descriptor if it carries one.
    ///
    /// # Errors
    /// `Hub` when the other side has gone.
    pub fn send(
        &mut self,
        kind: u32,
        sequence: u64,
        body: &[&[u8]],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let length: usize = body.iter().map(|part| part.len()).sum();
        let mut frame = Vec::with_capacity(HEADER + length);
        frame.extend_from_slice(&(length as u32).to_ne_bytes());
        frame.extend_from_slice(&kind.to_ne_bytes());
        frame.extend_from_slice(&sequence.to_ne_bytes());
        body.iter().for_each(|part| frame.extend_from_slice(part));
        let mut sent = 0;
        while sent < frame.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let rights = descriptor.as_slice();
            if sent == 0 && !rights.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(rights));
            }
            let parts = [IoSlice::new(&frame[sent..])];
            match sendmsg(&self.stream, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(gone(errno)),
            }
        }
        Ok(())
    }

    /// Read what has arrived.
    ///
    /// # Errors
    /// `Hub` when the other side has gone, `Protocol` if it sends descriptors that were not asked
    /// for.
    pub fn receive(&mut self) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = vec![0_u8; 256 << 10];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut chunk)];
        let message = match recvmsg(&self.stream, &mut parts, &mut ancillary, flags) {
            Ok(message) => message,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(errno) => return Err(gone(errno)),
        };
        for part in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = part {
                self.descriptors.extend(descriptors.map(Some));
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            self.descriptors.push_back(None);
        }
        if self.descriptors.len() > MOST_DESCRIPTORS {
            return Err(Error::Protocol("more descriptors than announced".into()));
        }
        if message.bytes == 0 {
            return Err(Error::Hub("the hub has ended".into()));
        }
        self.received.extend_from_slice(&chunk[..message.bytes]);
        Ok(())
    }

    /// The next whole frame that has arrived, if there is one.
    ///
    /// # Errors
    /// `Protocol` if it is longer than any frame can be.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        let Some(header) = self.received.first_chunk::<HEADER>() else { return Ok(None) };
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let length = word(0) as usize;
        if length > MOST_BODY {
            return Err(Error::Protocol(format!("a frame of {length} bytes")));
        }
        if self.received.len() < HEADER + length {
            return Ok(None);
        }
        let kind = word(4);
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&header[8..]);
        let body = self.received[HEADER..HEADER + length].to_vec();
        self.received.drain(..HEADER + length);
        Ok(Some(Frame { kind, sequence: u64::from_ne_bytes(sequence), body }))
    }

    /// Take the descriptor that came with a frame; None if this process could not open one more.
    ///
    /// # Errors
    /// `Protocol` if none came.
    pub fn take_descriptor(&mut self) -> Result<Option<OwnedFd>> {
        self.descriptors
            .pop_front()
            .ok_or_else(|| Error::Protocol("a frame lacks its descriptor".into()))
    }

    /// The socket, to wait on.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn gone(errno: rustix::io::Errno) -> Error {
    Error::Hub(format!("the connection to the hub broke: {errno}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_socket_with_their_descriptors() {
        let (left, right) = UnixStream::pair().unwrap();
        let (mut left, mut right) = (Connection::new(left), Connection::new(right));
        let runs = [Run { address: 4096, slab: 7, slot: 3, pages: 9 }];
        let pipe = rustix::pipe::pipe().unwrap();
        left.send(kind::SLAB, 1, &[], Some(pipe.1.as_fd())).unwrap();
        left.send(kind::MERGE, 2, &[bytes_of(&runs)], None).unwrap();
        let mut frames = Vec::new();
        while frames.len() < 2 {
            right.receive().unwrap();
            while let Some(frame) = right.next_frame().unwrap() {
                frames.push(frame);
            }
        }
        assert_eq!((frames[0].kind, frames[0].sequence), (kind::SLAB, 1));
        let writer = right.take_descriptor().unwrap().unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        assert!(right.take_descriptor().is_err());
        assert_eq!(values_of::<Run>(&frames[1].body).unwrap(), runs);
        assert!(values_of::<Run>(&frames[1].body[1..]).is_err());
        drop(left);
        assert!(matches!(right.receive(), Err(Error::Hub(_))));
    }

    #[test]
    fn an_endless_frame_is_refused() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut right = Connection::new(right);
        rustix::io::write(&left, &[0xff; HEADER]).unwrap();
        right.receive().unwrap();
        assert!(matches!(right.next_frame(), Err(Error::Protocol(_))));
    }
}
