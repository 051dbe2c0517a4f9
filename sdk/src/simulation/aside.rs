//! Long work, while the threads for it have no turn to give.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use qdrant_client::qdrant::{Filter, PointId};
use tokio::time::timeout;

use super::*;
use crate::Routing;

/// Nobody waits for so long where there is a way on.
const PATIENCE: Duration = Duration::from_secs(1);

/// More than a body that is looked into on the spot.
const LONG: usize = 300 << 10;

fn rest(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("/collections/{path}")).header("content-type", "application/json");
    request.body(Full::new(body.into())).expect("a request")
}

fn gzip(mut request: Request<Full<Bytes>>, text: &str) -> Request<Full<Bytes>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).expect("memory");
    *request.body_mut() = Full::new(encoder.finish().expect("memory").into());
    request.headers_mut().insert("content-encoding", "gzip".parse().expect("a value"));
    request
}

/// A deletion of so many points by id, and so much besides.
fn deletion(ids: usize, padding: usize) -> String {
    let ids: Vec<String> = (0..ids).map(|id| id.to_string()).collect();
    format!(r#"{{"points":[{}]{}}}"#, ids.join(","), " ".repeat(padding))
}

/// The name of a collection and a filter of so many bytes, as parts of the message that counts points.
fn parts_of_count(collection: &str, padding: usize) -> [Vec<u8>; 2] {
    let condition = qdrant_client::qdrant::Condition::matches("k", "v".repeat(padding));
    let name = CountPoints { collection_name: collection.to_owned(), ..CountPoints::default() };
    let filter = CountPoints { filter: Some(Filter::must([condition])), ..CountPoints::default() };
    [name.encode_to_vec(), filter.encode_to_vec()]
}

fn count(collection: &str, padding: usize) -> Request<Full<Bytes>> {
    framed("/qdrant.Points/Count", &parts_of_count(collection, padding).concat()).expect("a request")
}

/// The same, with the name behind everything else.
fn named_last(collection: &str, padding: usize) -> Request<Full<Bytes>> {
    let [name, filter] = parts_of_count(collection, padding);
    framed("/qdrant.Points/Count", &[filter, name].concat()).expect("a request")
}

async fn status(router: &Router, request: Request<Full<Bytes>>) -> u16 {
    router.route(request).await.0.status().as_u16()
}

/// What is short is answered meanwhile, what is long waits, whatever makes it long.
#[test]
fn what_is_long_waits_for_its_turn_and_nothing_else_does() {
    in_virtual_time(async {
        let world = World::new(3);
        world.create("books", 3, 1);
        world.create("solo", 1, 1);
        network::install(world.clone());
        let router = router(&world, 1).await;
        let turns = router.aside().take_all().await;

        let short = [
            rest("books/points/delete", deletion(1000, 0)),
            rest("solo/points/delete", deletion(2, LONG)),
            gzip(rest("books/points/delete", ""), &deletion(10, 0)),
            count("books", 10),
        ];
        for request in short {
            let answered = timeout(PATIENCE, status(&router, request)).await;
            assert_eq!(answered, Ok(200));
        }

        let batch =
            |ids| format!(r#"{{"operations":[{{"delete":{0}}},{{"delete":{0}}}]}}"#, deletion(ids, 0));
        let long = [
            ("looked into", rest("books/points/delete", deletion(2, LONG))),
            ("decoded", gzip(rest("books/points/delete", ""), &deletion(2, LONG / 3))),
            ("cut", rest("books/points/delete", deletion(3000, 0))),
            ("settled", rest("books/points/batch", batch(1500))),
            ("named", named_last("books", LONG)),
            ("looked into over gRPC", count("books", LONG)),
        ];
        let mut waiting: Vec<_> = long
            .into_iter()
            .map(|(what, request)| {
                let router = router.clone();
                (what, tokio::spawn(async move { status(&router, request).await }))
            })
            .collect();
        for (what, request) in &mut waiting {
            assert!(timeout(PATIENCE, request).await.is_err(), "to be {what} is long work");
        }
        drop(turns);
        for (what, request) in waiting {
            assert_eq!(request.await.expect("no panic"), 200, "{what}");
        }
    });
}

/// A client that has told when it stops waiting has its answer then.
#[test]
fn long_work_waits_no_longer_than_its_client() {
    in_virtual_time(async {
        let world = World::new(3);
        world.create("books", 3, 1);
        network::install(world.clone());
        let routed = router(&world, 1).await;
        let _turns = routed.aside().take_all().await;
        let builder = Router::builder().headless("qdrant-headless").routing(Routing::Observe);
        let observed = builder.build_with(world.names()).expect("a router");
        observed.topology().surveyed().await;
        let _other_turns = observed.aside().take_all().await;

        let deletion = |points: u64| {
            let ids: Vec<_> = (0..points).map(PointId::from).collect();
            let message = qdrant_client::qdrant::DeletePoints {
                collection_name: "books".to_owned(),
                points: Some(ids.into()),
                ..Default::default()
            };
            grpc_request("/qdrant.Points/Delete", &message).expect("a request")
        };
        // What is only observed is dealt out for the record, and then sent whole.
        assert_eq!(status(&observed, deletion(2)).await, 200);
        let seen = world.seen().len();
        for (router, mut request) in
            [(&routed, count("books", LONG)), (&routed, deletion(3000)), (&observed, deletion(3000))]
        {
            request.headers_mut().insert("grpc-timeout", "300m".parse().expect("a value"));
            let asked_at = Instant::now();
            let (response, routed) = router.route(request).await;
            assert_eq!(response.headers()["grpc-status"], "1");
            assert_eq!((asked_at.elapsed(), routed.attempts), (Duration::from_millis(300), 0));
        }
        tokio::time::sleep(PATIENCE).await;
        assert_eq!(world.seen().len(), seen);
    });
}
