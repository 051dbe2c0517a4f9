//! What the program's process takes, as the system counts it.

use crate::program::Program;

/// What the memory of the program may grow by, whatever is done to it.
pub(crate) const MAX_GROWTH: u64 = 64 << 20;

/// The memory of a process, from a moment on.
pub(crate) struct Memory {
    process: u32,
    before: u64,
}

impl Memory {
    /// Begins to watch `program`.
    pub(crate) fn of(program: &Program) -> Self {
        let process = program.id();
        // The peak begins anew.
        std::fs::write(format!("/proc/{process}/clear_refs"), "5").expect("the peak is reset");
        Self { process, before: field(process, "VmRSS") }
    }

    /// How far its peak has been above where it began, in bytes.
    pub(crate) fn growth(&self) -> u64 {
        field(self.process, "VmHWM").saturating_sub(self.before)
    }
}

fn field(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.expect("a size in kB") << 10
}
