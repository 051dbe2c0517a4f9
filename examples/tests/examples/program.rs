//! Running an example as its readers do: as a program of its own, on a cluster found by name.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use testkit::Cluster;
use tokio::sync::mpsc;

/// How long a line may be waited for.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running example; killed when dropped.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Program {
    /// Starts the example `name` on `cluster`, with `arguments` after the name of the headless Service.
    pub(crate) fn start(name: &'static str, cluster: &Cluster, arguments: &[&str]) -> Self {
        let mut command = Command::new(path(name));
        command
            .arg(cluster.headless_name())
            .args(arguments)
            .env("QDRANT_ROUTER_DNS", cluster.dns().addr().to_string())
            .env("QDRANT_API_KEY", cluster.api_key().unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the example starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel(16);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { name, child, lines, said: Vec::new() }
    }

    /// Waits until it has said a line with `text`, and returns the first.
    pub(crate) async fn says(&mut self, text: &str) -> String {
        loop {
            if let Some(line) = self.said.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let heard = self.hear(text).await;
            assert!(heard, "{} has ended without `{text}`: {:#?}", self.name, self.said);
        }
    }

    /// What it says until its end, which has to be a good one.
    pub(crate) async fn ends(mut self) -> Vec<String> {
        while self.hear("its end").await {}
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "{}: {status}: {:#?}", self.name, self.said);
        std::mem::take(&mut self.said)
    }

    /// Asks it to end, as Kubernetes does.
    pub(crate) fn terminate(&self) {
        let kill = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill").success());
    }

    /// Takes one more line; `false` where there is none to come.
    async fn hear(&mut self, what: &str) -> bool {
        let Ok(line) = tokio::time::timeout(DEADLINE, self.lines.recv()).await else {
            panic!("{}: {what}: not within {DEADLINE:?}: {:#?}", self.name, self.said);
        };
        let is_line = line.is_some();
        self.said.extend(line);
        is_line
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs an example from its beginning to its end, and returns what it says.
pub(crate) async fn run(name: &'static str, cluster: &Cluster, arguments: &[&str]) -> Vec<String> {
    Program::start(name, cluster, arguments).ends().await
}

/// Where `cargo test` puts an example: this is target/debug/deps/…, and that is target/debug/examples/NAME.
fn path(name: &str) -> PathBuf {
    let tests = env::current_exe().expect("the path of this test");
    let path = tests.ancestors().nth(2).expect("the folder of the profile").join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo test` builds the examples, with `--test` it does not; try `cargo build --examples`",
        path.display()
    );
    path
}
