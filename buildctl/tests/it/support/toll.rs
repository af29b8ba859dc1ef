//! A gate on the road to a registry: requests and answers pass, are held until the test lets them go on, or are turned away.

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

/// Which way something goes that is held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

/// What becomes of a request, or of its answer.
struct Rule {
    way: Way,
    method: &'static str,
    part: String,
    /// Who is told of one that is held; without, it is turned away.
    told: Option<mpsc::Sender<Held>>,
}

/// A request, or an answer, that waits. Dropping this turns it away.
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
        self.add(Way::There, method, part, Some(told));
        held
    }

    /// Holds the answer to the first request like this: the registry has done it, and who asked does not know.
    pub(crate) fn hold_answer(&self, method: &'static str, part: &str) -> mpsc::Receiver<Held> {
        let (told, held) = mpsc::channel();
        self.add(Way::Back, method, part, Some(told));
        held
    }

    /// Turns all requests like this away.
    pub(crate) fn refuse(&self, method: &'static str, part: &str) {
        self.add(Way::There, method, part, None);
    }

    fn add(&self, way: Way, method: &'static str, part: &str, told: Option<mpsc::Sender<Held>>) {
        let part = part.to_owned();
        let rule = Rule {
            way,
            method,
            part,
            told,
        };
        self.rules.lock().unwrap().push(rule);
    }

    /// Lets everything pass again.
    pub(crate) fn admit(&self) {
        self.rules.lock().unwrap().clear();
    }
}

/// Whether a request that begins like this, or its answer, may pass, sooner or later.
fn may_pass(way: Way, line: &str, rules: &Mutex<Vec<Rule>>) -> bool {
    let told = {
        let mut rules = rules.lock().unwrap();
        let meant = |rule: &Rule| {
            rule.way == way && line.starts_with(rule.method) && line.contains(&rule.part)
        };
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
    if !may_pass(Way::There, &line, rules) {
        return client.shutdown(Shutdown::Both);
    }
    let request = line.clone();
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
    upstream.peek(&mut [0])?;
    if !may_pass(Way::Back, &request, rules) {
        return client.shutdown(Shutdown::Both);
    }
    io::copy(&mut upstream, &mut back)?;
    client.shutdown(Shutdown::Both)
}
