//! What stands before a node: bytes go through late, or encrypted.
//!
//! A node that is far away, or whose host is busy, answers every client late and its peers in time; servers that speak
//! TLS are the same servers behind it. A [`Front`] gives both to embedded and to real nodes alike, at an address of its
//! own that discovery lists in place of the node's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::{GRPC_PORT, REST_PORT};

/// Pieces of an answer that may be on their way to one client.
const PIECES: usize = 1024;
const PIECE_BYTES: usize = 64 << 10;

/// Listens on Qdrant's two public ports before one node. Dropping it closes its connections.
#[derive(Debug)]
pub struct Front {
    ip: IpAddr,
    delay: Arc<AtomicU64>,
    listeners: JoinSet<()>,
}

// === impl Front ===

impl Front {
    /// Stands at `ip` before the node at `node`, and speaks TLS with clients where `tls` says how, for each of the two
    /// ports.
    ///
    /// # Errors
    ///
    /// When one of the ports is taken.
    pub async fn start(ip: IpAddr, node: IpAddr, tls: Option<[Arc<ServerConfig>; 2]>) -> io::Result<Front> {
        let delay = Arc::<AtomicU64>::default();
        let mut listeners = JoinSet::new();
        for (at, port) in [REST_PORT, GRPC_PORT].into_iter().enumerate() {
            let listener = TcpListener::bind((ip, port)).await?;
            let tls = tls.as_ref().map(|tls| TlsAcceptor::from(tls[at].clone()));
            listeners.spawn(accept(listener, SocketAddr::new(node, port), tls, delay.clone()));
        }
        Ok(Front { ip, delay, listeners })
    }

    /// Where it stands.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Leaves, and returns when the address is free again.
    pub async fn close(mut self) {
        self.listeners.shutdown().await;
    }

    /// Has everything that the node says take this much longer, beginning with the next piece.
    pub fn delay(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

async fn accept(listener: TcpListener, node: SocketAddr, tls: Option<TlsAcceptor>, delay: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let (tls, delay) = (tls.clone(), delay.clone());
                connections.spawn(async move {
                    // An error ends the connection, and whoever holds the other end learns of it.
                    let _ = serve(client, node, tls, &delay).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(
    client: TcpStream,
    node: SocketAddr,
    tls: Option<TlsAcceptor>,
    delay: &AtomicU64,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    match tls {
        None => relay(client, node, delay).await,
        Some(tls) => relay(tls.accept(client).await?, node, delay).await,
    }
}

async fn relay(client: impl AsyncRead + AsyncWrite, node: SocketAddr, delay: &AtomicU64) -> io::Result<()> {
    let node = TcpStream::connect(node).await?;
    node.set_nodelay(true)?;
    let (mut from_client, mut to_client) = split(client);
    let (mut from_node, mut to_node) = node.into_split();
    let there = async {
        copy(&mut from_client, &mut to_node).await?;
        to_node.shutdown().await
    };
    let (pieces, mut late) = mpsc::channel(PIECES);
    let read = async {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            if from_node.read_buf(&mut piece).await? == 0 {
                break;
            }
            let due = Instant::now() + Duration::from_micros(delay.load(Ordering::Relaxed));
            if pieces.send((due, piece)).await.is_err() {
                break;
            }
        }
        drop(pieces);
        Ok::<_, io::Error>(())
    };
    let write = async {
        while let Some((due, piece)) = late.recv().await {
            tokio::time::sleep_until(due).await;
            to_client.write_all(&piece).await?;
            to_client.flush().await?;
        }
        to_client.shutdown().await
    };
    // Whichever end goes first ends the connection; HTTP needs no half of one.
    tokio::select! {
        done = there => done,
        done = async { tokio::try_join!(read, write).map(drop) } => done,
    }
}
