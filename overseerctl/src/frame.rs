//! Encoding of hub messages into WebSocket frames, once per message, whoever and however many listen.
//!
//! Frames from a server are not masked (RFC 6455, section 5.1), so the same bytes serve every client: a message is
//! encoded once and shared. Everything else of the protocol — handshake, control frames, reassembly, unmasking — is
//! `tungstenite`'s; only the two-to-ten-byte header of an outgoing text frame is asked of it here.

use bytes::Bytes;
use serde::Serialize;
use tungstenite::protocol::frame::{
    CloseFrame, Frame, FrameHeader,
    coding::{CloseCode, Data, OpCode},
};

/// Appends one text frame with `payload` to `out`.
pub fn append_text(payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader {
        is_final: true,
        rsv1: false,
        rsv2: false,
        rsv3: false,
        opcode: OpCode::Data(Data::Text),
        mask: None,
    };
    out.reserve(payload.len() + 10);
    header
        .format(payload.len() as u64, out)
        .unwrap_or_else(|error| unreachable!("a Vec takes every write: {error}"));
    out.extend_from_slice(payload);
}

/// A message as a text frame: compact JSON that ends in a line feed, as sticky-overseer sends it.
pub fn encode(message: &impl Serialize) -> Bytes {
    let mut frame = Vec::with_capacity(256);
    append_text(&json_line(message), &mut frame);
    Bytes::from(frame)
}

/// A message as one JSON line.
pub fn json_line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_else(|error| {
        unreachable!("messages have string keys and finite numbers: {error}")
    });
    line.push(b'\n');
    line
}

/// A close frame with a code (RFC 6455, section 7.4) and a reason.
pub fn close(code: u16, reason: &'static str) -> Bytes {
    control(Frame::close(Some(CloseFrame {
        code: CloseCode::from(code),
        reason: reason.into(),
    })))
}

/// A ping without payload.
pub fn ping() -> Bytes {
    control(Frame::ping(Bytes::new()))
}

fn control(frame: Frame) -> Bytes {
    let mut out = Vec::with_capacity(frame.len());
    frame
        .format(&mut out)
        .unwrap_or_else(|error| unreachable!("a Vec takes every write: {error}"));
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_grows_with_the_payload() {
        for (len, header) in [(1, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            append_text(&vec![b'x'; len], &mut out);
            assert_eq!(out.len(), len + header, "payload of {len} bytes");
            assert_eq!(out[0], 0x81, "a final text frame");
        }
    }

    #[test]
    fn a_message_ends_in_a_line_feed() {
        let frame = encode(&serde_json::json!({"type": "purged"}));
        assert_eq!(&frame[2..], b"{\"type\":\"purged\"}\n");
    }

    #[test]
    fn a_close_frame_carries_its_code() {
        let frame = close(1008, "slow consumer");
        assert_eq!(frame[0], 0x88);
        assert_eq!(&frame[2..4], 1008u16.to_be_bytes());
        assert_eq!(&frame[4..], b"slow consumer");
    }
}
