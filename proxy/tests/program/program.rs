//! Starting the program and asking it.

use std::{
    io::{BufRead, BufReader, Read},
    net::IpAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use http::StatusCode;
use testkit::Rest;

const DEADLINE: Duration = Duration::from_secs(20);

/// A running `qdrant-router serve`; killed when dropped.
pub(crate) struct Program {
    child: Child,
    /// What it has said so far on either stream, and who listens.
    said: Arc<Mutex<String>>,
    listeners: Vec<JoinHandle<()>>,
}

/// How a verb ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a verb to its end.
pub(crate) fn run(verb: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
    let output =
        command(verb).args(arguments).envs(variables.iter().copied()).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The program with a verb, and none of its variables: what tests are told by some is not for it.
pub(crate) fn command(verb: &str) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_qdrant-router"));
    command.arg(verb);
    command
}

/// Any program that starts ours.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"QDRANT_ROUTER_") {
            command.env_remove(name);
        }
    }
    command
}

impl Program {
    /// `serve` on the ports of `ip`.
    pub(crate) fn serve(ip: IpAddr, arguments: &[&str]) -> Self {
        let listeners = listeners(ip);
        let listeners = listeners.iter().map(String::as_str);
        Self::start(&listeners.chain(arguments.iter().copied()).collect::<Vec<_>>())
    }

    /// `serve` with these arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// `serve` with these arguments and variables.
    pub(crate) fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = command("serve");
        command.envs(variables.iter().copied());
        // Nobody waits here for load balancers to notice; a flag says otherwise.
        command.env("QDRANT_ROUTER_SHUTDOWN_DELAY", "0s");
        // What it takes shall not depend on the machine.
        command.env("QDRANT_ROUTER_WORKERS", "2");
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let said = Arc::default();
        let stdout = listen(child.stdout.take().expect("a pipe"), &said);
        let stderr = listen(child.stderr.take().expect("a pipe"), &said);
        Self { child, said, listeners: vec![stdout, stderr] }
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it says until its end, and how it ends.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("a child");
        for listener in self.listeners.drain(..) {
            listener.join().expect("a thread");
        }
        (status, self.said())
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("lock").clone()
    }

    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.id().to_string()]).status().expect("kill");
        assert!(kill.success());
    }
}

/// The flags to listen on the ports of `ip`.
pub(crate) fn listeners(ip: IpAddr) -> [String; 3] {
    [("rest", 6333), ("grpc", 6334), ("admin", 9633)]
        .map(|(name, port)| format!("--listen-{name}={ip}:{port}"))
}

/// Keeps what is said on `stream`, a line at a time.
fn listen(stream: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let said = said.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            *said.lock().expect("lock") += &format!("{}\n", String::from_utf8_lossy(&line));
        }
    })
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "within {DEADLINE:?}: {what}");
        pause.tick().await;
    }
}

/// The answer to `GET path`; `None` where there is none.
pub(crate) async fn get(ip: IpAddr, port: u16, path: &str) -> Option<(StatusCode, String)> {
    let request = http::Request::get(path).body(Default::default()).expect("a request");
    let response = Rest::new((ip, port).into(), None).raw(request).await.ok()?;
    Some((response.status(), String::from_utf8_lossy(response.body()).into_owned()))
}
