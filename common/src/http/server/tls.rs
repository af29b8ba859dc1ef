//! The server's side of TLS: certificates from PEM files into what [`super::accept`] needs. The
//! client's side is [`crate::http::client`]'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

use crate::crypto;
use crate::exit::Exit;
use crate::report::{Failure, OrExit};

/// The files that a TLS server needs, all PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsConfig {
    /// The server's certificate, followed by those between it and the root.
    pub cert: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
    /// Authorities of which every client must present a certificate; without it clients need none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// Loaded certificates, ready for connections. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl TlsConfig {
    /// Reads the files. Fails with [`Exit::Config`], naming the file, when one cannot be read or
    /// does not fit.
    pub fn load(&self) -> Result<Tls, Failure> {
        let certificates = certificates(&self.cert)?;
        let key = private_key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(crypto::provider())
            .with_safe_default_protocol_versions()
            .or_exit(Exit::Internal)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots(path)?);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots, crypto::provider()).build();
                let refuse = |error| refuse("client_ca", path).caused_by(error);
                builder
                    .with_client_cert_verifier(verifier.map_err(|error| refuse(Box::new(error)))?)
            }
        };
        let mut config = builder
            .with_single_cert(certificates, key)
            .map_err(|error| {
                let files = format!("`{}` and `{}`", self.cert.display(), self.key.display());
                Failure::new(
                    Exit::Config,
                    format!("the certificate and key in {files} do not fit"),
                )
                .caused_by(error)
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| refuse("certificates", path).caused_by(error))?;
    if certificates.is_empty() {
        return Err(
            refuse("certificates", path).hint("the file holds no `BEGIN CERTIFICATE` block")
        );
    }
    Ok(certificates)
}

/// The private key of a PEM file: PKCS#8, PKCS#1 or SEC1.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| refuse("private key", path).caused_by(error))
}

/// The authorities of a PEM file, and nobody else.
fn roots(path: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| refuse("authorities", path).caused_by(error))?;
    }
    Ok(roots)
}

fn refuse(what: &str, path: &Path) -> Failure {
    Failure::new(
        Exit::Config,
        format!("cannot use the {what} in `{}`", path.display()),
    )
}
