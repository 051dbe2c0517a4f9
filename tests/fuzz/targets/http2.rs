//! Clients of HTTP/2: whatever they send, serving them ends, and so does every answer that was begun. The first byte
//! chooses in which pieces the rest comes.

#![no_main]

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use qdrant_router_http2::{
    PREFACE,
    server::{Exchange, Incoming, serve},
};
use tokio::{io::AsyncWriteExt, runtime::Builder, task::JoinSet};

fuzz_target!(|input: &[u8]| {
    let Some((&choice, frames)) = input.split_first() else { return };
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, stream) = tokio::io::duplex(1 << 20);
        let mut answers = JoinSet::new();
        let is_ending = AtomicBool::new(false);
        let accept = |request: Request<Incoming>, exchange: Exchange| {
            answers.spawn(exchange.answer(async || {
                let body = request.into_body().collect().await;
                Response::new(Full::new(body.map_or_else(|_| Bytes::new(), |body| body.to_bytes())))
            }));
        };
        let asks = async {
            let _ = client.write_all(PREFACE).await;
            for piece in frames.chunks(1 + usize::from(choice)) {
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        tokio::join!(serve(stream, accept, &is_ending), asks);
        while let Some(answer) = answers.join_next().await {
            answer.expect("no panic");
        }
    });
});
