//! Real Git repositories, reached as files or over the network.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};

use runyard_common::testing::{TempDir, eventually, patience, tempdir};

/// A repository with one branch, `main`, and busybox in it, because images here begin with nothing.
pub(crate) struct Repository {
    folder: TempDir,
}

/// `git daemon` for one repository.
pub(crate) struct Daemon {
    process: Child,
    url: String,
}

impl Repository {
    /// One commit with this Dockerfile.
    pub(crate) fn with(dockerfile: &str) -> Self {
        let repository = Self { folder: tempdir() };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        fs::copy("/bin/busybox", repository.path().join("busybox")).unwrap();
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(repository.path().join("busybox"), mode).unwrap();
        repository.commit("Dockerfile", dockerfile);
        repository
    }

    /// Changes a file, and returns the commit.
    pub(crate) fn commit(&self, file: &str, content: &str) -> String {
        fs::write(self.path().join(file), content).unwrap();
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "change"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs Git in it.
    pub(crate) fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(args)
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Its URL as files.
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// Serves it over HTTP to somebody with this name and password, for as long as the test runs.
    pub(crate) fn serve_to(&self, username: &str, password: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/repo", listener.local_addr().unwrap());
        let folder = self.path().to_owned();
        let login = format!(
            "Basic {}",
            STANDARD.encode(format!("{username}:{password}"))
        );
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that gives up is no matter of the test's.
                let _ = answer(&stream.unwrap(), &folder, &login);
            }
        });
        url
    }

    /// Serves it over the network.
    pub(crate) fn serve(&self) -> Daemon {
        // `git daemon` cannot choose a port; this one was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let process = Command::new("git")
            .args([
                "daemon",
                "--export-all",
                "--listen=127.0.0.1",
                "--reuseaddr",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", self.path().display()))
            .arg(self.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually(patience(), || TcpStream::connect(("127.0.0.1", port)).ok());
        Daemon {
            process,
            url: format!("git://127.0.0.1:{port}/"),
        }
    }
}

/// One request: what `git http-backend` makes of it (it is a CGI program), or a demand for a login.
fn answer(stream: &TcpStream, folder: &Path, login: &str) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let value = |name: &str| {
        let mut pairs = head.iter().filter_map(|line| line.split_once(": "));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map_or("", |(_, value)| value)
    };
    let mut writer = stream;
    if value("authorization") != login {
        let refusal = "HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"test\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return writer.write_all(refusal.as_bytes());
    }
    let request: Vec<&str> = head[0].split(' ').collect();
    let (path, query) = request[1].split_once('?').unwrap_or((request[1], ""));
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path.replacen("/repo", "/.git", 1))
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", request[0])
        .env("CONTENT_TYPE", value("content-type"))
        .env("HTTP_CONTENT_ENCODING", value("content-encoding"))
        .env("GIT_PROTOCOL", value("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let length = value("content-length").parse().unwrap_or(0);
    io::copy(&mut reader.take(length), &mut backend.stdin.take().unwrap())?;
    let output = backend.wait_with_output()?.stdout;
    let status = output
        .strip_prefix(b"Status: ")
        .map_or("200 OK", |_| "404 Not Found");
    write!(writer, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    writer.write_all(&output)
}

impl Daemon {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `git` hands over to another program of the same process group; ending the child is enough, as it is that program's parent.
        let pid = rustix::process::Pid::from_child(&self.process);
        for child in runyard_common::testing::children(self.process.id()) {
            let child = rustix::process::Pid::from_raw(child.cast_signed()).unwrap();
            let _ = rustix::process::kill_process(child, rustix::process::Signal::TERM);
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}
