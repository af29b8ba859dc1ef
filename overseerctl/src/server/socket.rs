//! One WebSocket connection: frames in to a session, frames out from an outbox, and its end.
//!
//! Reading, unmasking, reassembly, pongs and the closing handshake are tungstenite's. What it wants to write (pongs, the
//! answer to a close) goes into the same outbox as everything else, so that one writer owns the socket's other half and
//! can hand many frames to the kernel in one call.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    time::{Instant, timeout},
};
use tokio_tungstenite::WebSocketStream;
use tungstenite::{
    Message,
    protocol::{Role, WebSocketConfig},
};

use crate::{
    frame,
    hub::Hub,
    outbox::{Batch, Next, Outbox, slow_consumer},
    session::{Flow, Session},
};

/// When a silent connection is probed, and given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between pings; zero sends none.
    pub interval: Duration,
    /// Without a frame from the client for this long, the connection ends; zero waits for ever.
    pub timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_mins(1),
        }
    }
}

/// Largest message a client may send. The original has no limit; no request comes near this one.
const MAX_MESSAGE: usize = 64 << 20;

/// How long the last words may take on a socket that may be dead.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves one client over an upgraded stream until either side ends it.
pub async fn converse<S>(hub: Hub, io: S, heartbeat: Heartbeat)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = tokio::io::split(io);
    let outbox = hub.connect();
    let writer = tokio::spawn(write_all(write, Arc::clone(&outbox), hub.clone()));
    let config = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let half = Half {
        read,
        outbox: Arc::clone(&outbox),
    };
    let socket = WebSocketStream::from_raw_socket(half, Role::Server, Some(config)).await;
    let session = Session::new(hub.clone(), Arc::clone(&outbox));
    let last_word = listen(socket, &session, &outbox, heartbeat).await;
    outbox.finish(last_word);
    // The writer ends when everything is written, or when the client does not read it; an error is the connection's end.
    let _ = writer.await;
    hub.disconnect(outbox.id());
}

/// Hands frames to the session until the connection or the conversation ends. Returns the last word, if any is due.
async fn listen<S>(
    mut socket: WebSocketStream<Half<S>>,
    session: &Session,
    outbox: &Outbox,
    heartbeat: Heartbeat,
) -> Option<Bytes>
where
    S: AsyncRead + AsyncWrite,
{
    let mut heard = Instant::now();
    loop {
        let probe = async {
            if heartbeat.interval.is_zero() {
                std::future::pending::<()>().await;
            } else {
                tokio::time::sleep(heartbeat.interval).await;
            }
        };
        tokio::select! {
            message = socket.next() => {
                heard = Instant::now();
                let frame = match message {
                    Some(Ok(Message::Text(text))) => Bytes::from(text),
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return None,
                };
                if session.receive(&frame).await == Flow::Close {
                    return Some(frame::close(1007, "invalid message"));
                }
            }
            () = outbox.given_up() => return None,
            () = probe => {
                if outbox.has_backlog() {
                    // It is busy reading; whether it still does is the writer's to see.
                    heard = Instant::now();
                }
                if !heartbeat.timeout.is_zero() && heard.elapsed() >= heartbeat.timeout {
                    tracing::info!(client = outbox.id(), "connection is dead: no answer to pings");
                    return Some(frame::close(1001, "ping timeout"));
                }
                outbox.push(frame::ping());
            }
        }
    }
}

/// Writes what the outbox holds until it ends.
async fn write_all<S>(mut io: WriteHalf<S>, outbox: Arc<Outbox>, hub: Hub)
where
    S: AsyncRead + AsyncWrite,
{
    loop {
        match outbox.next().await {
            Next::Write(batch) => match write_batch(&mut io, batch, &outbox).await {
                Written::All => {}
                Written::Broken => {
                    outbox.abandon();
                    return;
                }
                Written::TooSlow(rest) => {
                    return part_from_slow(io, Some(rest), &outbox, &hub).await;
                }
            },
            Next::Finished => {
                // The peer may be gone already.
                let _ = timeout(LAST_WORDS, io.shutdown()).await;
                return;
            }
            Next::TooSlow => return part_from_slow(io, None, &outbox, &hub).await,
        }
    }
}

enum Written {
    All,
    Broken,
    TooSlow(Batch),
}

async fn write_batch<S>(io: &mut WriteHalf<S>, mut batch: Batch, outbox: &Outbox) -> Written
where
    S: AsyncRead + AsyncWrite,
{
    while batch.has_remaining() {
        let write = timeout(outbox.limits().timeout, io.write_buf(&mut batch));
        let written = tokio::select! {
            written = write => written,
            () = outbox.given_up() => return Written::TooSlow(batch),
        };
        match written {
            Ok(Ok(count)) if count > 0 => outbox.progressed(count),
            Ok(_) => return Written::Broken,
            Err(_) => {
                outbox.give_up();
                return Written::TooSlow(batch);
            }
        }
    }
    // Upgraded streams buffer; without a flush the last bytes of a quiet client would stay behind.
    if io.flush().await.is_ok() {
        Written::All
    } else {
        Written::Broken
    }
}

/// Says why, if the client can still hear it: the frame that was cut must be completed first.
async fn part_from_slow<S>(mut io: WriteHalf<S>, rest: Option<Batch>, outbox: &Outbox, hub: &Hub)
where
    S: AsyncRead + AsyncWrite,
{
    hub.counters().slow_clients.inc();
    tracing::warn!(client = outbox.id(), "client does not read: closed");
    let farewell = async {
        if let Some(rest) = rest {
            io.write_all(rest.chunk()).await?;
        }
        io.write_all(&slow_consumer()).await?;
        io.shutdown().await
    };
    // It did not read before and may not read now.
    let _ = timeout(LAST_WORDS, farewell).await;
}

/// What tungstenite reads from and writes to: the socket's incoming half, and the outbox.
struct Half<S> {
    read: ReadHalf<S>,
    outbox: Arc<Outbox>,
}

impl<S: AsyncRead> AsyncRead for Half<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(context, buffer)
    }
}

impl<S> AsyncWrite for Half<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.outbox.push(Bytes::copy_from_slice(bytes));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
