//! A Tower stack of one's own around the router: a header, a limit, a time-out, and a count of who answered.
//!
//! ```text
//! QDRANT_API_KEY=KEY cargo run --example tower_stack -- HEADLESS_NAME
//! ```
//!
//! The key may be left out where the cluster has none.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use qdrant_router::{ResponseBody, Routed, Router};
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt};

use crate::arguments::{dns, headless};

mod arguments;

/// Answers by node.
#[derive(Clone, Default)]
struct Tally(Arc<Mutex<BTreeMap<String, usize>>>);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let key = env::var("QDRANT_API_KEY").unwrap_or_default();
    let router = Router::builder().headless(headless()?).dns(dns()?).api_key(&key)?.build()?;
    let key = HeaderValue::from_str(&key)?;
    let tally = Tally::default();
    let counted = tally.clone();

    // A request passes the layers from top to bottom, its response from bottom to top.
    let service = ServiceBuilder::new()
        // The router's own key is for the topology alone, so each request brings one.
        .map_request(move |mut request: Request<Empty<Bytes>>| {
            request.headers_mut().insert("api-key", key.clone());
            request
        })
        // Above the time-out, so that the time of a request begins when its turn has come.
        .concurrency_limit(8)
        .timeout(Duration::from_secs(5))
        .map_response(move |response| counted.count(response))
        .service(router);

    let mut requests = JoinSet::new();
    for _ in 0..100 {
        requests.spawn(service.clone().oneshot(Request::get("/collections").body(Empty::new())?));
    }
    while let Some(response) = requests.join_next().await {
        let status = response??.status();
        if !status.is_success() {
            return Err(format!("Qdrant answers {status}").into());
        }
    }
    tally.print();
    Ok(())
}

// === impl Tally ===

impl Tally {
    /// Counts a response, which tells how it was routed.
    fn count(&self, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let node = response.extensions().get::<Routed>().and_then(Routed::node);
        let node = node.unwrap_or_else(|| "nobody".to_owned());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default() += 1;
        response
    }

    fn print(&self) {
        for (node, answers) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            println!("{node} gave {answers} answers");
        }
    }
}
