//! The service over HTTP, as its clients meet it: over the fake scheduler and the ledger in memory, by a clock that the test
//! moves, and with real sockets.

mod browser;
mod client;
mod daemon;
mod door;
mod events;
mod health;
mod original;
mod resources;
mod socket;

use std::{net::SocketAddr, sync::Arc};

use buildctl::{
    config::{ClientArgs, ClientConfig, Config, SettingsArgs},
    mcp,
    metrics::Metrics,
    server::{self, Context, Guard},
};
use runyard_common::{
    http::server::{self as http, ServeOptions},
    shutdown::{Latch, Readiness, Shutdown, Trigger},
    testing::patience,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::service::Bench;

/// A service that listens.
struct Stage {
    bench: Bench,
    address: SocketAddr,
    readiness: Readiness,
    trigger: Trigger,
    metrics: Arc<Metrics>,
}

/// An answer, read to its end.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// What the routes of a bench's service need, with these variables as its configuration.
fn context(bench: &Bench, variables: &[(&str, &str)], shutdown: Shutdown) -> (Context, Latch) {
    let env = |name: &str| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let config = Config::load(&SettingsArgs::default(), &env).unwrap().config;
    let (readiness, latch) = Readiness::new();
    let builds = Arc::new(bench.service.clone());
    let metrics = Arc::new(Metrics::default());
    let context = Context::new(builds, Guard::of(&config), metrics, readiness, shutdown);
    (context.unwrap(), latch)
}

impl Stage {
    async fn new(bench: Bench) -> Self {
        Self::with(bench, &[]).await
    }

    /// One with these variables as its configuration.
    async fn with(bench: Bench, variables: &[(&str, &str)]) -> Self {
        let (trigger, shutdown) = Shutdown::manual();
        let (context, latch) = context(&bench, variables, shutdown.clone());
        let (readiness, metrics) = (context.readiness.clone(), Arc::clone(&context.metrics));
        let bound = http::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = bound.address().tcp().unwrap();
        let mcp = mcp::service(Arc::clone(&context.builds));
        let router = server::router(context, Some(mcp));
        tokio::spawn(async move {
            let drain = async move { shutdown.drain().await };
            http::serve(bound, None, router, ServeOptions::default(), drain).await
        });
        latch.release();
        Self {
            bench,
            address,
            readiness,
            trigger,
            metrics,
        }
    }

    fn client_config(&self) -> ClientConfig {
        let args = ClientArgs {
            url: Some(format!("http://{}", self.address)),
            token_file: None,
        };
        ClientConfig::load(&args, &|_| None).unwrap()
    }

    /// A request with these further lines in its head. HTTP/1.0, so that its answer ends with the connection.
    async fn request(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let host = format!("Host: {}", self.address);
        let named = headers.iter().any(|header| header.starts_with("Host:"));
        let own = (!named).then_some(host.as_str());
        let lines: Vec<&str> = headers.iter().copied().chain(own).collect();
        let request = format!(
            "{line} HTTP/1.0\r\n{}\r\nContent-Length: {}\r\n\r\n{body}",
            lines.join("\r\n"),
            body.len()
        );
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = timeout(patience(), exchange).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer's head");
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.request(&format!("GET {path}"), &[], "").await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(&format!("POST {path}"), &[], &body.to_string())
            .await
    }
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.trigger.now();
    }
}
