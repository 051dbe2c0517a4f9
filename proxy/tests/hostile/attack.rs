//! Feeds cases to the program over many connections, while well-behaved clients keep asking.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::wire::{Case, Generator};

/// Connections of the attack at a time.
const CONNECTIONS: usize = 48;

/// How long a hostile client waits for more of an answer, for room to write, and for the end.
const PATIENCE: Duration = Duration::from_millis(25);

/// What is written at once. The system takes as much as there is room for in one go, and a core that others wait for
/// is not theirs until then.
const PIECE: usize = 16 << 10;

/// Feeds `requests` of what `generator` makes to the ports of the program, at most so many a second where
/// `rate` says.
pub(crate) async fn attack(ports: [SocketAddr; 2], generator: Generator, requests: u64, rate: Option<f64>) {
    let source = Arc::new(Mutex::new((generator, 0)));
    let began = Instant::now();
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let source = source.clone();
        connections.spawn(async move {
            loop {
                let (port, case, reads, fed) = {
                    let (generator, fed) = &mut *source.lock().expect("a lock");
                    if *fed >= requests {
                        return;
                    }
                    let case = if generator.below(3) > 0 { generator.http1() } else { generator.http2() };
                    *fed += case.requests;
                    (generator.any(&ports), case, generator.below(8) > 0, *fed)
                };
                if let Some(rate) = rate {
                    let due = began + Duration::from_secs_f64(fed as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                feed(port, &case, reads).await;
            }
        });
    }
    connections.join_all().await;
}

/// One connection. Its client may go away without reading.
pub(crate) async fn feed(port: SocketAddr, case: &Case, reads: bool) {
    let Ok(tcp) = TcpStream::connect(port).await else { return };
    let (mut from, mut to) = tcp.into_split();
    let write = async {
        for piece in case.bytes.chunks(PIECE) {
            to.write_all(piece).await?;
        }
        io::Result::Ok(())
    };
    let write = tokio::time::timeout(4 * PATIENCE, write);
    if !reads {
        let _ = write.await;
        return;
    }
    let mut buffer = vec![0; 16 << 10];
    let read =
        async { while let Ok(Ok(1..)) = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await {} };
    let _ = tokio::join!(write, read);
    if case.half_closes {
        let _ = to.shutdown().await;
        while let Ok(Ok(1..)) = tokio::time::timeout(PATIENCE, from.read(&mut buffer)).await {}
    }
}
