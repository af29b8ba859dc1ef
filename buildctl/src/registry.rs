//! A small blocking client of the OCI distribution API: manifests and blobs, tags and their removal. It knows registries, and
//! nothing of jobs; which tag goes where is decided by whoever publishes.
//!
//! Sources of what is said here: OCI Distribution Specification 1.1 (manifests, blobs, mounting, tags), and Docker's "Token
//! Authentication Specification" for the bearer flow.

mod auth;
mod connection;
mod error;
mod manifest;

use std::{path::PathBuf, time::Duration};

use reqwest::{
    Method,
    blocking::Response,
    header::{CONTENT_TYPE, LINK, LOCATION},
};
use serde::Deserialize;

pub use auth::{Auths, Login};
use connection::{Body, Connections, Request};
pub use error::RegistryError;
pub use manifest::{Descriptor, Manifest};

use crate::{
    names::{Digest, Reference, Repository, Tag, Version},
    runner::work::Registries,
};

/// The largest manifest that is read, in bytes: what the specification asks registries to accept at least.
const LARGEST_MANIFEST: u64 = 4 << 20;
/// How many tags of a repository are looked at before one is removed by its digest.
const TAGS: usize = 200;

/// Waits that long before something is tried again. `false` to give up, because the run is to stop.
pub type Pause = Box<dyn Fn(Duration) -> bool + Send + Sync>;

/// How to talk to registries.
pub struct Options {
    /// Hosts that are spoken to without verifying a certificate, or over plain HTTP.
    pub insecure: Vec<String>,
    /// A folder of `HOST/ca.crt` files, looked at before the system's.
    pub certificates: Option<PathBuf>,
    /// Whom to be where.
    pub auths: Auths,
    /// How to wait.
    pub pause: Pause,
}

impl Options {
    /// What a run's work says, with these credentials.
    pub fn of(registries: &Registries, auths: Auths, pause: Pause) -> Self {
        Self {
            insecure: registries.insecure.clone(),
            certificates: registries.certificates.clone(),
            auths,
            pause,
        }
    }
}

/// A client of any number of registries. It must not be used within an async task.
pub struct Registry {
    connections: Connections,
}

/// What became of the wish to remove a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// It was not there, or points to something else by now.
    Absent,
    /// Only its manifest can be removed here, and this other tag needs that.
    Shared(String),
    /// The registry does not remove anything; what it said.
    Unsupported(String),
}

impl Registry {
    /// A client. Nothing is connected to yet.
    pub fn new(options: Options) -> Self {
        Self {
            connections: Connections::new(options),
        }
    }

    /// Reads a manifest. One that is asked for by digest has that digest, or this fails.
    pub fn manifest(&self, at: &Reference) -> Result<Manifest, RegistryError> {
        let version = version(&at.version);
        let request = Request::new(Method::GET, &at.repository, &format!("manifests/{version}"))
            .accept(manifest::ACCEPTED);
        let answer = self.connections.send(request)?;
        let media_type = media_type(&answer);
        let bytes = connection::read(answer, LARGEST_MANIFEST, &at.to_string())?;
        let manifest = Manifest::new(bytes, media_type);
        match &at.version {
            Version::Digest(digest) if manifest.digest() != digest => {
                Err(RegistryError::Unexpected {
                    what: at.to_string(),
                    why: format!("its content has the digest {}", manifest.digest()),
                })
            }
            _ => Ok(manifest),
        }
    }

    /// What a tag points to, as the registry reports it; `None` if there is no such tag.
    pub fn digest_of(&self, at: &Repository, tag: &Tag) -> Result<Option<Digest>, RegistryError> {
        let request =
            Request::new(Method::HEAD, at, &format!("manifests/{tag}")).accept(manifest::ACCEPTED);
        let answer = match self.connections.send(request) {
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let told = answer.headers().get("docker-content-digest");
        if let Some(digest) = told.and_then(|value| value.to_str().ok()?.parse().ok()) {
            return Ok(Some(digest));
        }
        // The header is not mandatory; the content always tells.
        let at = Reference {
            repository: at.clone(),
            version: Version::Tag(tag.clone()),
        };
        let manifest = self.manifest(&at)?;
        Ok(Some(manifest.digest().clone()))
    }

    /// Stores a manifest under a tag or its digest.
    pub fn put_manifest(
        &self,
        at: &Repository,
        version: &Version,
        manifest: &Manifest,
    ) -> Result<(), RegistryError> {
        let path = format!("manifests/{}", self::version(version));
        let request = Request::new(Method::PUT, at, &path)
            .header(CONTENT_TYPE, manifest.media_type())
            .body(Body::Bytes(manifest.bytes().to_vec()));
        self.connections.send(request).map(drop)
    }

    /// Makes sure that everything a manifest refers to is in `to`: blobs are mounted where both are in one registry, else copied;
    /// the manifests of an index are stored by digest. `said` hears of every copy.
    pub fn copy_content(
        &self,
        manifest: &Manifest,
        from: &Repository,
        to: &Repository,
        said: &mut dyn FnMut(String),
    ) -> Result<(), RegistryError> {
        if from == to {
            return Ok(());
        }
        for child in manifest.children() {
            let digest: Digest =
                child
                    .digest
                    .parse()
                    .map_err(|error| RegistryError::Unexpected {
                        what: format!("{from}@{}", manifest.digest()),
                        why: format!("{error}"),
                    })?;
            let version = Version::Digest(digest);
            let at = Reference {
                repository: from.clone(),
                version: version.clone(),
            };
            let child = self.manifest(&at)?;
            self.copy_content(&child, from, to, said)?;
            self.put_manifest(to, &version, &child)?;
        }
        for blob in manifest.blobs() {
            self.copy_blob(&blob, from, to, said)?;
        }
        Ok(())
    }

    /// Removes a tag, if it is there and points to `expected`, where that is known: the tag alone where the registry can do that, else its manifest, unless another tag
    /// of the repository needs it.
    pub fn remove(
        &self,
        at: &Repository,
        tag: &Tag,
        expected: Option<&Digest>,
    ) -> Result<Removal, RegistryError> {
        let digest = match self.digest_of(at, tag)? {
            Some(found) if expected.is_none_or(|expected| found == *expected) => found,
            _ => return Ok(Removal::Absent),
        };
        match self.delete(at, tag.as_str()) {
            Ok(()) | Err(RegistryError::NotFound { .. }) => return Ok(Removal::Removed),
            // Registries that know deletion by digest only say so in different ways (400, 405, 501).
            Err(RegistryError::Refused { .. } | RegistryError::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(other) = self.other_tag(at, tag, &digest)? {
            return Ok(Removal::Shared(other));
        }
        match self.delete(at, digest.as_str()) {
            Ok(()) | Err(RegistryError::NotFound { .. }) => Ok(Removal::Removed),
            Err(RegistryError::Unsupported { why, .. }) => Ok(Removal::Unsupported(why)),
            Err(error) => Err(error),
        }
    }

    /// Removes a tag without touching its manifest; fails as unsupported where only manifests can be removed.
    pub fn remove_tag(&self, at: &Repository, tag: &Tag) -> Result<(), RegistryError> {
        self.delete(at, tag.as_str())
    }

    fn delete(&self, at: &Repository, version: &str) -> Result<(), RegistryError> {
        let request = Request::new(Method::DELETE, at, &format!("manifests/{version}"));
        self.connections.send(request).map(drop)
    }

    /// A tag besides `tag` that points to `digest`. With more tags than can be looked at, it is assumed that there is one.
    fn other_tag(
        &self,
        at: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Option<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Tags {
            tags: Option<Vec<String>>,
        }
        let request = Request::new(Method::GET, at, &format!("tags/list?n={TAGS}"));
        let answer = self.connections.send(request)?;
        let more = answer.headers().contains_key(LINK);
        let what = format!("the tags of {at}");
        let bytes = connection::read(answer, LARGEST_MANIFEST, &what)?;
        let tags: Tags =
            serde_json::from_slice(&bytes).map_err(|error| RegistryError::Unexpected {
                what,
                why: error.to_string(),
            })?;
        let tags = tags.tags.unwrap_or_default();
        if more || tags.len() > TAGS {
            return Ok(Some("one of many".to_owned()));
        }
        for other in tags.iter().filter(|other| *other != tag.as_str()) {
            let Ok(parsed) = other.parse() else { continue };
            if self.digest_of(at, &parsed)?.as_ref() == Some(digest) {
                return Ok(Some(other.clone()));
            }
        }
        Ok(None)
    }

    fn copy_blob(
        &self,
        blob: &Descriptor,
        from: &Repository,
        to: &Repository,
        said: &mut dyn FnMut(String),
    ) -> Result<(), RegistryError> {
        let mut location = None;
        if from.host() == to.host() {
            match self.mount(blob, from, to)? {
                None => return Ok(()),
                upload => location = upload,
            }
        }
        if self.has_blob(to, &blob.digest)? {
            return Ok(());
        }
        said(format!(
            "copying {} ({} bytes) to {to}",
            blob.digest, blob.size
        ));
        self.upload(blob, from, to, location)
    }

    /// Asks the registry to take a blob over from another repository. `Some` is where to upload it instead.
    fn mount(
        &self,
        blob: &Descriptor,
        from: &Repository,
        to: &Repository,
    ) -> Result<Option<String>, RegistryError> {
        let path = format!("blobs/uploads/?mount={}&from={}", blob.digest, from.path());
        let request = Request::new(Method::POST, to, &path)
            .also(&format!("repository:{}:pull", from.path()))
            .body(Body::Bytes(Vec::new()));
        let answer = self.connections.send(request)?;
        match answer.status().as_u16() {
            201 => Ok(None),
            _ => location(&answer, to).map(Some),
        }
    }

    fn has_blob(&self, at: &Repository, digest: &str) -> Result<bool, RegistryError> {
        let request = Request::new(Method::HEAD, at, &format!("blobs/{digest}"));
        match self.connections.send(request) {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn upload(
        &self,
        blob: &Descriptor,
        from: &Repository,
        to: &Repository,
        location: Option<String>,
    ) -> Result<(), RegistryError> {
        let begin = || {
            let request =
                Request::new(Method::POST, to, "blobs/uploads/").body(Body::Bytes(Vec::new()));
            self::location(&self.connections.send(request)?, to)
        };
        let mut place = location.map_or_else(begin, Ok)?;
        let mut left = connection::TRIES;
        loop {
            let source = Request::new(Method::GET, from, &format!("blobs/{}", blob.digest));
            let source = self.connections.send(source)?;
            let joint = if place.contains('?') { '&' } else { '?' };
            let request = Request::new(
                Method::PUT,
                to,
                &format!("{place}{joint}digest={}", blob.digest),
            )
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Body::Stream(source, blob.size));
            match self.connections.send(request) {
                Err(RegistryError::Unreachable { .. }) if left > 1 => {
                    left -= 1;
                    // An upload that broke off cannot be gone on with from its beginning.
                    place = begin()?;
                }
                other => return other.map(drop),
            }
        }
    }
}

fn version(version: &Version) -> &str {
    match version {
        Version::Tag(tag) => tag.as_str(),
        Version::Digest(digest) => digest.as_str(),
    }
}

fn media_type(answer: &Response) -> Option<String> {
    let value = answer.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_owned())
}

fn location(answer: &Response, at: &Repository) -> Result<String, RegistryError> {
    let location = answer.headers().get(LOCATION);
    let location = location.and_then(|value| value.to_str().ok());
    location
        .and_then(|location| Some(answer.url().join(location).ok()?.to_string()))
        .ok_or_else(|| RegistryError::Unexpected {
            what: at.to_string(),
            why: "the registry did not say where to upload to".to_owned(),
        })
}
