//! What the kernel tells of processes and of the machine.

use std::{fs, process::Command, time::Duration};

/// Keeps this process on one core.
pub(crate) fn pin(core: usize) -> Result<(), String> {
    let pid = std::process::id().to_string();
    let outcome = Command::new("taskset").args(["-a", "-c", "-p", &core.to_string(), &pid]).output();
    match outcome {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "core {core} cannot be had ({}); --load-core and --proxy-core choose others",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("taskset: {error}; it is in the Debian package util-linux")),
    }
}

/// The CPU time that all threads of a process have used.
pub(crate) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let line = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        line.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The memory that a process has resident now, and had at most, in KiB.
pub(crate) fn memory(pid: u32) -> (u64, u64) {
    (status(pid, "VmRSS:"), status(pid, "VmHWM:"))
}

/// What of the resident memory is the process's own, in KiB: the rest is its program's file, which the system shares.
pub(crate) fn own_memory(pid: u32) -> u64 {
    status(pid, "RssAnon:")
}

/// What the system tells of a process under this name; nothing where there is none.
fn status(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Begins to look for the most memory anew.
pub(crate) fn forget_peak(pid: u32) {
    // Where it is not allowed, the peak is that of all scenarios so far.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// The machine in one line.
pub(crate) fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split_once(": ")).map_or("unknown CPU", |(_, model)| model);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}

/// How busy the machine has been in the last minute.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
