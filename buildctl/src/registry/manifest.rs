//! Manifests: bytes that are never changed, and what they refer to (OCI Image Specification, "Image Manifest" and "Image Index";
//! Docker's "Image Manifest Version 2, Schema 2", which has the same fields).

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::{hex::hex, names::Digest};

/// What is asked for, in the form of an `Accept` header.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest, as a registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    bytes: Vec<u8>,
    media_type: String,
    digest: Digest,
}

/// What a manifest refers to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its kind.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    #[serde(default)]
    pub size: u64,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Content {
    media_type: Option<String>,
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
}

impl Manifest {
    /// A manifest of these bytes, with the media type that it says itself.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self::new(bytes, None)
    }

    /// A manifest of these bytes; its media type is what the registry said, or what the manifest says of itself.
    pub(super) fn new(bytes: Vec<u8>, told: Option<String>) -> Self {
        let content = content(&bytes);
        let media_type = told
            .filter(|told| told.contains("manifest") || told.contains("index"))
            .or(content.media_type)
            .unwrap_or_else(|| {
                let kind = if content.manifests.is_empty() {
                    "manifest"
                } else {
                    "index"
                };
                format!("application/vnd.oci.image.{kind}.v1+json")
            });
        Self {
            digest: digest(&bytes),
            bytes,
            media_type,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its kind.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The digest of its bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The manifests that it lists, if it is an index.
    pub fn children(&self) -> Vec<Descriptor> {
        content(&self.bytes).manifests
    }

    /// Its configuration and layers, each once. Layers that are not kept in registries are left out.
    pub fn blobs(&self) -> Vec<Descriptor> {
        let content = content(&self.bytes);
        let mut blobs: Vec<Descriptor> = Vec::new();
        for blob in content.config.into_iter().chain(content.layers) {
            let foreign =
                blob.media_type.contains("foreign") || blob.media_type.contains("nondistributable");
            let safe = |b: u8| b.is_ascii_alphanumeric() || b"+._-:".contains(&b);
            let known = blobs.iter().any(|other| other.digest == blob.digest);
            if !foreign && !known && blob.digest.bytes().all(safe) {
                blobs.push(blob);
            }
        }
        blobs
    }
}

fn content(bytes: &[u8]) -> Content {
    serde_json::from_slice(bytes).unwrap_or_default()
}

fn digest(bytes: &[u8]) -> Digest {
    format!("sha256:{}", hex(Sha256::digest(bytes)))
        .parse()
        .expect("64 digits were just written")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn a_digest_is_that_of_the_bytes() {
        let manifest = Manifest::new(b"{}".to_vec(), None);
        let empty = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(manifest.digest().as_str(), empty);
        let kind = "application/vnd.oci.image.manifest.v1+json";
        assert_eq!(manifest.media_type(), kind);
    }

    #[test]
    fn each_blob_is_named_once_and_foreign_layers_are_not() {
        let json = format!(
            r#"{{"config":{{"digest":"{A}","size":2}},"layers":[{{"digest":"{A}","size":2}},
               {{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"sha256:b"}},
               {{"digest":"sha256:../../x"}}]}}"#
        );
        let blobs = Manifest::new(json.into_bytes(), None).blobs();
        assert_eq!(blobs.len(), 1);
        assert_eq!((blobs[0].digest.as_str(), blobs[0].size), (A, 2));
    }

    #[test]
    fn an_index_lists_its_children() {
        let json = format!(r#"{{"manifests":[{{"digest":"{A}","size":7}}]}}"#);
        let index = Manifest::new(json.into_bytes(), Some("text/plain".to_owned()));
        assert_eq!(
            index.media_type(),
            "application/vnd.oci.image.index.v1+json"
        );
        assert_eq!(index.children()[0].digest, A);
        assert!(index.blobs().is_empty());
    }
}
