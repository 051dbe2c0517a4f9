//! An application around the client: a search endpoint, and a graceful end on Ctrl-C and SIGTERM.
//!
//! ```text
//! cargo run --example axum_app -- HEADLESS_NAME [LISTEN]
//! curl '127.0.0.1:8080/books/search' --json '{ "vector": [0.9, 0.1, 0.1, 0.3] }'
//! ```
//!
//! `LISTEN` is an address and a port, 127.0.0.1:8080 unless it is given.

use std::{env, error::Error, future::Future, io};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use qdrant_client::qdrant::QueryPointsBuilder;
use qdrant_router::Qdrant;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::arguments::{dns, headless};

mod arguments;

#[derive(Deserialize)]
struct Search {
    vector: Vec<f32>,
    #[serde(default = "ten")]
    limit: u64,
}

#[derive(Serialize)]
struct Hit {
    score: f32,
    payload: Value,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // One client for the whole application: its clones share connections and the view of the cluster.
    let client = Qdrant::builder().headless(headless()?).dns(dns()?).build()?;
    let application = Router::new().route("/{collection}/search", post(search)).with_state(client);

    let listen = env::args().nth(2).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let listener = TcpListener::bind(&listen).await.map_err(|error| format!("{listen}: {error}"))?;
    println!("listening on {}", listener.local_addr()?);
    // Requests under way are answered before it ends.
    axum::serve(listener, application).with_graceful_shutdown(stopped()?).await?;
    println!("stopped");
    Ok(())
}

async fn search(
    State(client): State<Qdrant>,
    Path(collection): Path<String>,
    Json(search): Json<Search>,
) -> Result<Json<Vec<Hit>>, (StatusCode, String)> {
    let query = QueryPointsBuilder::new(collection).query(search.vector).limit(search.limit);
    let found = client.query(query.with_payload(true)).await;
    let found = found.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))?;
    let hit = |point: qdrant_client::qdrant::ScoredPoint| Hit {
        score: point.score,
        payload: point.payload.into_iter().map(|(key, value)| (key, value.into_json())).collect(),
    };
    Ok(Json(found.result.into_iter().map(hit).collect()))
}

/// Ends with Ctrl-C, or with the SIGTERM that Kubernetes sends.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn ten() -> u64 {
    10
}
