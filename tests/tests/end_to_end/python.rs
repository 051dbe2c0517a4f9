//! The official Python client through the proxy, over REST and over gRPC.

use std::process::{Command, Stdio};

use crate::bed::Bed;

/// Names a Python interpreter that has `qdrant-client`; without it this suite has nothing to run.
const PYTHON: &str = "QDRANT_ROUTER_PYTHON";

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_client() {
    let Some(python) = std::env::var_os(PYTHON) else {
        eprintln!("skipped: set {PYTHON} to a Python that has qdrant-client");
        return;
    };
    let bed = Bed::new().await;
    for grpc in ["rest", "grpc"] {
        let mut session = Command::new(&python);
        session
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/session.py"))
            .arg(bed.proxy.rest_addr.to_string())
            .arg(bed.proxy.grpc_addr.port().to_string())
            .arg(grpc)
            .stdin(Stdio::null());
        let session = tokio::task::spawn_blocking(move || session.output()).await.expect("a thread");
        let session = session.expect("a Python interpreter");
        let said = String::from_utf8_lossy(&session.stderr);
        assert!(session.status.success(), "{grpc}: {said}");
    }
}
