//! A real registry (`docker-registry`) on a port of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

use runyard_common::testing::{TempDir, tempdir};

/// `me` with the password `opensesame`, as htpasswd(1) writes it.
const LOGINS: &str = "me:$2b$04$oKd.K7YTSQe0hs0aDaanw.7qE1P1D0X1jzTF2.35FewW5fGeXLgAi\n";

/// A registry that runs until this is dropped.
pub(crate) struct Registry {
    pub(crate) process: Child,
    folder: TempDir,
    host: String,
}

impl Registry {
    /// One for everybody.
    pub(crate) fn open() -> Self {
        Self::start("")
    }

    /// One for `me` with the password `opensesame` only.
    pub(crate) fn private() -> Self {
        Self::start("auth:\n  htpasswd:\n    realm: test\n    path: logins\n")
    }

    fn start(auth: &str) -> Self {
        let folder = tempdir();
        fs::write(folder.path().join("logins"), LOGINS).unwrap();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: data\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:0\n{auth}"
        );
        fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", "config.yml"])
            .current_dir(folder.path())
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let host = loop {
            line.clear();
            assert_ne!(
                said.read_line(&mut line).unwrap(),
                0,
                "the registry has ended"
            );
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split('"').next().unwrap().trim().to_owned();
            }
        };
        // It stops when nobody reads what it says.
        thread::spawn(move || said.read_to_end(&mut Vec::new()));
        Self {
            process,
            folder,
            host,
        }
    }

    /// Its host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Ends it before its time.
    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Where it keeps a tag.
    pub(crate) fn tag_folder(&self, repository: &str, tag: &str) -> PathBuf {
        let below =
            format!("data/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}");
        self.folder.path().join(below)
    }

    /// The digest that a tag has, in its own files.
    pub(crate) fn digest(&self, repository: &str, tag: &str) -> Option<String> {
        let link = self.tag_folder(repository, tag).join("current/link");
        fs::read_to_string(link).ok()
    }
}

impl Registry {
    /// A manifest, by its digest, in its own files.
    pub(crate) fn manifest(&self, digest: &str) -> serde_json::Value {
        let hash = digest.trim_start_matches("sha256:");
        let below = format!(
            "data/docker/registry/v2/blobs/sha256/{}/{hash}/data",
            &hash[..2]
        );
        serde_json::from_slice(&fs::read(self.folder.path().join(below)).unwrap()).unwrap()
    }

    /// The tags of a repository.
    pub(crate) fn tags(&self, repository: &str) -> Vec<String> {
        let tags = self.tag_folder(repository, "");
        let entries = fs::read_dir(tags).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have been stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
