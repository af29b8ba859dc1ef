//! A server whose process runs out of files. In a process of its own, since the limit is the whole
//! process's.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic as the tests do")]
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use runyard_common::http::server::{self, ServeOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn serve() -> SocketAddr {
    let (announce, announced) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let bound = server::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
            announce.send(bound.address().tcp().unwrap()).unwrap();
            let router = Router::new().route("/", get(async || "hello"));
            server::serve(
                bound,
                None,
                router,
                ServeOptions::default(),
                std::future::pending(),
            )
            .await
            .unwrap();
        });
    });
    announced.recv().unwrap()
}

/// Sends on what the server logs.
#[derive(Clone)]
struct Log(mpsc::Sender<String>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // After the test nobody listens.
        let _ = self.0.send(String::from_utf8_lossy(bytes).into_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn limit_files(current: Option<u64>) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
}

#[test]
fn a_server_without_files_waits_until_there_are_some() {
    let (sender, logged) = mpsc::channel();
    let log = Log(sender);
    tracing_subscriber::fmt()
        .with_writer(move || log.clone())
        .with_ansi(false)
        .init();
    let address = serve();
    let plenty = getrlimit(Resource::Nofile).current;
    limit_files(Some(64));
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(address) {
        clients.push(client);
    }
    // Exactly one more file, which this client takes: the server has none for its own end.
    limit_files(Some(65));
    clients.push(TcpStream::connect(address).unwrap());
    let warned = |line: &String| line.contains("cannot accept connections");
    logged.iter().find(warned).unwrap();
    limit_files(plenty);
    for client in &mut clients {
        assert!(ask(client).unwrap().ends_with("hello"));
    }
}
