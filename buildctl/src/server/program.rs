//! `GET /v1/runner`: this very program, for nodes that have to run `buildctl run-phase` and do not have it. It is no secret, so
//! anybody may have it. The `ETag` is its SHA-256, as an artifact's checksum wants it.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::{
    Context,
    answer::{Asked, Refusal},
};
use crate::hex::hex;

/// Bytes that are read at once.
const BLOCK: usize = 128 << 10;

/// The program of this process, also when another one has taken its path since. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Program(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    length: u64,
    digest: OnceCell<String>,
}

impl Program {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        let file = File::open("/proc/self/exe")?;
        Ok(Self(Arc::new(Inner {
            length: file.metadata()?.len(),
            file,
            digest: OnceCell::new(),
        })))
    }

    /// The SHA-256 of the file, in hexadecimal digits. Reads it once.
    pub async fn digest(&self) -> io::Result<&str> {
        let digest = self.0.digest.get_or_try_init(|| async {
            let this = self.clone();
            let digest = tokio::task::spawn_blocking(move || this.hash());
            digest.await.map_err(io::Error::other)?
        });
        digest.await.map(String::as_str)
    }

    fn hash(&self) -> io::Result<String> {
        let mut hash = Sha256::new();
        let mut block = vec![0; BLOCK];
        let mut at = 0;
        loop {
            match self.0.file.read_at(&mut block, at)? {
                0 => break,
                count => {
                    hash.update(&block[..count]);
                    at += count as u64;
                }
            }
        }
        Ok(hex(hash.finalize()))
    }

    /// Its bytes, read as they are sent.
    fn body(&self) -> Body {
        let blocks = stream::try_unfold(0, {
            let this = self.clone();
            move |at| this.clone().block(at)
        });
        Body::from_stream(blocks)
    }

    /// A block, and where the next one begins. No thread waits for whoever reads them slowly.
    async fn block(self, at: u64) -> io::Result<Option<(Bytes, u64)>> {
        let read = tokio::task::spawn_blocking(move || {
            let mut block = vec![0; BLOCK];
            let count = self.0.file.read_at(&mut block, at)?;
            block.truncate(count);
            Ok::<_, io::Error>(Bytes::from(block))
        });
        let block = read.await.map_err(io::Error::other)??;
        let next = at + block.len() as u64;
        Ok((!block.is_empty()).then_some((block, next)))
    }
}

/// What the asking machine is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Machine {
    arch: Option<String>,
}

pub(super) async fn download(
    State(context): State<Context>,
    Asked(machine): Asked<Machine>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let ours = std::env::consts::ARCH;
    let is_ours = |arch: &str| match arch {
        "amd64" => ours == "x86_64",
        "arm64" => ours == "aarch64",
        arch => arch == ours,
    };
    if let Some(arch) = machine.arch.as_deref().filter(|arch| !is_ours(arch)) {
        let details = format!("this service has a program for {ours}, and none for `{arch}`");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "Not found", details));
    }
    let program = &context.program;
    let digest = program.digest().await.map_err(|error| {
        tracing::error!(%error, "the program cannot be read");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error", "")
    })?;
    let tag = format!("\"{digest}\"");
    let known = headers.get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, program.0.length.to_string()),
        (header::ETAG, tag),
        (
            HeaderName::from_static("x-buildctl-version"),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
    ];
    Ok((headers, program.body()).into_response())
}
