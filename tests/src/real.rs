//! A real Qdrant server as a node of the cluster.
//!
//! One process, one temporary directory. The directory is the working directory too, so that whatever the server writes
//! by a relative path is gone with it. Configuration goes through environment variables alone; those of the caller that
//! would reach into it are removed.
//!
//! A server must not outlive the test, however the test ends. Each has a *keeper*: a shell that waits on a pipe whose
//! other end only this process holds, and then sends `SIGKILL`. The pipe closes when the handle is dropped and, by the
//! kernel, when the test process itself is killed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;

use crate::{GRPC_PORT, P2P_PORT, REST_PORT, lock};

/// How many lines of its log an error quotes.
const LOG_LINES: usize = 25;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct RealOptions {
    /// The server binary.
    pub binary: PathBuf,
    /// The address it listens on with all three ports, and under which its peers know it.
    pub ip: IpAddr,
    /// The peer id to ask for. Servers before 1.15 choose their own.
    pub peer_id: u64,
    /// The address of a member of the cluster to join; none for the first.
    pub bootstrap: Option<IpAddr>,
    /// The read-write key clients must send.
    pub api_key: Option<String>,
    /// The key that may only read.
    pub read_only_api_key: Option<String>,
    /// Distributed mode. Without it the server knows nothing of peers.
    pub cluster_enabled: bool,
}

/// A running, stopped or dead server and its storage.
#[derive(Debug)]
pub struct RealNode {
    // Declared before the directory: the process must be gone before its files are removed.
    process: Mutex<Option<Process>>,
    options: Mutex<RealOptions>,
    dir: TempDir,
}

#[derive(Debug)]
struct Process {
    server: Child,
    keeper: Child,
}

// === impl RealNode ===

impl RealNode {
    /// Starts a server on fresh storage. It returns at once; the server is not ready yet.
    ///
    /// # Errors
    ///
    /// When there is no directory for it, or the binary cannot be executed.
    pub fn start(options: RealOptions) -> io::Result<RealNode> {
        let dir = tempfile::Builder::new().prefix("qdrant-testkit-").tempdir()?;
        let process = Process::spawn(&options, dir.path())?;
        Ok(RealNode { process: Mutex::new(Some(process)), options: Mutex::new(options), dir })
    }

    /// `SIGKILL`: nothing is flushed, no connection is closed in order.
    pub fn kill(&self) {
        lock(&self.process).take();
    }

    /// `SIGTERM`: the server finishes what is in flight and ends. Kills it where that takes longer than `patience`.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub async fn terminate(&self, patience: Duration) -> io::Result<()> {
        self.signal("TERM")?;
        let ended = async {
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            while self.exited()?.is_none() {
                pause.tick().await;
            }
            Ok(())
        };
        let ended = tokio::time::timeout(patience, ended).await.unwrap_or(Ok(()));
        self.kill();
        ended
    }

    /// Starts the server again on the storage it had, killing it first if it runs.
    ///
    /// # Errors
    ///
    /// When the binary cannot be executed.
    pub fn restart(&self) -> io::Result<()> {
        let mut process = lock(&self.process);
        process.take();
        *process = Some(Process::spawn(&lock(&self.options), self.dir.path())?);
        Ok(())
    }

    /// As [`RealNode::restart`], at a new address. The server tells one of its peers, which must therefore be alive.
    ///
    /// # Errors
    ///
    /// When the binary cannot be executed.
    pub fn restart_at(&self, ip: IpAddr) -> io::Result<()> {
        lock(&self.options).ip = ip;
        self.restart()
    }

    /// `SIGSTOP`: connections stay open and new ones are even accepted, by the kernel, but nothing is ever answered.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn hang(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// `SIGCONT`: goes on where it was stopped.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    /// How the server ended, if it did so on its own.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn exited(&self) -> io::Result<Option<ExitStatus>> {
        lock(&self.process).as_mut().map_or(Ok(None), |process| process.server.try_wait())
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        lock(&self.process).as_ref().map(|process| process.server.id())
    }

    /// The file that takes what the server prints, over all its lives.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        log_file(self.dir.path())
    }

    /// The last lines of that file.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let Ok(bytes) = fs::read(self.log_file()) else {
            return "no log".to_owned();
        };
        let log = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        let pid =
            self.pid().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the server does not run"))?;
        // The shell's own `kill`, so that no further program has to be installed.
        let status =
            Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("kill -s {name} {pid}: {status}")))
        }
    }
}

// === impl Process ===

impl Process {
    fn spawn(options: &RealOptions, dir: &Path) -> io::Result<Process> {
        let log = File::options().create(true).append(true).open(log_file(dir))?;
        let mut server =
            command(options, dir).stdout(log.try_clone()?).stderr(log).spawn().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot run {}: {error}; check QDRANT_BIN", options.binary.display()),
                )
            })?;
        // `read` returns when the pipe closes. The server is not reaped before the keeper has ended, so its process id
        // cannot have been given to somebody else by then.
        let keeper = Command::new("sh")
            .args(["-c", "read -r _; kill -s KILL \"$0\"", &server.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match keeper {
            Ok(keeper) => Ok(Process { server, keeper }),
            Err(error) => {
                let _ = server.kill();
                let _ = server.wait();
                Err(error)
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.server.kill();
        // `wait` closes the keeper's pipe first. Both have been killed or released, so neither wait takes long.
        let _ = self.keeper.wait();
        let _ = self.server.wait();
    }
}

fn log_file(dir: &Path) -> PathBuf {
    dir.join("qdrant.log")
}

fn command(options: &RealOptions, dir: &Path) -> Command {
    let mut command = Command::new(&options.binary);
    for (name, _) in std::env::vars_os() {
        if is_foreign(&name) {
            command.env_remove(name);
        }
    }
    let uri = |ip: IpAddr| format!("http://{}", SocketAddr::new(ip, P2P_PORT));
    if options.cluster_enabled {
        command.arg("--uri").arg(uri(options.ip));
    }
    // Harmless on a restart: a server that has a Raft state ignores it, and one that died before it joined needs it.
    if let Some(first) = options.bootstrap {
        command.arg("--bootstrap").arg(uri(first));
    }
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        // Out of the terminal's group: Ctrl-C is for the test or the demo, which then ends its servers itself.
        .process_group(0)
        // Without a line per request: the kit polls, and the end of the log is what an error quotes.
        .env("QDRANT__LOG_LEVEL", "info,actix_web::middleware::logger=warn")
        .env("QDRANT__TELEMETRY_DISABLED", "true")
        .env("QDRANT__SERVICE__HOST", options.ip.to_string())
        .env("QDRANT__SERVICE__HTTP_PORT", REST_PORT.to_string())
        .env("QDRANT__SERVICE__GRPC_PORT", GRPC_PORT.to_string())
        .env("QDRANT__SERVICE__ENABLE_STATIC_CONTENT", "false")
        .env("QDRANT__STORAGE__STORAGE_PATH", dir.join("storage"))
        .env("QDRANT__STORAGE__SNAPSHOTS_PATH", dir.join("snapshots"))
        .env("QDRANT__CLUSTER__ENABLED", options.cluster_enabled.to_string())
        .env("QDRANT__CLUSTER__PEER_ID", options.peer_id.to_string())
        .env("QDRANT__CLUSTER__P2P__PORT", P2P_PORT.to_string())
        .env("QDRANT__CLUSTER__CONSENSUS__TICK_PERIOD_MS", "100")
        .env("QDRANT__CLUSTER__RESHARDING_ENABLED", "true")
        // Several servers share a test machine, and none of them has much to do.
        .env("QDRANT__SERVICE__MAX_WORKERS", "2")
        .env("QDRANT__STORAGE__PERFORMANCE__MAX_SEARCH_THREADS", "1")
        .env("QDRANT__STORAGE__WAL__WAL_CAPACITY_MB", "1");
    if let Some(key) = &options.api_key {
        command.env("QDRANT__SERVICE__API_KEY", key);
        command.env("QDRANT__SERVICE__JWT_RBAC", "true");
    }
    if let Some(key) = &options.read_only_api_key {
        command.env("QDRANT__SERVICE__READ_ONLY_API_KEY", key);
    }
    command
}

/// Variables that the server would read and that this module did not set.
fn is_foreign(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("QDRANT_") || name == "RUN_MODE")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A stand-in that prints its arguments and its address and then waits to be killed.
    fn stand_in(dir: &Path) -> RealOptions {
        let binary = dir.join("qdrant");
        let script = "#!/bin/sh\necho \"$@\" \"$QDRANT__SERVICE__HOST\"\nexec sleep 600\n";
        // Written by another process: while this one holds a file open for writing, a fork in a parallel test inherits
        // it, and for that moment the file cannot be executed.
        let write = "printf %s \"$1\" > \"$0\" && chmod +x \"$0\"";
        let written =
            Command::new("sh").args(["-c", write]).arg(&binary).arg(script).status().expect("a shell");
        assert!(written.success());
        RealOptions {
            binary,
            ip: Ipv4Addr::new(127, 3, 4, 11).into(),
            peer_id: 1,
            bootstrap: Some(Ipv4Addr::new(127, 3, 4, 10).into()),
            api_key: None,
            read_only_api_key: None,
            cluster_enabled: true,
        }
    }

    fn wait_for_log(node: &RealNode, text: &str) {
        while !node.log_tail().contains(text) {
            assert_eq!(node.exited().expect("known"), None, "{}", node.log_tail());
            std::thread::yield_now();
        }
    }

    /// The letter Linux shows for a process: `R`, `S`, `T` for stopped, nothing when there is none.
    fn state(pid: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }

    #[test]
    fn lives_through_stop_restart_and_kill() {
        let dir = tempfile::tempdir().expect("a directory");
        let node = RealNode::start(stand_in(dir.path())).expect("started");
        wait_for_log(&node, "--uri http://127.3.4.11:6335 --bootstrap http://127.3.4.10:6335 127.3.4.11");
        let first = node.pid().expect("running");

        node.hang().expect("stopped");
        while state(first) != Some('T') {
            std::thread::yield_now();
        }
        node.resume().expect("goes on");
        while state(first) == Some('T') {
            std::thread::yield_now();
        }

        node.restart_at(Ipv4Addr::new(127, 3, 4, 151).into()).expect("started");
        assert_eq!(state(first), None);
        wait_for_log(&node, "--uri http://127.3.4.151:6335");
        let second = node.pid().expect("running");
        node.kill();
        assert_eq!((node.pid(), state(second)), (None, None));
        assert_eq!(node.hang().expect_err("dead").kind(), io::ErrorKind::NotFound);

        let storage = node.dir.path().to_owned();
        node.restart().expect("started");
        let third = node.pid().expect("running");
        drop(node);
        assert_eq!(state(third), None);
        assert!(!storage.exists());
    }

    #[test]
    fn a_missing_binary_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = RealOptions { binary: "/nonexistent/qdrant".into(), ..stand_in(dir.path()) };
        let error = RealNode::start(options).expect_err("no such file");
        assert!(error.to_string().starts_with("cannot run /nonexistent/qdrant"), "{error}");
    }
}
