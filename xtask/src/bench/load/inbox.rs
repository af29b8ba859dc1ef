//! Finds WebSocket frames in a read buffer without copying them. Server frames only: unmasked, with a header of 2, 4
//! or 10 bytes (RFC 6455, section 5.2). Only messages sent in fragments are copied, to join them.

use std::ops::Range;

use anyhow::Result;
use anyhow::bail;

/// First size of the buffer. Large enough for some hundred messages a read, small enough to stay in a core's cache.
const FIRST_SIZE: usize = 64 * 1024;

/// A frame beyond this size is a sign of a stream that is out of step, not of a long line.
const LARGEST_FRAME: usize = 128 * 1024 * 1024;

/// The frame types of RFC 6455 that a server sends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Text = 1,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(byte: u8) -> Result<Self> {
        Ok(match byte & 0x0f {
            0 => Self::Continuation,
            1 => Self::Text,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            other => bail!("the daemon sent a frame of type {other}, expected text"),
        })
    }
}

/// One complete frame; its payload is a range of the buffer, valid until the next read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: Opcode,
    pub(super) last: bool,
    pub(super) payload: Range<usize>,
}

/// Where the bytes of a complete message are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// In the read buffer.
    InPlace(Range<usize>),
    /// In the buffer for joined fragments.
    Joined,
}

/// The read buffer: `start..end` holds bytes that are not consumed yet.
#[derive(Debug)]
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    fragments: Vec<u8>,
    joining: bool,
}

impl Inbox {
    /// An empty inbox.
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; FIRST_SIZE],
            start: 0,
            end: 0,
            fragments: Vec::new(),
            joining: false,
        }
    }

    /// Room for the next read, at least one byte. Moves a half-read frame to the front and grows the buffer when one
    /// frame fills it.
    ///
    /// # Errors
    ///
    /// A frame larger than any line can be.
    pub(super) fn room(&mut self) -> Result<&mut [u8]> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buffer.len() {
            if self.buffer.len() >= LARGEST_FRAME {
                bail!("the daemon sent a frame of more than {LARGEST_FRAME} bytes");
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        Ok(&mut self.buffer[self.end..])
    }

    /// Takes note of bytes that a read put into [`Self::room`].
    pub(super) fn arrived(&mut self, count: usize) {
        self.end += count;
    }

    /// Appends bytes that were read elsewhere.
    ///
    /// # Errors
    ///
    /// As for [`Self::room`].
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let (now, later) = bytes.split_at(room.len().min(bytes.len()));
            room[..now.len()].copy_from_slice(now);
            self.arrived(now.len());
            bytes = later;
        }
        Ok(())
    }

    /// The next complete frame; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// Bytes that no server may send.
    #[inline]
    pub(super) fn pop(&mut self) -> Result<Option<Frame>> {
        let bytes = &self.buffer[self.start..self.end];
        let Some((header, length)) = measure(bytes) else {
            return Ok(None);
        };
        if bytes.len() - header < length {
            return Ok(None);
        }
        let opcode = Opcode::of(bytes[0])?;
        let last = bytes[0] & 0x80 != 0;
        let begin = self.start + header;
        self.start = begin + length;
        Ok(Some(Frame {
            opcode,
            last,
            payload: begin..begin + length,
        }))
    }

    /// Joins a text frame with the fragments before it; `None` while the message is incomplete.
    #[inline]
    pub(super) fn assemble(&mut self, frame: &Frame) -> Option<Message> {
        if frame.last && !self.joining {
            return Some(Message::InPlace(frame.payload.clone()));
        }
        if !self.joining {
            self.fragments.clear();
        }
        self.fragments
            .extend_from_slice(&self.buffer[frame.payload.clone()]);
        self.joining = !frame.last;
        frame.last.then_some(Message::Joined)
    }

    /// The bytes of a message, without the line feed that the daemons end it with.
    #[inline]
    pub(super) fn bytes(&self, message: &Message) -> &[u8] {
        let bytes = match message {
            Message::InPlace(range) => &self.buffer[range.clone()],
            Message::Joined => &self.fragments,
        };
        bytes.strip_suffix(b"\n").unwrap_or(bytes)
    }

    /// The bytes of a frame's payload.
    pub(super) fn raw(&self, payload: Range<usize>) -> &[u8] {
        &self.buffer[payload]
    }
}

/// Header size and payload size of the frame that `bytes` begin with; `None` while the header is incomplete.
#[inline]
fn measure(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? & 0x7f {
        126 => {
            let length = bytes.get(2..4)?.try_into().ok()?;
            Some((4, usize::from(u16::from_be_bytes(length))))
        }
        127 => {
            let length = bytes.get(2..10)?.try_into().ok()?;
            Some((
                10,
                usize::try_from(u64::from_be_bytes(length)).unwrap_or(usize::MAX),
            ))
        }
        short => Some((2, usize::from(short))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..126 => bytes.push(u8::try_from(short).unwrap()),
            medium @ 126..65536 => {
                bytes.push(126);
                bytes.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                bytes.push(127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        bytes.extend(payload);
        bytes
    }

    /// Feeds `bytes` in pieces of `step` and collects the messages.
    fn read(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
        let mut inbox = Inbox::new();
        let mut messages = Vec::new();
        for piece in bytes.chunks(step) {
            inbox.feed(piece).unwrap();
            while let Some(frame) = inbox.pop().unwrap() {
                if let Some(message) = inbox.assemble(&frame) {
                    messages.push(inbox.bytes(&message).to_vec());
                }
            }
        }
        messages
    }

    #[test]
    fn frames_of_every_header_size_survive_every_cut() {
        let payloads = [
            vec![b'a'; 3],
            vec![b'b'; 126],
            vec![b'c'; 65_535],
            vec![b'd'; 65_536],
            vec![],
            vec![b'e'; 200_000],
        ];
        let bytes: Vec<u8> = payloads
            .iter()
            .flat_map(|payload| frame(0x81, payload))
            .collect();
        for step in [1, 7, 4096] {
            assert_eq!(read(&bytes, step), payloads);
        }
    }

    #[test]
    fn fragments_are_joined_and_the_next_message_stands_alone() {
        let bytes = [
            frame(0x01, b"ab"),
            frame(0x00, b"cd"),
            frame(0x80, b"ef\n"),
            frame(0x81, b"g\n"),
        ]
        .concat();
        assert_eq!(read(&bytes, 3), [b"abcdef".to_vec(), b"g".to_vec()]);
    }

    #[test]
    fn a_frame_type_of_the_future_is_an_error() {
        let mut inbox = Inbox::new();
        inbox.feed(b"\x83\x00").unwrap();
        assert!(inbox.pop().is_err());
    }
}
