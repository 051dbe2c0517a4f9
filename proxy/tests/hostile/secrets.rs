//! Secrets are planted wherever there may be one, everything is made to fail, and then all that the program
//! has ever said, to anybody, is searched for them.

use std::{fs, net::SocketAddr, path::Path};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use testkit::{Block, Rest};

use crate::{
    attack::feed,
    program::{Program, eventually, get, run},
    spy::Spies,
    wire::{Case, Generator},
};

const OWN_KEY: &str = "canary-own-key-4dd1a7b2";
const CLIENT_KEY: &str = "canary-client-key-91c3e05f";
const TOKEN: &str = "canaryJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJhY2Nlc3MiOiJyIn0.c2lnbmF0dXJl";
const OTHER_KEY: &str = "canary-foo-key-0b7de661";
const BODY: &str = "canary-body-7711fe2a";

/// What the admin port answers.
const ADMIN: [&str; 12] = [
    "/",
    "/dashboard.css",
    "/dashboard.js",
    "/favicon.svg",
    "/livez",
    "/readyz",
    "/metrics",
    "/topology",
    "/topology/nodes",
    "/topology/collections",
    "/topology/collections/books",
    "/events/recent",
];

/// What clients ask for: what is answered, refused, broken off, not understood, split, streamed.
const ASKED: [(&str, &str); 12] = [
    ("GET", "/collections"),
    ("GET", "/collections/books"),
    ("GET", "/collections/refused"),
    ("GET", "/collections/refused/points/1"),
    ("GET", "/collections/broken/points/1"),
    ("DELETE", "/collections/broken"),
    ("GET", "/well-behaved"),
    ("PUT", "/collections/books/points?wait=true"),
    ("POST", "/collections/books/points/search"),
    ("POST", "/collections/books/snapshots/upload"),
    ("GET", "/collections/books/snapshots"),
    ("GET", "/snapshots/none.snapshot"),
];

/// Requests that the router makes of its own accord.
const OWN_PATHS: [&str; 5] =
    ["/", "/cluster", "/aliases", "/collections/books", "/collections/books/cluster"];

/// Texts that may not appear, and where they did.
struct Search {
    secrets: Vec<String>,
    found: Vec<String>,
}

impl Search {
    fn search(&mut self, what: &str, text: &str) {
        for secret in &self.secrets {
            if let Some(at) = text.find(secret.as_str()) {
                let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                let shown: String = text[line..].chars().take(300).collect();
                self.found.push(format!("{secret} in {what}: {shown}"));
            }
        }
    }

    fn search_answer(&mut self, what: &str, answer: &Response<Bytes>) {
        self.search(what, &format!("{answer:?}"));
        self.search(what, &String::from_utf8_lossy(answer.body()));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// One request, with every secret that a client may carry.
fn with_secrets(method: &str, path: &str, number: usize) -> Request<Bytes> {
    let bodies = [
        json!({ "points": [{ "id": 1, "vector": [1, 2, 3, 4], "payload": { "text": BODY } },
                           { "id": 2, "vector": [1, 2, 3, 4] }, { "id": 3, "vector": [1, 2, 3, 4] }] })
        .to_string(),
        format!("{{\"points\":[{{\"id\":\"{BODY}\",\"vector\":[1,2,"),
        format!("{{\"shard_key\":\"{BODY}\",\"ids\":[-1,\"{BODY}\"],\"limit\":\"{BODY}\"}}"),
        BODY.to_owned(),
    ];
    let request = Request::builder().method(method).uri(path).header("x-client", "with-secrets");
    let request = match number % 4 {
        0 => request.header("api-key", CLIENT_KEY),
        1 => request.header("authorization", format!("Bearer {TOKEN}")),
        2 => request
            .header("foo-api-key", OTHER_KEY)
            .header("api-key", CLIENT_KEY)
            .header("api-key", OTHER_KEY),
        _ => request
            .header("api-key", [CLIENT_KEY.as_bytes(), &[0xff]].concat())
            .header("x-qdrant-router-explain", "1")
            .header("x-qdrant-node", "nobody"),
    };
    let body = if method == "GET" { String::new() } else { bodies[number / 4 % bodies.len()].clone() };
    request.header("content-type", "application/json").body(body.into()).expect("a request")
}

/// Everything that can go wrong, with secrets in it.
async fn go_wrong(rest: SocketAddr, grpc: SocketAddr, dead: &str) {
    let client = Rest::new(rest, None);
    for (method, path) in ASKED {
        for number in 0..16 {
            client.raw(with_secrets(method, path, number)).await.expect("an answer");
        }
        let mut to_a_dead_node = with_secrets(method, path, 0);
        to_a_dead_node.headers_mut().insert("x-qdrant-node", dead.parse().expect("a value"));
        client.raw(to_a_dead_node).await.expect("an answer");
    }
    let calls: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for body in [
        [b"\0\0\0\0\x16\x0a\x14", BODY.as_bytes()].concat(),
        [b"\0\0\0\0\xff\x0a", BODY.as_bytes()].concat(),
        [b"\x01\0\0\0\x14", BODY.as_bytes()].concat(),
    ] {
        for rpc in ["Points/Upsert", "Points/Count", "Collections/Get", "Nowhere/Nothing"] {
            let call = Request::post(format!("http://{grpc}/qdrant.{rpc}?well-behaved"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("x-client", "with-secrets")
                .header("api-key", CLIENT_KEY)
                .header("secret-bin", OTHER_KEY)
                .header("grpc-timeout", BODY)
                .body(Full::from(body.clone()))
                .expect("a request");
            let answer = calls.request(call).await.expect("an answer");
            answer.into_body().collect().await.expect("a body");
        }
    }
    let mut generator = Generator::seeded(3);
    for case in generator.odd_fields_with(CLIENT_KEY) {
        feed(grpc, &case, true).await;
    }
    for _ in 0..400 {
        let case = generator.http1();
        // Every valid request that is tampered with carries a key.
        let bytes = replaced(&case.bytes, b"api-key: k\r", format!("api-key: {CLIENT_KEY}\r").as_bytes());
        let bytes = replaced(&bytes, b"x: ", format!("x: {TOKEN} ").as_bytes());
        feed(rest, &Case { bytes, ..case }, true).await;
    }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match bytes.windows(from.len()).position(|window| window == from) {
        Some(at) => [&bytes[..at], to, &bytes[at + from.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

async fn no_secret_is_told(format: &str) {
    let block = Block::claim().expect("addresses");
    let spies = Spies::start(&block).await;
    spies.seen().kept = Some(Vec::new());
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, OWN_KEY).expect("written");
    let dead = block.node(2).to_string();
    let nodes = [0, 1, 2].map(|node| format!("--node={}", block.node(node)));
    let program = Program::serve(
        block.proxy(),
        &[
            &nodes[0],
            &nodes[1],
            &nodes[2],
            "--api-key-file",
            text(&key),
            "--log=trace",
            "--log-format",
            format,
            "--topology-interval=200ms",
        ],
    );
    eventually("it is ready", async || {
        get(block.proxy(), 9633, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    let [rest, grpc, admin] = [6333, 6334, 9633].map(|port| SocketAddr::new(block.proxy(), port));

    let secrets = [OWN_KEY, CLIENT_KEY, TOKEN, OTHER_KEY, BODY].map(str::to_owned).to_vec();
    let mut search = Search { secrets, found: Vec::new() };
    // The stream of events is open all the while.
    let events = tokio::spawn(async move {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let request =
            Request::get(format!("http://{admin}/events")).body(Full::default()).expect("a request");
        let mut body = client.request(request).await.expect("an answer").into_body();
        let mut said = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            said.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..]));
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    go_wrong(rest, grpc, &dead).await;

    // What others are told.
    let others = Rest::new(rest, None);
    for (method, path) in ASKED {
        for pin in [None, Some("nobody"), Some(&*dead)] {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(pin) = pin {
                request = request.header("x-qdrant-node", pin).header("x-qdrant-router-explain", "1");
            }
            let request =
                request.header("x-client", "without-secrets").body(Bytes::new()).expect("a request");
            let answer = others.raw(request).await.expect("an answer");
            search.search_answer(path, &answer);
        }
    }
    let watcher = Rest::new(admin, None);
    for path in ADMIN {
        let answer = watcher.raw(Request::get(path).body(Bytes::new()).expect("a request")).await;
        let answer = answer.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        search.search_answer(path, &answer);
    }
    for question in [
        json!({ "path": "/collections/books/points/1" }),
        json!({ "path": "/collections/books/points/1", "headers": { "x-qdrant-node": "nobody" } }),
        json!({ "path": "/collections/unknown/points/1" }),
    ] {
        let request = Request::post("/explain").header("content-type", "application/json");
        let request = request.body(Bytes::from(question.to_string())).expect("a request");
        search.search_answer("/explain", &watcher.raw(request).await.expect("an answer"));
    }

    program.terminate();
    search.search("/events", &events.await.expect("a task"));
    let (status, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert_eq!(status.code(), Some(0));
    assert!(said.contains("TRACE"), "the log is as detailed as can be");
    search.search("the log", &said);
    assert_eq!(search.found, Vec::<String>::new());

    // Keys went where they belong.
    let seen = spies.seen();
    let kept = seen.kept.as_deref().unwrap_or_default();
    let has = |request: &crate::strict::Request, secret: &str| {
        request.headers.iter().any(|(_, value)| value.contains(secret))
    };
    let own: Vec<_> = kept.iter().filter(|request| has(request, OWN_KEY)).collect();
    assert!(!own.is_empty(), "the router asks with its own key");
    for request in own {
        // A collection is asked about under the name that a client gave it.
        let is_own = OWN_PATHS.contains(&&*request.target)
            || request.target.starts_with("/collections/")
                && request.method == "GET"
                && request.body.is_empty();
        assert!(is_own && request.header("x-client").is_none(), "{request:?}");
    }
    let of = |client: &str| {
        kept.iter().filter(move |request| request.header("x-client") == Some(client)).collect()
    };
    let (with, without): (Vec<_>, Vec<_>) = (of("with-secrets"), of("without-secrets"));
    assert!(with.len() > 100 && without.len() > 10, "{} and {}", with.len(), without.len());
    assert!(with.iter().all(|request| has(request, CLIENT_KEY) || has(request, TOKEN)));
    for request in without {
        assert!(
            request.header("api-key").is_none() && request.header("authorization").is_none(),
            "{request:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_in_text() {
    no_secret_is_told("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_in_json() {
    no_secret_is_told("json").await;
}

#[test]
fn files_with_secrets_are_refused_without_repeating_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let issued = rcgen::generate_simple_self_signed(["router.test".to_owned()]).expect("a certificate");
    fs::write(at("tls.crt"), issued.cert.pem()).expect("written");
    let pem = issued.signing_key.serialize_pem();
    let secret = pem.lines().nth(1).expect("a line of the key").to_owned();
    let mut search = Search { secrets: vec![secret, OWN_KEY.to_owned()], found: Vec::new() };

    // Keys that were damaged on their way into a Secret.
    for (what, key) in [
        ("a key in one line", pem.replace('\n', " ")),
        ("a key without line ends", pem.replace('\n', "")),
        ("a key without its end", pem.lines().take(2).collect::<Vec<_>>().join("\n")),
        ("a key without its beginning", pem.lines().skip(1).collect::<Vec<_>>().join("\n")),
        ("a key that is cut short", pem.replace("\n-----END", "x\n-----END")),
        ("a key that is no key", pem.replace("PRIVATE KEY", "CERTIFICATE")),
        ("escaped line ends", pem.replace('\n', "\\n")),
    ] {
        fs::write(at("tls.key"), key).expect("written");
        let files = [
            format!("--tls-cert-file={}", text(&at("tls.crt"))),
            format!("--tls-key-file={}", text(&at("tls.key"))),
        ];
        let ended = run("check", &["--node=10.0.0.7", &files[0], &files[1]], &[]);
        assert_eq!(ended.code, Some(2), "{what}: {}", ended.stderr);
        search.search(what, &ended.stderr);
        search.search(what, &ended.stdout);
    }
    for (what, key) in [
        ("a key with a line end", format!("{OWN_KEY}\n{OWN_KEY}\n")),
        ("a key with a control character", format!("{OWN_KEY}\u{7}")),
        ("a key that is not text", format!("{OWN_KEY}\u{e9}")),
    ] {
        fs::write(at("key"), key).expect("written");
        let file = format!("--api-key-file={}", text(&at("key")));
        for verb in ["check", "doctor", "topology"] {
            let ended = run(verb, &["--node=127.0.0.1:1:2", &file], &[]);
            search.search(what, &ended.stderr);
            search.search(what, &ended.stdout);
        }
    }
    for (what, config) in [
        ("a key in the configuration", format!("node: 10.0.0.7\napi_key: {OWN_KEY}\n")),
        ("a key instead of its file", format!("node: 10.0.0.7\napi_key_file:\n  key: {OWN_KEY}\n")),
    ] {
        fs::write(at("router.yaml"), config).expect("written");
        let ended = run("check", &["--config", text(&at("router.yaml"))], &[]);
        assert_eq!(ended.code, Some(2), "{what}: {}", ended.stderr);
        search.search(what, &ended.stderr);
        search.search(what, &ended.stdout);
    }
    assert_eq!(search.found, Vec::<String>::new());
}
