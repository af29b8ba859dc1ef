//! Daemons: announced, watched, drained, ended.

#![cfg(unix)]

use std::io::Write;
use std::net::TcpStream;

use runyard_common::http::client::{Client, ClientOptions, Retry};
use runyard_common::testing::{Daemon, Output, is_alive, patience, tempdir};

use super::keeper;

fn announced(line: &str) -> Option<String> {
    Some(line.split_once("address=")?.1.split(' ').next()?.to_owned())
}

fn client(address: &str) -> Client {
    let base = if address.starts_with("unix:") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    Client::new(
        "it/1.0",
        &base,
        ClientOptions {
            retry: Retry::NEVER,
            ..ClientOptions::default()
        },
    )
    .unwrap()
}

#[test]
fn a_daemon_announces_the_port_it_got_and_is_ready() {
    let (mut daemon, address) = Daemon::start(keeper(&["serve"]), announced);
    assert!(is_alive(daemon.pid()));
    assert_eq!(
        client(&address)
            .get("/ready")
            .send()
            .unwrap()
            .text()
            .unwrap(),
        r#"{"status":"ready"}"#
    );
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(
        daemon.output().contains("signal received"),
        "{}",
        daemon.output()
    );
    assert!(client(&address).get("/ready").send().is_err());
}

#[test]
fn the_first_signal_drains_and_the_second_ends_at_once() {
    let (mut daemon, address) = Daemon::start(keeper(&["serve"]), announced);
    let mut stream = TcpStream::connect(&address).unwrap();
    stream
        .write_all(b"GET /sleep HTTP/1.1\r\nhost: x\r\n\r\n")
        .unwrap();
    daemon.wait_for_line(|line| line.contains("asleep").then_some(()));
    daemon.interrupt();
    daemon.wait_for_line(|line| line.contains("Draining").then_some(()));
    daemon.interrupt();
    assert_eq!(daemon.wait(patience()).code(), Some(0));
    assert!(
        daemon.output().contains("second signal, ending at once"),
        "{}",
        daemon.output()
    );
}

#[test]
fn the_log_is_json_if_wished() {
    let json = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let (mut daemon, line) = Daemon::start(keeper(&["serve", "--log-format", "json"]), json);
    assert_eq!(
        (&line["message"], &line["level"]),
        (&"listening".into(), &"INFO".into())
    );
    assert!(
        line["address"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line}"
    );
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_second_daemon_on_the_same_socket_is_told_why_it_cannot() {
    let directory = tempdir();
    let listen = format!("unix:{}", directory.path().join("keeper.sock").display());
    let (mut first, address) = Daemon::start(keeper(&["serve", "--listen", &listen]), announced);
    assert_eq!(address, listen);
    let second = Output::of(&mut keeper(&["serve", "--listen", &listen]));
    assert_eq!(second.code, 1, "{second}");
    assert!(
        second
            .stderr
            .starts_with(&format!("error: cannot listen on {listen}\n  caused by: ")),
        "{second}"
    );
    assert_eq!(
        client(&address).get("/health").send().unwrap().status(),
        200
    );
    first.kill();
    first.wait(patience());
    let (_third, _) = Daemon::start(keeper(&["serve", "--listen", &listen]), announced);
    assert_eq!(
        client(&address).get("/health").send().unwrap().status(),
        200
    );
}
