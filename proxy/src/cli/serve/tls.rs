//! TLS towards clients.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::cli::CliError;

/// What listeners speak TLS with: the certificate chain and the key in these PEM files. Both protocols are
/// offered on every port. With `client_ca`, clients have to show a certificate of one of its CAs.
pub(super) fn server_config(
    certificates: &Path,
    key: &Path,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, CliError> {
    let unusable = |setting, path: &Path, reason: &dyn std::fmt::Display| {
        let reason = format!("{reason}; it should be a file in PEM that this user may read");
        CliError::setting(setting, &path.display(), &reason)
    };
    let read = |setting, path: &Path| {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .map_err(|error| unusable(setting, path, &error))?;
        match chain.is_empty() {
            true => Err(unusable(setting, path, &"it has no certificate")),
            false => Ok(chain),
        }
    };
    let chain = read("tls_cert_file", certificates)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls_key_file", key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let config = match client_ca {
        None => config.map(rustls::ConfigBuilder::<ServerConfig, _>::with_no_client_auth),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in read("tls_client_ca_file", path)? {
                roots.add(certificate).map_err(|error| unusable("tls_client_ca_file", path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            let verifier = verifier.map_err(|error| unusable("tls_client_ca_file", path, &error))?;
            config.map(|config| config.with_client_cert_verifier(verifier))
        }
    };
    let config = config.and_then(|config| config.with_single_cert(chain, private));
    let mut config = config.map_err(|error| {
        let reason = format!("{error}; the certificate in tls_cert_file should be of this key");
        CliError::setting("tls_key_file", &key.display(), &reason)
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
