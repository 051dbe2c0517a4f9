//! The configuration: its layers, and what is said of each mistake.

use std::io::Write;

use http::StatusCode;
use tempfile::NamedTempFile;
use testkit::{Block, Cluster};

use crate::program::{Program, eventually, get, run};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn path(file: &NamedTempFile) -> &str {
    file.path().to_str().expect("text")
}

#[test]
fn a_mistake_in_the_file_is_one_line_with_its_place_value_and_fix() {
    let not_a_key = file("");
    let empty_key = format!("node: a\napi_key_file: {}\n", path(&not_a_key));
    let no_certificate = format!("node: a\nupstream_tls: true\nupstream_ca_file: {}\n", path(&not_a_key));
    let with_identity = |keys: &[&str]| {
        let files = keys.iter().map(|key| format!("{key}: {}\n", path(&not_a_key)));
        format!("node: a\nupstream_tls: true\n{}", files.collect::<String>())
    };
    let lonely_certificate = with_identity(&["upstream_cert_file"]);
    let lonely_key = with_identity(&["upstream_key_file"]);
    let no_identity = with_identity(&["upstream_cert_file", "upstream_key_file"]);
    for (text, says) in [
        ("", ": nothing says where Qdrant is"),
        (
            "headless: q\nlisten_rset: 0.0.0.0:1\n",
            ":2: unknown key `listen_rset`; did you mean `listen_rest`?",
        ),
        (
            "upstream-rest-port: 6333\n",
            ":1: unknown key `upstream-rest-port`; did you mean `upstream_rest_port`?",
        ),
        ("zzz: 1\n", ":1: unknown key `zzz`; `qdrant-router docs configuration` lists all keys"),
        ("config: other.yaml\n", ":1: unknown key `config`"),
        ("headless: q\n\nheadless: p\n", ":3: headless is set a second time, first in line 1; keep one"),
        ("headless: [a, b]\n", ":1: headless is a list; this key has one value"),
        ("headless:\n", ":1: headless has no value"),
        ("api_key_file: ''\n", ":1: api_key_file: : there is no value; give it one"),
        ("headless: not a name\n", ":1: headless: not a name: `not a name` is not HOST[:REST[:GRPC]]"),
        (
            "node: [a, 'b:0']\n",
            ":1: node: b:0: `b:0` is not HOST[:REST[:GRPC]]: a port is a number from 1 to 65535",
        ),
        ("preset: openshift:q\n", ":1: preset: openshift:q: `openshift:q` is not a preset; use `kubeblocks:"),
        ("upstream_rest_port: 99999\n", ":1: upstream_rest_port: 99999: a port is a number from 1 to 65535"),
        ("listen_rest: localhost:6333\n", ":1: listen_rest: localhost:6333: not IP:PORT; examples are"),
        ("dns: 10.0.0.10\n", ":1: dns: 10.0.0.10: not IP:PORT"),
        ("upstream_tls: yes\n", ":1: upstream_tls: yes: neither `true` nor `false`"),
        ("drain_timeout: 30\n", ":1: drain_timeout: 30: a duration is a whole number and its unit"),
        ("drain_timeout: -5s\n", ":1: drain_timeout: -5s: a duration is"),
        ("topology_interval: 400h\n", ":1: topology_interval: 400h: give a duration from 100ms to 1h"),
        ("body_limit: 1\n", ":1: body_limit: 1: give from 1024 to 1073741824 bytes"),
        ("log: inof\n", ":1: log: inof: use off, error, warn, info"),
        ("routing: on\n", ":1: routing: on: use `off`, `observe`, `reads` or `all`"),
        (
            "access_log: 1%\n",
            ":1: access_log: 1%: use `off`, `all`, or a share of the requests such as `1/100`",
        ),
        ("otlp_endpoint: 'https://c:4317'\n", ":1: otlp_endpoint: https://c:4317: not http://HOST:PORT"),
        ("trace_sample: 10%\n", ":1: trace_sample: 10%: a share is a number from 0 to 1"),
        ("otlp_endpoint: collector:4317\n", ":1: otlp_endpoint: collector:4317: not http://HOST:PORT"),
        ("trace_sample: -0.1\n", ":1: trace_sample: -0.1: a share is a number from 0 to 1"),
        ("trace_sample: nan\n", ":1: trace_sample: nan: a share is a number from 0 to 1"),
        ("access_log: true\n", ":1: access_log: true: use `off`, `all`, or a share of the requests"),
        ("access_log: 1/0\n", ":1: access_log: 1/0: use `off`, `all`, or a share of the requests"),
        ("access_log:\n", ":1: access_log has no value"),
        ("routing: [reads]\n", ":1: routing is a list; this key has one value"),
        ("routing: Observe\n", ":1: routing: Observe: use `off`, `observe`, `reads` or `all`"),
        ("node: a\nrouting: all\nrouting: off\n", ":3: routing is set a second time, first in line 2"),
        ("shutdown_delay: 5\n", ":1: shutdown_delay: 5: a duration is a whole number and its unit"),
        ("shutdown_delay: 2h\n", ":1: shutdown_delay: 2h: give a duration from 0ms to 1h"),
        ("max_requests: 0\n", ":1: max_requests: 0: give a whole number from 1 to 10000000"),
        ("max_requests: 10k\n", ":1: max_requests: 10k: give a whole number from 1 to 10000000"),
        ("max_request: 10\n", ":1: unknown key `max_request`; did you mean `max_requests`?"),
        ("max_requests_per_node: -1\n", ":1: max_requests_per_node: -1: give a whole number from 1 to"),
        ("max_held_bytes: 1GB\n", ":1: max_held_bytes: 1GB: a size is a whole number of bytes, or of KiB"),
        ("max_held_bytes: 1KiB\n", ":1: max_held_bytes: 1KiB: give from 1048576 to 1099511627776 bytes"),
        ("workers: 0\n", ":1: workers: 0: give a whole number from 1 to 1024"),
        ("workers: auto\n", ":1: workers: auto: give a whole number from 1 to 1024"),
        ("log_format: xml\n", ":1: log_format: xml: use one of: text, json"),
        ("headless: q\n  node: a\n", ": not YAML: "),
        ("headless: \"q\n", ": not YAML: "),
        ("- headless\n", ":1: not a list of keys"),
        (
            "node: a\nlisten_grpc: 0.0.0.0:6333\n",
            ":2: listen_grpc: 0.0.0.0:6333: listen_rest already has this port",
        ),
        (
            "node: a\nlisten_admin: 127.0.0.1:6334\n",
            ":2: listen_admin: 127.0.0.1:6334: listen_grpc already has",
        ),
        ("node: a\napi_key_file: /no/such/file\n", ":2: api_key_file: /no/such/file: No such file"),
        (
            "node: a\nupstream_ca_file: /ca\n",
            ":2: upstream_ca_file: /ca: works with TLS only; set upstream_tls",
        ),
        ("node: a\nupstream_tls: true\nupstream_server_name: 'a b'\n", ":3: upstream_server_name: a b: "),
        (
            "node: a\nupstream_cert_file: /c\nupstream_key_file: /k\n",
            ":2: upstream_cert_file: /c: works with TLS only; set upstream_tls",
        ),
        (
            "node: a\nupstream_tls: true\nupstream_cert_file: /no/such/file\n",
            ":3: upstream_cert_file: /no/such/file: No such file",
        ),
        (
            "node: a\nupstream_tls: true\nupstream_key_file: /no/such/file\n",
            ":3: upstream_key_file: /no/such/file: No such file",
        ),
        (&lonely_certificate, ": a certificate and its private key go together: give upstream_key_file too"),
        (&lonely_key, ": a certificate and its private key go together: give upstream_cert_file too"),
        (&no_identity, ":3: upstream_cert_file: "),
        (
            "node: a\ntls_client_ca_file: /ca\n",
            ":2: tls_client_ca_file: /ca: only TLS asks clients for certificates: give tls_cert_file",
        ),
        ("tls_client_ca_file: ''\n", ":1: tls_client_ca_file: : there is no value; give it one"),
        (&empty_key, ": the file is empty; it should hold the API key"),
        (&no_certificate, ": no usable CA certificate"),
    ] {
        let file = file(text);
        let ended = run("check", &["--config", path(&file)], &[]);
        assert_eq!(ended.code, Some(2), "{text}: {ended:?}");
        let line = ended.stderr.trim_end();
        assert!(!line.contains('\n'), "{text}: one line: {line}");
        let place = format!("qdrant-router: {}", path(&file));
        assert!(line.starts_with(&place) && line.contains(says), "{text}: {line}");
    }
}

#[test]
fn a_mistake_elsewhere_names_the_flag_or_the_variable() {
    for (arguments, variables, says) in [
        (&["--config=/no/such"][..], &[][..], "--config /no/such: No such file"),
        (&["--config=/"], &[], "--config /: Is a directory"),
        (&["--drain-timeout", "-5s"], &[], "--drain-timeout -5s: a duration is"),
        (&["--upstream-grpc-port=0"], &[], "--upstream-grpc-port 0: a port is"),
        (&["--hedless=q"], &[], "unknown argument --hedless; did you mean --headless?"),
        (&[], &[("QDRANT_ROUTER_LISTEN_REST", "6333")], "QDRANT_ROUTER_LISTEN_REST=6333: not IP:PORT"),
        (
            &[],
            &[("QDRANT_ROUTER_UPSTREAM_TLS", "1")],
            "QDRANT_ROUTER_UPSTREAM_TLS=1: use one of: true, false",
        ),
        (&["--config"], &[], "--config: there is no value"),
        (&["--headless=a", "--headless=b"], &[], "the argument '--headless <NAME>' cannot be used multiple"),
        (&[], &[("QDRANT_ROUTER_HEADLESS", "")], "QDRANT_ROUTER_HEADLESS=: `` is not HOST"),
        (&[], &[("QDRANT_ROUTER_API_KEY_FILE", "")], "QDRANT_ROUTER_API_KEY_FILE=: there is no value"),
        (&["--node=localhost"], &[], "--node localhost: the router would call itself: listen_rest is at"),
        (
            &["--node=q", "--fallback=127.0.0.1:9:6334"],
            &[],
            "--fallback 127.0.0.1:9:6334: the router would call",
        ),
        (&["--node=a"], &[("QDRANT_ROUTER_API_KEY_FILE", "/no")], "QDRANT_ROUTER_API_KEY_FILE=/no: No such"),
        (&["--node=a"], &[("QDRANT_ROUTER_CONFIG", "/no")], "--config /no: No such file"),
        (&["--shutdown-delay=1d"], &[], "--shutdown-delay 1d: a duration is"),
        (
            &["--max-connection-age=10ms"],
            &[],
            "--max-connection-age 10ms: give a duration from 1s to 24h, or `0s`",
        ),
        (&["--max-requests=many"], &[], "--max-requests many: give a whole number"),
        (&["--max-requests-per-node", "-1"], &[], "--max-requests-per-node -1: give a whole number"),
        (&["--max-held-bytes", "-1"], &[], "--max-held-bytes -1: a size is"),
        (&["--workers=1.5"], &[], "--workers 1.5: give a whole number"),
        (&["--routing=write"], &[], "--routing write: use `off`, `observe`, `reads` or `all`"),
        (&["--access-log"], &[], "--access-log: there is no value"),
        (&["--trace-sample", "-1"], &[], "--trace-sample -1: a share is"),
        (&["--otlp-endpoint=grpc://c:4317"], &[], "--otlp-endpoint grpc://c:4317: not http://HOST:PORT"),
        (&[], &[("QDRANT_ROUTER_WORKERS", "0")], "QDRANT_ROUTER_WORKERS=0: give a whole number"),
        (&[], &[("QDRANT_ROUTER_MAX_REQUESTS", "")], "QDRANT_ROUTER_MAX_REQUESTS=: give a whole number"),
        (&[], &[("QDRANT_ROUTER_ACCESS_LOG", "1%")], "QDRANT_ROUTER_ACCESS_LOG=1%: use `off`, `all`"),
        (
            &["--node=a"],
            &[("QDRANT_ROUTER_TLS_CLIENT_CA_FILE", "/ca")],
            "QDRANT_ROUTER_TLS_CLIENT_CA_FILE=/ca: only TLS asks clients",
        ),
        (
            &["--node=a", "--upstream-tls", "--upstream-key-file=/no"],
            &[],
            "--upstream-key-file /no: No such file",
        ),
    ] {
        let ended = run("check", arguments, variables);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let expected = format!("qdrant-router: {says}");
        assert!(ended.stderr.starts_with(&expected), "{expected}: {}", ended.stderr);
        assert_eq!(ended.stderr.trim_end().lines().count(), 1, "{}", ended.stderr);
    }
}

#[test]
fn a_variable_that_is_no_key_is_an_error_that_names_the_nearest_and_no_value() {
    for (variable, says) in [
        ("QDRANT_ROUTER_HEDLESS", "did you mean QDRANT_ROUTER_HEADLESS?"),
        ("QDRANT_ROUTER_API_KEY", "did you mean QDRANT_ROUTER_API_KEY_FILE?"),
        ("QDRANT_ROUTER_MAX_REQUEST", "did you mean QDRANT_ROUTER_MAX_REQUESTS?"),
        ("QDRANT_ROUTER_CONFG", "did you mean QDRANT_ROUTER_CONFIG?"),
        ("QDRANT_ROUTER_ZZZ", "`qdrant-router docs configuration` lists all keys"),
    ] {
        let ended = run("check", &["--node=a"], &[(variable, "a-secret")]);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert_eq!(ended.stderr, format!("qdrant-router: unknown variable {variable}; {says}\n"));
    }
    let ended = run("docs", &["schema"], &[("QDRANT_ROUTER_ZZZ", "1")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubernetes_sets_for_a_service_of_the_same_name_is_left_aside() {
    let variables = [
        ("QDRANT_ROUTER_SERVICE_HOST", "10.96.0.7"),
        ("QDRANT_ROUTER_SERVICE_PORT", "6333"),
        ("QDRANT_ROUTER_SERVICE_PORT_GRPC", "6334"),
        ("QDRANT_ROUTER_PORT", "tcp://10.96.0.7:6333"),
        ("QDRANT_ROUTER_PORT_6333_TCP", "tcp://10.96.0.7:6333"),
        ("QDRANT_ROUTER_PORT_6333_TCP_PROTO", "tcp"),
        ("QDRANT_ROUTER_PORT_6333_TCP_PORT", "6333"),
        ("QDRANT_ROUTER_PORT_6333_TCP_ADDR", "10.96.0.7"),
    ];
    let block = Block::claim().expect("addresses");
    let ip = block.proxy();
    let listeners = [("rest", 6333), ("grpc", 6334), ("admin", 9633)];
    let listeners = listeners.map(|(name, port)| format!("--listen-{name}={ip}:{port}"));
    let ([rest, grpc, admin], node) = (&listeners, format!("--node={}", block.node(0)));
    let program = Program::start_with(&[&node, rest, grpc, admin], &variables);
    eventually("it is alive", async || get(ip, 9633, "/livez").await.is_some()).await;
    let said = program.said();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("QDRANT_ROUTER_")).collect();
    let [line] = &lines[..] else { panic!("one line: {said}") };
    assert!(variables.iter().all(|(name, _)| line.contains(name)), "{line}");
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let file = file(
        "headless: from.file\nnode: [a, 'b:1']\nupstream_rest_port: 1\nupstream_grpc_port: 2\nlog: warn\n",
    );
    let arguments = ["--config", path(&file), "--upstream-rest-port=3"];
    let variables = [("QDRANT_ROUTER_UPSTREAM_REST_PORT", "4"), ("QDRANT_ROUTER_UPSTREAM_GRPC_PORT", "5")];
    let ended = run("check", &arguments, &variables);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let place = format!("{}:", path(&file));
    for (key, value, origin) in [
        ("headless", "from.file", format!("{place}1")),
        ("node", "a, b:1", format!("{place}2")),
        ("upstream_rest_port", "3", "flag".to_owned()),
        ("upstream_grpc_port", "5", "environment".to_owned()),
        ("log", "warn", format!("{place}5")),
        ("listen_rest", "0.0.0.0:6333", "default".to_owned()),
    ] {
        let line = format!("{key:<22} {value:<40} {origin}");
        assert!(ended.stdout.lines().any(|said| said == line), "{line}: {}", ended.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_says_what_serve_does_and_other_verbs_take_it_too() {
    let cluster = Cluster::builder().nodes(1).start().await.expect("a cluster");
    let ip = cluster.block().proxy();
    let file = file(&format!("node: {}\nlisten_rest: {ip}:7333\nlog_format: json\n", cluster.node(0).ip()));
    let program = Program::start(&[
        "--config",
        path(&file),
        &format!("--listen-grpc={ip}:6334"),
        &format!("--listen-admin={ip}:9633"),
    ]);
    eventually("it serves", async || {
        get(ip, 7333, "/collections").await.is_some_and(|(status, _)| status == StatusCode::OK)
    })
    .await;
    program.terminate();
    let (_, said) = tokio::task::spawn_blocking(move || program.end()).await.expect("a thread");
    assert!(said.lines().all(|line| line.starts_with("{\"timestamp\"")), "{said}");

    let config = path(&file).to_owned();
    let ended = tokio::task::spawn_blocking(move || run("topology", &["--config", &config], &[])).await;
    let ended = ended.expect("a thread");
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn a_check_opens_no_port() {
    let block = Block::claim().expect("addresses");
    let taken = std::net::TcpListener::bind((block.proxy(), 6333)).expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let ended = run("check", &["--node=a", "--listen-rest", &address], &[]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
