//! TLS towards clients: both protocols on both ports, and a new certificate without a restart.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use testkit::Cluster;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    program::{Program, eventually, run},
    telling::metric,
};

/// A certificate for `router.test`, written to two files; the certificate itself.
fn issue(certificates: &Path, key: &Path) -> CertificateDer<'static> {
    let issued = rcgen::generate_simple_self_signed(["router.test".to_owned()]).expect("a certificate");
    std::fs::write(certificates, issued.cert.pem()).expect("written");
    std::fs::write(key, issued.signing_key.serialize_pem()).expect("written");
    issued.cert.der().clone()
}

/// A connection that trusts `root` and speaks `protocol`; `None` where the handshake fails.
async fn connect(
    ip: IpAddr,
    port: u16,
    root: &CertificateDer<'static>,
    protocol: &[u8],
) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(SocketAddr::new(ip, port)).await.ok()?;
    let name = ServerName::try_from("router.test").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_speak_tls_and_new_certificates_are_taken_over() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let directory = tempfile::tempdir().expect("a directory");
    let (certificates, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let first = issue(&certificates, &key);
    let ip = cluster.block().proxy();
    let node = format!("--node={}", cluster.node(0).ip());
    let files =
        [format!("--tls-cert-file={}", certificates.display()), format!("--tls-key-file={}", key.display())];
    let program = Program::serve(ip, &[&node, &files[0], &files[1]]);
    eventually("it listens", async || connect(ip, 6333, &first, b"http/1.1").await.is_some()).await;

    for port in [6333, 6334] {
        let request =
            || Request::get("/collections").header("host", "router.test").body(Empty::<Bytes>::new());
        let stream = connect(ip, port, &first, b"http/1.1").await.expect("TLS");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let answer = sender.send_request(request().expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);

        let stream = connect(ip, port, &first, b"h2").await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::get(format!("https://router.test:{port}/collections"));
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }

    let second = issue(&certificates, &key);
    eventually("the new certificate is shown", async || connect(ip, 6333, &second, b"h2").await.is_some())
        .await;
    let refused = async || metric(ip, "qdrant_router_client_connections_refused_total{reason=\"tls\"}").await;
    let before = refused().await.expect("a count");
    assert!(connect(ip, 6333, &first, b"h2").await.is_none());
    eventually("who does not trust it is counted", async || refused().await > Some(before)).await;
    program.terminate();
}

#[test]
fn what_is_no_certificate_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let (certificates, key) = (directory.path().join("tls.crt"), directory.path().join("tls.key"));
    let of = |certificates: &Path, key: &Path| {
        let files = [
            format!("--tls-cert-file={}", certificates.display()),
            format!("--tls-key-file={}", key.display()),
        ];
        run("check", &["--node=10.0.0.7", &files[0], &files[1]], &[])
    };
    let alone = run("check", &["--node=10.0.0.7", "--tls-key-file=/some.key"], &[]);
    assert!(alone.code == Some(2) && alone.stderr.contains("give tls_cert_file too"), "{}", alone.stderr);
    let missing = of(&certificates, &key);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("--tls-cert-file"), "{}", missing.stderr);
    issue(&certificates, &key);
    std::fs::write(&certificates, "no PEM").expect("written");
    let empty = of(&certificates, &key);
    assert!(empty.code == Some(2) && empty.stderr.contains("it has no certificate"), "{}", empty.stderr);
    issue(&certificates, &directory.path().join("other.key"));
    let other = of(&certificates, &key);
    assert!(other.code == Some(2) && other.stderr.contains("--tls-key-file"), "{}", other.stderr);
}
