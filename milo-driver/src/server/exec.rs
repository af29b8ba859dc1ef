//! Commands inside a task: one that is waited for, and one that is talked with.
//!
//! Without a terminal a command is over when both its streams have ended, even if that is later than the command; with one
//! it is over when the command is, as `docker exec -it` has it.

use std::time::Duration;

use tokio::{sync::mpsc, time};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Plugin;
use crate::{
    api::error,
    proto::drivers::{
        ExecTaskResponse, ExecTaskStreamingIoOperation as Operation, ExecTaskStreamingRequest,
        ExecTaskStreamingResponse, ExitResult,
    },
    registry::{Command, Engine, Input, Output, Session},
    task::TaskId,
};

/// What comes of a conversation.
pub type Stream = ReceiverStream<Result<ExecTaskStreamingResponse, Status>>;

/// The most bytes of each stream that a check keeps: the last ones, as many as Nomad's own drivers.
const KEPT: usize = 4096;

/// Runs a command and waits for it. A timeout of zero is none.
pub async fn once<E: Engine>(
    plugin: &Plugin<E>,
    id: &TaskId,
    argv: Vec<String>,
    timeout: Duration,
) -> Result<ExecTaskResponse, Status> {
    let command = command(argv, false)?;
    let name = command.argv.join(" ");
    let session = plugin
        .registry()
        .exec(id, command)
        .await
        .map_err(|cause| error::task(&cause))?;
    if timeout.is_zero() {
        return Ok(collect(session).await);
    }
    // The session ends with its future, and the command with the session.
    time::timeout(timeout, collect(session)).await.map_err(|_| {
        Status::deadline_exceeded(format!(
            "command `{name}` was killed: it did not end within {timeout:?}"
        ))
    })
}

async fn collect(session: Session) -> ExecTaskResponse {
    let Session { input, mut output } = session;
    // A check has nothing to say to its command. One that has ended does not hear it.
    let _ = input.send(Input::Close).await;
    let (mut stdout, mut stderr, mut code) = (Tail::default(), Tail::default(), None);
    while let Some(piece) = output.recv().await {
        match piece {
            Output::Stdout(bytes) => stdout.push(&bytes),
            Output::Stderr(bytes) => stderr.push(&bytes),
            Output::Exited(end) => code = Some(end),
        }
    }
    ExecTaskResponse {
        stdout: stdout.0,
        stderr: stderr.0,
        result: Some(result(code)),
    }
}

/// The last bytes of a stream.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(KEPT);
        self.0.drain(..excess);
        self.0.extend_from_slice(bytes);
    }
}

/// Begins a conversation, whose first message says with what.
pub async fn stream<E: Engine>(
    plugin: &Plugin<E>,
    mut requests: Streaming<ExecTaskStreamingRequest>,
) -> Result<Stream, Status> {
    let first = requests.message().await?.and_then(|first| first.setup);
    let Some(setup) = first else {
        return Err(error::unknown(
            "the first message of an exec must be its setup",
        ));
    };
    let id = TaskId(setup.task_id);
    let command = command(setup.command, setup.tty)?;
    let argv = command.argv.clone();
    let session = plugin
        .registry()
        .exec(&id, command)
        .await
        .map_err(|cause| error::task(&cause))?;
    plugin.registry().tell_of_visit(&id, &argv);
    let (sender, stream) = mpsc::channel(16);
    tokio::spawn(talk(session, requests, sender, setup.tty));
    Ok(ReceiverStream::new(stream))
}

fn command(argv: Vec<String>, tty: bool) -> Result<Command, Status> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(error::unknown("no command was given"));
    }
    Ok(Command { argv, tty })
}

type Sender = mpsc::Sender<Result<ExecTaskStreamingResponse, Status>>;

async fn talk(
    session: Session,
    requests: Streaming<ExecTaskStreamingRequest>,
    sender: Sender,
    tty: bool,
) {
    let Session { input, output } = session;
    tokio::select! {
        () = answer(output, &sender, tty) => {}
        () = listen(requests, input) => {}
        () = sender.closed() => {}
    }
}

async fn answer(mut output: mpsc::Receiver<Output>, sender: &Sender, tty: bool) {
    let mut code = None;
    while let Some(piece) = output.recv().await {
        let message = match piece {
            Output::Stdout(bytes) => stdout(data(bytes)),
            Output::Stderr(bytes) => stderr(data(bytes)),
            Output::Exited(end) => {
                code = Some(end);
                if tty {
                    break;
                }
                continue;
            }
        };
        if sender.send(Ok(message)).await.is_err() {
            return;
        }
    }
    let last = ExecTaskStreamingResponse {
        exited: true,
        result: Some(result(code)),
        ..ExecTaskStreamingResponse::default()
    };
    for message in [stdout(close()), stderr(close()), last] {
        if sender.send(Ok(message)).await.is_err() {
            return;
        }
    }
}

/// Passes on what the user types. Returns only if the agent went away without a word; one that has no more to say lets the
/// command end by itself.
async fn listen(mut requests: Streaming<ExecTaskStreamingRequest>, input: mpsc::Sender<Input>) {
    loop {
        let request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(_) => return,
        };
        // A command that has ended hears nothing; its end is on its way.
        for said in inputs(request) {
            if input.send(said).await.is_err() {
                break;
            }
        }
    }
    let _ = input.send(Input::Close).await;
    std::future::pending::<()>().await;
}

/// A message without any field is a sign of life.
fn inputs(request: ExecTaskStreamingRequest) -> Vec<Input> {
    let mut said = Vec::new();
    if let Some(stdin) = request.stdin {
        if !stdin.data.is_empty() {
            said.push(Input::Data(stdin.data));
        }
        if stdin.close {
            said.push(Input::Close);
        }
    }
    if let Some(size) = request.tty_size {
        let cells = |number: i32| u16::try_from(number.max(0)).unwrap_or(u16::MAX);
        said.push(Input::Resize {
            rows: cells(size.height),
            columns: cells(size.width),
        });
    }
    said
}

fn stdout(operation: Operation) -> ExecTaskStreamingResponse {
    ExecTaskStreamingResponse {
        stdout: Some(operation),
        ..ExecTaskStreamingResponse::default()
    }
}

fn stderr(operation: Operation) -> ExecTaskStreamingResponse {
    ExecTaskStreamingResponse {
        stderr: Some(operation),
        ..ExecTaskStreamingResponse::default()
    }
}

fn data(data: Vec<u8>) -> Operation {
    Operation { data, close: false }
}

fn close() -> Operation {
    Operation {
        data: Vec::new(),
        close: true,
    }
}

/// A result is always there: an agent reads it without looking.
fn result(code: Option<i32>) -> ExitResult {
    let exit_code = code.unwrap_or(-1);
    ExitResult {
        exit_code,
        signal: if (129..=192).contains(&exit_code) {
            exit_code - 128
        } else {
            0
        },
        oom_killed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_kept() {
        let mut tail = Tail::default();
        tail.push(&vec![b'a'; KEPT]);
        tail.push(b"bc");
        assert_eq!(
            (tail.0.len(), &tail.0[KEPT - 3..]),
            (KEPT, b"abc".as_slice())
        );
        tail.push(&vec![b'd'; 3 * KEPT]);
        assert_eq!(tail.0, vec![b'd'; KEPT]);
    }

    #[test]
    fn a_size_is_legal_whatever_was_sent() {
        let size = |height, width| ExecTaskStreamingRequest {
            tty_size: Some(
                crate::proto::drivers::exec_task_streaming_request::TerminalSize { height, width },
            ),
            ..Default::default()
        };
        assert_eq!(
            inputs(size(-1, 70_000)),
            [Input::Resize {
                rows: 0,
                columns: u16::MAX
            }]
        );
        assert_eq!(inputs(ExecTaskStreamingRequest::default()), []);
    }
}
