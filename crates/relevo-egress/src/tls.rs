//! The TLS implementation of the process.

/// Installs *ring* as the process's TLS provider. Further calls have no effect.
///
/// reqwest is built without a provider, so this precedes the construction of every HTTP client.
pub fn install_tls_provider() {
    // Fails only when a provider is already installed, and all callers install this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
