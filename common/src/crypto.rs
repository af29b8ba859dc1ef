//! Which cryptography TLS uses: ring, in client and server alike. No protocol knowledge lives here.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider of the cryptography, for TLS configurations that name it.
pub fn provider() -> Arc<CryptoProvider> {
    install();
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(rustls::crypto::ring::default_provider()))
}

/// Makes ring the process's provider, for libraries that ask for the default one. Further calls do
/// nothing.
pub fn install() {
    // An error means that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_default_provider_after_install() {
        install();
        install();
        assert!(CryptoProvider::get_default().is_some());
    }
}
