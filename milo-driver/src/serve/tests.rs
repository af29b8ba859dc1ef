use std::{
    io::{BufRead, BufReader, PipeReader, PipeWriter},
    os::unix::net::UnixStream,
    time::Instant,
};

use runyard_common::testing::{patience, tempdir};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::{
    proto::{
        drivers::{FingerprintRequest, TaskEventsRequest, driver_client::DriverClient},
        plugin::{
            Empty, grpc_controller_client::GrpcControllerClient, grpc_stdio_client::GrpcStdioClient,
        },
    },
    registry::fake::Fake,
    state::StateRoot,
};

/// A plugin in a thread of its own, as a process would have it.
struct Served {
    plugin: oneshot::Receiver<Result<Exit, Failure>>,
    line: String,
    rest: BufReader<PipeReader>,
    dir: TempDir,
}

fn environment(dir: &Path) -> impl Fn(&str) -> Option<OsString> + Send + use<> {
    let dir = dir.as_os_str().to_owned();
    move |name| match name {
        "NOMAD_PLUGIN_MAGIC_COOKIE" => {
            Some("e4327c2e01eabfd75a8a67adb114fb34a757d57eee7728d857a8cec6e91a7255".into())
        }
        "TMPDIR" => Some(dir.clone()),
        _ => None,
    }
}

fn serve_in_thread() -> Served {
    let dir = tempdir();
    let (reader, mut writer): (PipeReader, PipeWriter) = io::pipe().unwrap();
    let lookup = environment(dir.path());
    let engine = Fake::new(StateRoot::new(dir.path().join("state")));
    let (ended, plugin) = oneshot::channel();
    std::thread::spawn(move || ended.send(run(engine, &lookup, &mut writer)));
    let mut rest = BufReader::new(reader);
    let mut line = String::new();
    rest.read_line(&mut line).unwrap();
    Served {
        plugin,
        line,
        rest,
        dir,
    }
}

impl Served {
    fn socket(&self) -> PathBuf {
        PathBuf::from(self.line.split('|').nth(3).unwrap())
    }

    async fn connect(&self) -> Channel {
        Endpoint::from_shared(format!("unix:{}", self.socket().display()))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn an_agent_gets_one_line_and_an_end_at_its_word_whatever_is_open() {
    let mut served = serve_in_thread();
    let socket = served.socket();
    assert_eq!(served.line, format!("1|2|unix|{}|grpc\n", socket.display()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&socket), mode(socket.parent().unwrap())),
        (0o600, 0o700)
    );

    let channel = served.connect().await;
    let mut driver = DriverClient::new(channel.clone());
    let mut fingerprints = driver
        .fingerprint(FingerprintRequest {})
        .await
        .unwrap()
        .into_inner();
    fingerprints.message().await.unwrap().unwrap();
    let _events = driver.task_events(TaskEventsRequest {}).await.unwrap();
    let _stdio = GrpcStdioClient::new(channel.clone())
        .stream_stdio(())
        .await
        .unwrap();

    let told = Instant::now();
    GrpcControllerClient::new(channel)
        .shutdown(Empty {})
        .await
        .unwrap();
    let exit = tokio::time::timeout(patience(), served.plugin)
        .await
        .expect("an end")
        .unwrap();
    assert_eq!(exit.unwrap(), Exit::Done);
    // An agent kills after two seconds.
    assert!(
        told.elapsed() < Duration::from_secs(1),
        "{:?}",
        told.elapsed()
    );
    let mut more = String::new();
    served.rest.read_line(&mut more).unwrap();
    assert_eq!(more, "", "nothing but the line is ever printed");
    assert!(!socket.exists() && !socket.parent().unwrap().exists());
    assert!(
        !served.dir.path().join("state").exists(),
        "looking at a plugin changes nothing"
    );
}

#[tokio::test]
async fn a_plugin_outlives_its_agent_and_serves_the_next() {
    let served = serve_in_thread();
    let first = served.connect().await;
    let mut driver = DriverClient::new(first);
    let stream = driver.fingerprint(FingerprintRequest {}).await.unwrap();
    drop((stream, driver));
    // An agent that was killed in the middle of a word.
    let mut rude = UnixStream::connect(served.socket()).unwrap();
    rude.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    drop(rude);

    let next = served.connect().await;
    let mut driver = DriverClient::new(next.clone());
    let mut fingerprints = driver
        .fingerprint(FingerprintRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = tokio::time::timeout(patience(), fingerprints.message())
        .await
        .unwrap();
    assert!(first.unwrap().is_some());
    GrpcControllerClient::new(next)
        .shutdown(Empty {})
        .await
        .unwrap();
    tokio::time::timeout(patience(), served.plugin)
        .await
        .expect("an end")
        .unwrap()
        .unwrap();
}

#[test]
fn whoever_calls_without_the_cookie_is_told_what_to_do_instead() {
    let dir = tempdir();
    let mut output = Vec::new();
    let engine = Fake::new(StateRoot::new(dir.path()));
    let failure = run(engine, &|_| None, &mut output).unwrap_err();
    assert_eq!(
        (failure.exit(), failure.message().lines().count()),
        (Exit::Failed, 2)
    );
    assert!(
        failure.hints()[0].contains("milo-driver run")
            && failure.hints()[1].contains("milo-driver doctor")
    );
    assert!(output.is_empty());
}

#[test]
fn a_place_that_is_too_deep_is_passed_over() {
    let dir = tempdir();
    let deep = dir.path().join("d".repeat(90));
    fs::create_dir(&deep).unwrap();
    let socket = Socket::new(&[deep.clone(), dir.path().to_path_buf()]).unwrap();
    assert_eq!(socket.path.parent().unwrap().parent(), Some(dir.path()));
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 0);
    assert!(Socket::new(&[deep]).is_err());
}
