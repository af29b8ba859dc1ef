//! The stdio transport: JSON lines on standard input and output, for one client, until end of input.
//!
//! It is a client of its own daemon: an in-memory pipe carries an ordinary WebSocket conversation, and this file turns
//! lines into frames and frames into lines. So stdio behaves as every other transport does, back-pressure included.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{
    Message,
    protocol::{Role, WebSocketConfig},
};

use super::{Heartbeat, converse};
use crate::hub::Hub;

/// Bytes in flight between the two ends.
const PIPE: usize = 256 << 10;

/// Serves one client on `input` and `output`. Ends after the end of input, once everything that answers what was read
/// has been written; output of tasks that still run is no longer waited for.
pub async fn serve_stdio(
    hub: Hub,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let (near, far) = tokio::io::duplex(PIPE);
    let quiet = Heartbeat {
        interval: std::time::Duration::ZERO,
        timeout: std::time::Duration::ZERO,
    };
    let served = tokio::spawn(converse(hub, far, quiet));
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    let socket = WebSocketStream::from_raw_socket(near, Role::Client, Some(config)).await;
    let (mut requests, mut messages) = socket.split();
    let mut lines = BufReader::new(input).split(b'\n');
    let mut reading = true;
    loop {
        tokio::select! {
            line = lines.next_segment(), if reading => match line? {
                Some(line) if line.iter().all(u8::is_ascii_whitespace) => {}
                Some(line) => if requests.send(Message::Binary(line.into())).await.is_err() { break },
                None => {
                    reading = false;
                    // The closing handshake is a fence: it is answered after everything that was asked.
                    if requests.close().await.is_err() { break }
                }
            },
            message = messages.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    output.write_all(text.as_bytes()).await?;
                    output.flush().await?;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
        }
    }
    // The conversation ends with its pipe.
    let _ = served.await;
    output.flush().await
}
