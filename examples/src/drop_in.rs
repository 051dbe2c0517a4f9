//! The swap: `qdrant_router::Qdrant` in place of `qdrant_client::Qdrant`.
//!
//! The import and the construction change, the application does not: here one source is compiled with each of
//! the two clients, and both give the same answer.
//!
//! ```text
//! cargo run --example drop_in -- HEADLESS_NAME [URL]
//! ```
//!
//! `URL` is where the official client connects; the headless Service unless it is given.

use std::{env, error::Error};

use crate::arguments::{dns, headless};

mod arguments;

mod before {
    use qdrant_client::Qdrant;

    include!("drop_in/application.rs");
}

mod after {
    use qdrant_router::Qdrant;

    include!("drop_in/application.rs");
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let headless = headless()?;
    let url = env::args().nth(2).unwrap_or_else(|| format!("http://{headless}:6334"));

    let client = qdrant_client::Qdrant::from_url(&url).skip_compatibility_check().build()?;
    println!("before: {:?}", before::nearest_titles(&client).await?);

    let client = qdrant_router::Qdrant::builder().headless(headless).dns(dns()?).build()?;
    println!("after:  {:?}", after::nearest_titles(&client).await?);
    Ok(())
}
