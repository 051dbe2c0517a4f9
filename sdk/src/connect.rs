//! Dialling one address: TCP without delay, TLS where the nodes speak it.
//!
//! Both the topology's own client and the pools of client requests dial through here. The address
//! always comes from discovery; the name that a certificate is checked against is separate, because
//! certificates carry names while pods are dialled by IP.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How long a TCP and TLS handshake with a node may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A node that vanished without a word is noticed, even by a request that waits for its answer.
const KEEP_ALIVE: socket2::TcpKeepalive =
    socket2::TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));

/// TLS towards the nodes.
#[derive(Clone)]
pub struct Tls {
    config: Arc<rustls::ClientConfig>,
    server_name: ServerName<'static>,
}

/// What TLS towards the nodes is made of.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// The CA certificates to trust, in PEM; the system's where `None`.
    pub roots: Option<Vec<u8>>,
    /// The name that every node's certificate is checked against. Default: the headless Service, or
    /// the first fixed node.
    pub server_name: Option<String>,
    /// Who the router is, for nodes that ask clients for a certificate (Qdrant's
    /// `verify_https_client_certificate`, which concerns its REST port).
    pub identity: Option<TlsIdentity>,
}

/// A certificate and its private key.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The certificate chain, in PEM.
    pub certificates: Vec<u8>,
    /// The private key, in PEM.
    pub key: Vec<u8>,
}

/// TLS towards the nodes was configured in a way that cannot work.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The PEM data holds no usable certificate.
    #[error(
        "no usable CA certificate in the PEM given: {0}; check that it holds `-----BEGIN CERTIFICATE-----` blocks"
    )]
    Roots(String),
    /// The client certificate or its key cannot be used.
    #[error(
        "no usable client certificate: {0}; check that both are PEM, and that the key is the certificate's"
    )]
    Identity(String),
    /// The system offers no root certificates.
    #[error("the system has no root certificates; give the CA of the nodes' certificates explicitly")]
    NoSystemRoots,
    /// The server name is neither a DNS name nor an IP address.
    #[error(
        "`{0}` is not a server name; give a name that the nodes' certificates carry, such as `*.{{headless}}`'s first label replaced by any pod"
    )]
    ServerName(String),
}

/// Dials one fixed address, whatever the URI says.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    address: SocketAddr,
    tls: Option<Tls>,
}

/// An open connection, plain or encrypted.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Encrypted(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(test)]
    Simulated(tokio::io::DuplexStream),
}

// === impl Tls ===

impl Tls {
    /// TLS as `options` say, with `default_name` for a server name where they do not give one.
    ///
    /// # Errors
    ///
    /// When the PEM data holds no certificate, the system has none, a key is not its certificate's, or the
    /// name is not a name.
    pub fn new(options: &TlsOptions, default_name: &str) -> Result<Self, TlsError> {
        let mut store = rustls::RootCertStore::empty();
        match &options.roots {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|error| TlsError::Roots(error.to_string()))?;
                    store.add(certificate).map_err(|error| TlsError::Roots(error.to_string()))?;
                }
                if store.is_empty() {
                    return Err(TlsError::Roots("it is empty".to_owned()));
                }
            }
            None => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() {
                    return Err(TlsError::NoSystemRoots);
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Roots(error.to_string()))?
            .with_root_certificates(store);
        let config = match &options.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let unusable = |error: &dyn std::fmt::Display| TlsError::Identity(error.to_string());
                let chain = CertificateDer::pem_slice_iter(&identity.certificates);
                let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| unusable(&error))?;
                let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|error| unusable(&error))?;
                config.with_client_auth_cert(chain, key).map_err(|error| unusable(&error))?
            }
        };
        let server_name = options.server_name.as_deref().unwrap_or(default_name).trim_end_matches('.');
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsError::ServerName(server_name.to_owned()))?;
        Ok(Self { config: Arc::new(config), server_name })
    }

    /// The same trust, offering `protocol` in the handshake (ALPN).
    pub(crate) fn offering(&self, protocol: &[u8]) -> Self {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        Self { config: Arc::new(config), server_name: self.server_name.clone() }
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(address: SocketAddr, tls: Option<Tls>) -> Self {
        Self { address, tls }
    }

    /// Where it dials.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it speaks TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// A new connection.
    pub(crate) async fn dial(self) -> io::Result<Stream> {
        #[cfg(test)]
        if let Some(pipe) = crate::simulation::network::connect(self.address).await {
            return pipe.map(Stream::Simulated);
        }
        let handshake = async {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            socket2::SockRef::from(&tcp).set_tcp_keepalive(&KEEP_ALIVE)?;
            Ok(match self.tls {
                None => Stream::Plain(tcp),
                Some(tls) => {
                    let connector = tokio_rustls::TlsConnector::from(tls.config);
                    Stream::Encrypted(Box::new(connector.connect(tls.server_name, tcp).await?))
                }
            })
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
            Ok(stream) => stream,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection to {} within {CONNECT_TIMEOUT:?}", self.address),
            )),
        }
    }
}

impl tower::Service<http::Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async { dialer.dial().await.map(TokioIo::new) })
    }
}

// === impl Stream ===

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Encrypted(tls) => Pin::new(tls).poll_read(cx, buf),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Encrypted(tls) => Pin::new(tls).poll_write(cx, bytes),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Encrypted(tls) => Pin::new(tls).poll_flush(cx),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Encrypted(tls) => Pin::new(tls).poll_shutdown(cx),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Self::Encrypted(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            #[cfg(test)]
            Self::Simulated(pipe) => Pin::new(pipe).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(tcp) => tcp.is_write_vectored(),
            Self::Encrypted(tls) => tls.is_write_vectored(),
            #[cfg(test)]
            Self::Simulated(pipe) => pipe.is_write_vectored(),
        }
    }
}
