//! Commands in a task: what an agent's script checks and `nomad alloc exec` need of a driver. The task needs a `/bin/sh` with
//! `cat`, `head`, `sleep` and `stty` for it.

use std::time::{Duration, Instant};

use tokio::time;
use tokio_stream::{StreamExt, iter, wrappers::ReceiverStream};
use tonic::Streaming;

use super::{
    Report,
    agent::{Agent, QUICK, quickly, refused},
};
use crate::proto::drivers::{
    ExecTaskRequest, ExecTaskResponse, ExecTaskStreamingIoOperation as Stdin,
    ExecTaskStreamingRequest, ExecTaskStreamingResponse, ExitResult,
    exec_task_streaming_request::{Setup, TerminalSize},
};

/// Says something on both streams, and ends with 3.
pub(super) const BOTH: &str = "echo out; echo err >&2; exit 3";
/// Says more than an agent takes in one message.
pub(super) const MUCH: &str = "head -c 6000000 /dev/zero";
/// Takes too long.
pub(super) const SLOW: &str = "exec sleep 1000";
/// Says what it hears, and ends with 4.
pub(super) const ECHO: &str = "cat; exit 4";
/// Says how large its terminal is, and ends with 5.
pub(super) const TERMINAL: &str = "read word; stty size; echo got $word; exit 5";
/// Says its pid and stays.
pub(super) const STAY: &str = "echo $$; exec sleep 1000";

/// A program that is nowhere.
pub(super) const NOWHERE: &str = "/no/such/program";

/// The most that an agent takes in one message.
const MESSAGE: usize = 4 << 20;

/// How long other checks may take.
const ENOUGH: prost_types::Duration = prost_types::Duration {
    seconds: 5,
    nanos: 0,
};

/// How long a check may take that takes too long.
const LIMIT: Duration = Duration::from_millis(500);

/// What it is to agents when a result is missing.
const CRASH: &str = "an agent reads the result without a look, and crashes";

/// A task to visit.
pub(super) struct Visit<'a> {
    agent: &'a mut Agent,
    task_id: String,
}

/// What came of a conversation.
#[derive(Default)]
struct Said {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    result: Option<ExitResult>,
}

impl<'a> Visit<'a> {
    pub(super) fn of(agent: &'a mut Agent, task_id: String) -> Self {
        Self { agent, task_id }
    }

    /// Looks at all of it, if the driver says that it can.
    pub(super) async fn look(&mut self, report: &mut Report) {
        if !self.agent.capabilities().exec {
            let because = "the driver does not run commands";
            return report.skip("commands", "there are script checks", because);
        }
        self.check(report).await;
        self.converse(report).await;
    }

    async fn check(&mut self, report: &mut Report) {
        let both = self.both().await;
        report.note("check", CRASH, both);
        let missing = self.missing().await;
        report.note("check that does not exist", CRASH, missing);
        let much = self.much().await;
        report.note(
            "check that says much",
            "a message of more than 4 MiB is an error, and the check has failed",
            much,
        );
        let slow = self.slow().await;
        report.note(
            "check that takes too long",
            "it is never repeated, and its end never told",
            slow,
        );
        let nobody = refused(self.agent.driver.exec_task(ExecTaskRequest {
            task_id: "nobody".to_owned(),
            command: shell(BOTH),
            timeout: Some(ENOUGH),
        }));
        report.note(
            "check of an unknown task",
            "a check of nothing passes",
            nobody.await,
        );
    }

    async fn converse(&mut self, report: &mut Report) {
        let echo = self.echo().await;
        report.note(
            "exec",
            "the user's input is lost, or the agent crashes",
            echo,
        );
        let terminal = self.terminal().await;
        report.note(
            "exec with a terminal",
            "the user has no terminal, or one of a wrong size",
            terminal,
        );
        let missing = self.missing_conversation().await;
        report.note("exec of what does not exist", CRASH, missing);
        let left = self.left().await;
        report.note(
            "exec whose user goes away",
            "its command runs on in the task for ever",
            left,
        );
    }

    // === Checks ===

    async fn exec(&mut self, command: Vec<String>) -> Result<ExecTaskResponse, String> {
        let request = ExecTaskRequest {
            task_id: self.task_id.clone(),
            command,
            timeout: Some(ENOUGH),
        };
        let answer = quickly(self.agent.driver.exec_task(request)).await?;
        Ok(answer.into_inner())
    }

    async fn both(&mut self) -> Result<(), String> {
        let done = self.exec(shell(BOTH)).await?;
        let said = Said {
            stdout: done.stdout,
            stderr: done.stderr,
            result: done.result,
        };
        said.is(b"out\n", b"err\n", 3)
    }

    /// It may be an error or a code, but no success and no silence.
    async fn missing(&mut self) -> Result<(), String> {
        let request = ExecTaskRequest {
            task_id: self.task_id.clone(),
            command: vec![NOWHERE.to_owned()],
            timeout: Some(ENOUGH),
        };
        let answer = time::timeout(QUICK, self.agent.driver.exec_task(request)).await;
        let told = match answer {
            Err(_) => return Err(format!("no answer within {QUICK:?}")),
            Ok(Ok(answer)) => failed(answer.into_inner().result),
            Ok(Err(status)) => refused(async { Err::<(), _>(status) }).await,
        };
        told.and(self.lives().await)
    }

    async fn much(&mut self) -> Result<(), String> {
        let done = self.exec(shell(MUCH)).await?;
        let length = done.stdout.len() + done.stderr.len();
        if length >= MESSAGE {
            return Err(format!(
                "the answer has {length} bytes: keep the last ones only"
            ));
        }
        match done.result {
            Some(result) if result.exit_code == 0 => Ok(()),
            other => Err(format!("expected exit code 0, got {other:?}")),
        }
    }

    async fn slow(&mut self) -> Result<(), String> {
        let request = ExecTaskRequest {
            task_id: self.task_id.clone(),
            command: shell(SLOW),
            timeout: prost_types::Duration::try_from(LIMIT).ok(),
        };
        match time::timeout(QUICK, self.agent.driver.exec_task(request)).await {
            Err(_) => Err(format!("it still ran {QUICK:?} after a limit of {LIMIT:?}")),
            Ok(Err(_)) => Ok(()),
            Ok(Ok(answer)) => failed(answer.into_inner().result),
        }
    }

    /// Whether the plugin still answers.
    async fn lives(&mut self) -> Result<(), String> {
        let alive = self.agent.can().await;
        alive.map_err(|error| format!("the plugin does not answer any more: {error}"))
    }

    // === Conversations ===

    async fn begin(
        &mut self,
        requests: impl tokio_stream::Stream<Item = ExecTaskStreamingRequest> + Send + 'static,
    ) -> Result<Streaming<ExecTaskStreamingResponse>, String> {
        let answers = quickly(self.agent.driver.exec_task_streaming(requests)).await?;
        Ok(answers.into_inner())
    }

    fn setup(&self, command: Vec<String>, tty: bool) -> ExecTaskStreamingRequest {
        ExecTaskStreamingRequest {
            setup: Some(Setup {
                task_id: self.task_id.clone(),
                command,
                tty,
            }),
            ..ExecTaskStreamingRequest::default()
        }
    }

    async fn talk(&mut self, said: Vec<ExecTaskStreamingRequest>) -> Result<Said, String> {
        // An agent keeps its side open until it has seen the end.
        let requests = iter(said).chain(tokio_stream::pending());
        let answers = self.begin(requests).await?;
        let heard = time::timeout(QUICK, hear(answers)).await;
        heard.map_err(|_| format!("it had not ended after {QUICK:?}"))?
    }

    async fn echo(&mut self) -> Result<(), String> {
        let setup = self.setup(shell(ECHO), false);
        // A message without anything is a sign of life.
        let life = ExecTaskStreamingRequest::default();
        let said = vec![
            setup,
            stdin("to ", false),
            life,
            stdin("it\n", false),
            stdin("", true),
        ];
        self.talk(said).await?.is(b"to it\n", b"", 4)
    }

    async fn terminal(&mut self) -> Result<(), String> {
        let setup = self.setup(shell(TERMINAL), true);
        let size = ExecTaskStreamingRequest {
            tty_size: Some(TerminalSize {
                height: 33,
                width: 99,
            }),
            ..ExecTaskStreamingRequest::default()
        };
        let said = self.talk(vec![setup, size, stdin("word\n", false)]).await?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        for expected in ["33 99", "got word"] {
            if !text.contains(expected) {
                return Err(format!("expected `{expected}` in what it said: {text:?}"));
            }
        }
        said.ended_with(5)
    }

    async fn missing_conversation(&mut self) -> Result<(), String> {
        let setup = self.setup(vec![NOWHERE.to_owned()], false);
        let requests = iter([setup]).chain(tokio_stream::pending());
        let told = match self.begin(requests).await {
            Err(_) => Ok(()),
            Ok(answers) => match time::timeout(QUICK, hear(answers)).await {
                Err(_) => Err(format!("it had not ended after {QUICK:?}")),
                Ok(Err(_)) => Ok(()),
                Ok(Ok(said)) => failed(said.result),
            },
        };
        told.and(self.lives().await)
    }

    /// Its pid is that in the task, where the next command is, too.
    async fn left(&mut self) -> Result<(), String> {
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        // There is room for one.
        let _ = sender.try_send(self.setup(shell(STAY), false));
        let mut answers = self.begin(ReceiverStream::new(requests)).await?;
        let pid = time::timeout(QUICK, pid(&mut answers)).await;
        let pid = pid.map_err(|_| format!("it said nothing within {QUICK:?}"))??;
        drop((sender, answers));
        let deadline = Instant::now() + QUICK;
        loop {
            let look = self.exec(shell(&gone(pid))).await?;
            match look.result {
                Some(result) if result.exit_code == 0 => return Ok(()),
                _ if Instant::now() > deadline => {
                    return Err(format!("it still ran {QUICK:?} after its user had gone"));
                }
                _ => time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Said {
    fn is(&self, stdout: &[u8], stderr: &[u8], code: i32) -> Result<(), String> {
        if self.stdout == stdout && self.stderr == stderr {
            return self.ended_with(code);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Err(format!(
            "expected {:?} and {:?} on stdout and stderr, got {:?} and {:?}",
            text(stdout),
            text(stderr),
            text(&self.stdout),
            text(&self.stderr)
        ))
    }

    fn ended_with(&self, code: i32) -> Result<(), String> {
        let result = self.result.as_ref().ok_or("`result` is missing")?;
        if result.exit_code == code {
            return Ok(());
        }
        Err(format!(
            "expected exit code {code}, got {}",
            result.exit_code
        ))
    }
}

/// Whether a result is there and says of a failure.
fn failed(result: Option<ExitResult>) -> Result<(), String> {
    match result {
        None => Err("`result` is missing".to_owned()),
        Some(result) if result.exit_code == 0 => Err("it was told as a success".to_owned()),
        Some(_) => Ok(()),
    }
}

/// Hears all until the end. The last message is the one that says that it has ended.
async fn hear(mut answers: Streaming<ExecTaskStreamingResponse>) -> Result<Said, String> {
    let mut said = Said::default();
    while let Some(answer) = next(&mut answers).await? {
        said.stdout.extend(answer.stdout.unwrap_or_default().data);
        said.stderr.extend(answer.stderr.unwrap_or_default().data);
        if answer.exited {
            said.result = answer.result;
            return Ok(said);
        }
    }
    Err("the stream ended without a message with `exited`".to_owned())
}

async fn next(
    answers: &mut Streaming<ExecTaskStreamingResponse>,
) -> Result<Option<ExecTaskStreamingResponse>, String> {
    let next = answers.message().await;
    next.map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}

/// The number that it says first.
async fn pid(answers: &mut Streaming<ExecTaskStreamingResponse>) -> Result<u32, String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let answer = next(answers).await?.ok_or("it ended at once")?;
        line.extend(answer.stdout.unwrap_or_default().data);
    }
    let line = String::from_utf8_lossy(&line).into_owned();
    let pid = line.trim().parse();
    pid.map_err(|_| format!("expected a pid, got {line:?}"))
}

/// Ends with 0 if there is no such process.
pub(super) fn gone(pid: u32) -> String {
    format!("test ! -e /proc/{pid}")
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).into()
}

fn stdin(data: &str, close: bool) -> ExecTaskStreamingRequest {
    ExecTaskStreamingRequest {
        stdin: Some(Stdin {
            data: data.into(),
            close,
        }),
        ..ExecTaskStreamingRequest::default()
    }
}
