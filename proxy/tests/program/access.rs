//! The access log: which requests have a line, what it tells, and what it never tells.

use std::{fs, net::IpAddr};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use testkit::{Cluster, Rest};

use crate::{
    program::{Program, eventually},
    telling::ready,
};

/// In whatever a client sends and a log must not show.
const CANARY: &str = "canary-c4f1";

async fn send(ip: IpAddr, method: Method, path: &str, body: Value) -> StatusCode {
    let request = Request::builder().method(method).uri(path);
    let request = request
        .header("content-type", "application/json")
        .header("api-key", CANARY)
        .header("authorization", format!("Bearer {CANARY}"))
        .header("cookie", CANARY)
        .header("x-qdrant-route-affinity", CANARY);
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = request.body(body).expect("a request");
    Rest::new((ip, 6333).into(), None).raw(request).await.expect("an answer").status()
}

/// The lines of the access log so far.
fn lines(program: &Program) -> Vec<Value> {
    let lines = program.said();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["target"] == "qdrant_router::access")
        .map(|line| line["fields"].clone())
        .collect()
}

async fn has_lines(program: &Program, count: usize) -> Vec<Value> {
    eventually("every request has its line", async || lines(program).len() >= count).await;
    lines(program)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_tells_what_was_asked_and_how_it_went_and_no_secret() {
    let cluster = Cluster::builder().nodes(1).api_key(CANARY).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, CANARY).expect("written");
    let program = Program::serve(
        ip,
        &[
            &format!("--node={}", cluster.node(0).ip()),
            &format!("--api-key-file={}", key.display()),
            "--access-log=all",
            "--log=off",
            "--log-format=json",
        ],
    );
    ready(ip).await;
    let settings = json!({ "vectors": { "size": 4, "distance": "Dot" } });
    assert!(send(ip, Method::PUT, "/collections/books", settings).await.is_success());
    cluster.settled().await.expect("a settled cluster");
    let point = json!({ "points": [{ "id": 7, "vector": [1, 2, 3, 4], "payload": { "secret": CANARY } }] });
    let write = format!("/collections/books/points?wait=true&note={CANARY}");
    assert!(send(ip, Method::PUT, &write, point).await.is_success());
    send(ip, Method::GET, &format!("/{CANARY}/{CANARY}?key={CANARY}"), Value::Null).await;
    send(ip, Method::from_bytes(CANARY.as_bytes()).expect("a method"), "/collections", Value::Null).await;
    send(ip, Method::POST, "/collections/a%0a%22b/points/count", json!({})).await;
    let client = qdrant_client::Qdrant::from_url(&format!("http://{ip}:6334"))
        .api_key(CANARY)
        .skip_compatibility_check()
        .build()
        .expect("a client");
    client.collection_info("books").await.expect("it is there");
    client.collection_info("nothing").await.expect_err("it is not");

    let lines = has_lines(&program, 7).await;
    assert_eq!(lines.len(), 7);
    let [created, write, unknown, method, odd, info, nothing] = &lines[..] else { unreachable!() };
    assert_eq!(created["reason"], "consensus_leader");
    for (field, expected) in [
        ("protocol", json!("rest")),
        ("method", json!("PUT")),
        ("operation", json!("/collections/{c}/points")),
        ("collection", json!("books")),
        ("status", json!(200)),
        ("outcome", json!("ok")),
        ("reason", json!("replica_holder")),
        ("attempts", json!(1)),
        ("parts", json!(1)),
    ] {
        assert_eq!(write[field], expected, "{field} of {write}");
    }
    assert!(write["head_ms"].is_number() && write["answer_bytes"].is_number(), "{write}");
    assert!(write["request_bytes"].as_u64().is_some_and(|bytes| bytes > 50), "{write}");
    assert!(write["node"].is_string() && write.get("trace_id").is_none(), "{write}");
    assert_eq!((&unknown["operation"], &unknown["outcome"]), (&json!("unknown"), &json!("client_error")));
    assert_eq!(method["method"], "_OTHER");
    assert_eq!(odd["collection"], "a\n\"b", "one line, whatever the name is");
    let grpc =
        |line: &Value| [&line["operation"], &line["grpc_status"], &line["outcome"]].map(Value::to_string);
    assert_eq!(grpc(info), [r#""/qdrant.Collections/Get""#, "null", r#""ok""#]);
    assert_eq!(grpc(nothing), [r#""/qdrant.Collections/Get""#, r#""5""#, r#""client_error""#]);
    assert!(info.get("method").is_none());
    let said = program.said();
    assert!(!said.contains(CANARY), "{said}");
    assert_eq!(said.lines().count(), 7, "`log` is off, and is another matter: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_has_all_that_failed_and_the_switch_turns_while_it_runs() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("router.yaml");
    let node = format!("node: {}\nlog_format: json\n", cluster.node(0).ip());
    let configure =
        |policy: &str| fs::write(&file, format!("{node}access_log: {policy}\n")).expect("written");
    configure("off");
    let program = Program::serve(ip, &["--config", file.to_str().expect("text")]);
    ready(ip).await;
    for _ in 0..5 {
        send(ip, Method::GET, "/collections", Value::Null).await;
    }

    configure("1/1000000");
    program.signal("HUP");
    eventually("it is taken over", async || program.said().contains("the new configuration is in use")).await;
    for _ in 0..20 {
        send(ip, Method::GET, "/collections", Value::Null).await;
    }
    cluster.kill(0).await.expect("a dead node");
    for _ in 0..3 {
        assert_eq!(send(ip, Method::GET, "/collections", Value::Null).await, 503);
    }
    let lines = has_lines(&program, 4).await;
    let outcomes: Vec<&str> = lines.iter().filter_map(|line| line["outcome"].as_str()).collect();
    assert_eq!(
        outcomes,
        ["ok", "unanswered", "unanswered", "unanswered"],
        "one is drawn, and all that failed"
    );
}
