//! A gate on the road to a registry: requests pass, are held until the test lets them go on, or are turned away.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

/// The gate; it stands for as long as the test runs.
pub(crate) struct Toll {
    host: String,
    rules: Arc<Mutex<Vec<Rule>>>,
}

/// What becomes of a request.
struct Rule {
    method: &'static str,
    part: String,
    /// Who is told of one that is held; without, it is turned away.
    told: Option<mpsc::Sender<Held>>,
}

/// A request that waits. Dropping this turns it away.
pub(crate) struct Held(mpsc::Sender<()>);

impl Held {
    pub(crate) fn go_on(self) {
        self.0.send(()).unwrap();
    }
}

impl Toll {
    /// A gate on the road to this host.
    pub(crate) fn before(registry: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let rules: Arc<Mutex<Vec<Rule>>> = Arc::default();
        let toll = Self {
            host: listener.local_addr().unwrap().to_string(),
            rules: Arc::clone(&rules),
        };
        let registry = registry.to_owned();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (rules, registry) = (Arc::clone(&rules), registry.clone());
                // Whoever gives up is no matter of the test's.
                thread::spawn(move || drop(pass(&client, &rules, &registry)));
            }
        });
        toll
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Holds the first request like this.
    pub(crate) fn hold(&self, method: &'static str, part: &str) -> mpsc::Receiver<Held> {
        let (told, held) = mpsc::channel();
        self.add(method, part, Some(told));
        held
    }

    /// Turns all requests like this away.
    pub(crate) fn refuse(&self, method: &'static str, part: &str) {
        self.add(method, part, None);
    }

    fn add(&self, method: &'static str, part: &str, told: Option<mpsc::Sender<Held>>) {
        let part = part.to_owned();
        self.rules.lock().unwrap().push(Rule { method, part, told });
    }

    /// Lets everything pass again.
    pub(crate) fn admit(&self) {
        self.rules.lock().unwrap().clear();
    }
}

/// Whether a request that begins like this may pass, sooner or later.
fn may_pass(line: &str, rules: &Mutex<Vec<Rule>>) -> bool {
    let told = {
        let mut rules = rules.lock().unwrap();
        let meant = |rule: &Rule| line.starts_with(rule.method) && line.contains(&rule.part);
        match rules.iter().position(meant) {
            None => return true,
            Some(at) if rules[at].told.is_none() => return false,
            Some(at) => rules.remove(at).told,
        }
    };
    let (sender, receiver) = mpsc::channel();
    told.is_some_and(|told| told.send(Held(sender)).is_ok()) && receiver.recv().is_ok()
}

/// One request and its answer; the next one needs another connection, so that it is looked at, too.
fn pass(client: &TcpStream, rules: &Mutex<Vec<Rule>>, registry: &str) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !may_pass(&line, rules) {
        return client.shutdown(Shutdown::Both);
    }
    let mut head = line.clone() + "Connection: close\r\n";
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line)?;
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut upstream = TcpStream::connect(registry)?;
    upstream.write_all(head.as_bytes())?;
    let mut to = upstream.try_clone()?;
    thread::spawn(move || {
        let mut piece = [0; 8192];
        while let Ok(length @ 1..) = reader.read(&mut piece) {
            if to.write_all(&piece[..length]).is_err() {
                return;
            }
        }
    });
    let mut back = client;
    io::copy(&mut upstream, &mut back)?;
    client.shutdown(Shutdown::Both)
}
