//! The certificate that a node shows: its names, and how long it is valid.
//!
//! It is looked at on a connection of its own that checks nothing and sends nothing. Whether the router
//! trusts the certificate is seen where it connects as always; this tells why it does not.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::{extensions::GeneralName, prelude::parse_x509_certificate};

use super::{Finding, listed};

/// How long the handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A certificate should be renewed before this little time is left.
const DAYS_LEFT: u64 = 14;

const DAY: u64 = 24 * 60 * 60;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The names and IP addresses that it is for.
    names: Vec<String>,
    /// When it ends, in seconds since 1970.
    not_after: u64,
}

// === impl Certificate ===

impl Certificate {
    /// The certificate of the server at `address`; `None` where it speaks no TLS.
    pub(super) async fn shown_at(address: SocketAddr) -> Option<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Onlooker(provider)))
            .with_no_client_auth();
        let handshake = async {
            let tcp = TcpStream::connect(address).await.ok()?;
            let name = ServerName::IpAddress(address.ip().into());
            let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
            let (_, session) = tls.get_ref();
            Self::read(session.peer_certificates()?.first()?)
        };
        tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await.ok()?
    }

    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(name).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        let not_after = certificate.validity().not_after.timestamp().try_into().unwrap_or(0);
        Some(Self { names, not_after })
    }

    /// What there is to say of it where it is checked against `server_name`.
    pub(super) fn finding(&self, address: SocketAddr, server_name: &str, now: SystemTime) -> Finding {
        let names = listed(&self.names);
        if !self.names.iter().any(|name| covers(name, server_name)) {
            // A label in place of the star makes a name that a wildcard covers.
            let example = self.names.iter().map(|name| name.replacen('*', "any", 1)).next();
            let fix = match example {
                Some(example) => {
                    format!("set `upstream_server_name` to a name that it is for, such as {example}")
                }
                None => "issue a certificate with a subject alternative name".to_owned(),
            };
            let what = format!("{address}: the certificate is for {names}, and not for {server_name}");
            return Finding::problem("certificate", what, fix);
        }
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let renew = "renew it; Qdrant reads it again after `tls.cert_ttl`, or when restarted";
        match self.not_after.checked_sub(now).map(|left| left / DAY) {
            None => {
                let days = (now - self.not_after) / DAY;
                Finding::problem(
                    "certificate",
                    format!("{address}: the certificate ended {days} days ago"),
                    renew,
                )
            }
            Some(days) if days < DAYS_LEFT => Finding::warning(
                "certificate",
                format!("{address}: the certificate ends in {days} days"),
                renew,
            ),
            Some(days) => Finding::ok("certificate", format!("{address}: for {names}, ends in {days} days")),
        }
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let ip = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(ip.to_string())
        }
        _ => None,
    }
}

/// Whether a certificate for `pattern` is for `name`: a star stands for the first label.
fn covers(pattern: &str, name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let by_star = || {
        let (_, parent) = name.split_once('.')?;
        Some(parent.eq_ignore_ascii_case(pattern.strip_prefix("*.")?))
    };
    pattern.eq_ignore_ascii_case(name) || by_star().unwrap_or(false)
}

/// Looks at a certificate without judging it.
struct Onlooker(Arc<CryptoProvider>);

// === impl Onlooker ===

impl fmt::Debug for Onlooker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Onlooker").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Onlooker {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn names_and_days_are_read_and_judged() {
        let issued = rcgen::generate_simple_self_signed(["*.q.ns.svc".to_owned(), "10.0.0.1".to_owned()]);
        let der = issued.expect("a certificate").cert.der().to_vec();
        let mut certificate = Certificate::read(&der).expect("X.509");
        assert_eq!(certificate.names, ["*.q.ns.svc", "10.0.0.1"]);

        let now = UNIX_EPOCH + Duration::from_secs(100 * DAY);
        certificate.not_after = 130 * DAY;
        let address = SocketAddr::from(([10, 0, 0, 1], 6333));
        let level = |certificate: &Certificate, name| certificate.finding(address, name, now).level;
        assert_eq!(level(&certificate, "any.q.ns.svc"), Level::Ok);
        assert_eq!(level(&certificate, "10.0.0.1"), Level::Ok);
        assert_eq!(level(&certificate, "q.ns.svc"), Level::Problem);
        assert_eq!(level(&certificate, "a.b.q.ns.svc"), Level::Problem);
        let fix = certificate.finding(address, "q.ns.svc", now).fix.expect("a fix");
        assert!(fix.ends_with("such as any.q.ns.svc"), "{fix}");
        certificate.not_after = 110 * DAY;
        assert_eq!(level(&certificate, "any.q.ns.svc"), Level::Warning);
        certificate.not_after = 99 * DAY;
        assert_eq!(level(&certificate, "any.q.ns.svc"), Level::Problem);
    }
}
