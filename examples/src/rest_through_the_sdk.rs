//! REST through the SDK: the router is a Tower service over plain `http` requests.
//!
//! ```text
//! cargo run --example rest_through_the_sdk -- HEADLESS_NAME
//! ```

use std::error::Error;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use qdrant_router::{Routed, Router};
use tower::ServiceExt;

use crate::arguments::{dns, headless};

mod arguments;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = Router::builder().headless(headless()?).dns(dns()?).build()?;
    router.topology().surveyed().await;

    let request = Request::get("/collections").body(Empty::<Bytes>::new())?;
    let response = router.oneshot(request).await?;
    if let Some(routed) = response.extensions().get::<Routed>() {
        println!("answered by {:?} because of {:?}", routed.node(), routed.reason);
    }
    println!("{}", String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()));
    Ok(())
}
