//! As much HTTP as these tests need: questions to an agent, and files for its artifacts. Loopback only.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use serde_json::Value;

/// An answer: status, `X-Nomad-Index`, body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) index: u64,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Asks once. `None`: nobody listens, or hung up.
pub(crate) fn ask(port: u16, method: &str, path: &str, body: &str) -> Option<Answer> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    // Longer than any question waits.
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .ok()?;
    // 1.0: the answer is not chunked, and its end is the connection's.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let index = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-nomad-index")
            .then(|| value.trim().parse().ok())?
    });
    Some(Answer {
        status: head.split_ascii_whitespace().nth(1)?.parse().ok()?,
        index: index.unwrap_or_default(),
        body: body.to_owned(),
    })
}

/// A server of files, until the test's process ends.
pub(crate) struct Files {
    address: SocketAddr,
}

impl Files {
    pub(crate) fn serve<const N: usize>(files: [(&str, Vec<u8>); N]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let files: BTreeMap<String, Vec<u8>> = files
            .into_iter()
            .map(|(name, bytes)| (format!("/{name}"), bytes))
            .collect();
        let files = Arc::new(files);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let files = files.clone();
                thread::spawn(move || answer(&stream, &files));
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

/// Answers one request; a client that hangs up early is its own loss.
fn answer(mut stream: &TcpStream, files: &BTreeMap<String, Vec<u8>>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut words = request.split_ascii_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    let file = files.get(path.split('?').next()?);
    let (status, body) = file.map_or(("404 Not Found", &[][..]), |bytes| ("200 OK", bytes));
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}
