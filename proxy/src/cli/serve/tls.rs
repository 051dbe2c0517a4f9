//! TLS towards clients.

use std::{path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use crate::cli::CliError;

/// What listeners speak TLS with: the certificate chain and the key in these PEM files. Both protocols are
/// offered on every port.
pub(super) fn server_config(certificates: &Path, key: &Path) -> Result<Arc<ServerConfig>, CliError> {
    let unusable = |setting, path: &Path, reason: &dyn std::fmt::Display| {
        let reason = format!("{reason}; it should be a file in PEM that this user may read");
        CliError::setting(setting, &path.display(), &reason)
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect)
        .map_err(|error| unusable("tls_cert_file", certificates, &error))?;
    if chain.is_empty() {
        return Err(unusable("tls_cert_file", certificates, &"it has no certificate"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls_key_file", key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(rustls::ConfigBuilder::<ServerConfig, _>::with_no_client_auth)
        .and_then(|builder| builder.with_single_cert(chain, private));
    let mut config = config.map_err(|error| {
        let reason = format!("{error}; the certificate in tls_cert_file should be of this key");
        CliError::setting("tls_key_file", &key.display(), &reason)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
