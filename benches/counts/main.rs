//! What deciding and proxying cost, in instructions and allocations: the same each time, on any machine of
//! a kind, however busy it is.
//!
//! ```text
//! cargo bench -p qdrant-router-benches --bench counts            # compares with counts/baseline.json
//! cargo bench -p qdrant-router-benches --bench counts -- --renew # writes it anew
//! ```
//!
//! Each case runs alone under `valgrind --tool=callgrind`, which counts what [`counted`] does and nothing
//! else. What the kernel does for it is not in the count; `counts/emulated.sh` counts that, too.

#[path = "../compare/backend.rs"]
mod backend;
#[path = "../compare/bodies.rs"]
#[allow(dead_code, reason = "the comparison needs the rest")]
mod bodies;
#[path = "../compare/frames.rs"]
#[allow(dead_code, reason = "the comparison needs the rest")]
mod frames;
mod report;
mod requests;
#[path = "../compare/scenario.rs"]
#[allow(dead_code, reason = "the comparison needs the rest")]
mod scenario;
#[path = "../simulated.rs"]
#[allow(dead_code, reason = "the bench of scale needs the rest")]
mod simulated;
#[path = "../steps.rs"]
mod steps;

use std::{
    collections::BTreeMap,
    env, fs, hint,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use serde::{Deserialize, Serialize};

/// How often a case is done for one count, where the command line does not say.
const ROUNDS: u32 = 100;

/// How often a case is counted.
const REPEATS: u32 = 3;

/// What a case costs each time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Count {
    instructions: u64,
    allocations: u64,
}

type Counts = BTreeMap<String, Count>;

/// What a case costs in all.
#[derive(Clone, Copy, Debug)]
struct Cost {
    allocations: u64,
    /// Of the thread, the kernel's part included, until it last waited.
    cpu_nanoseconds: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--case", name] => run(name, ROUNDS),
        ["--case", name, rounds] => rounds
            .parse()
            .map_err(|error| format!("`{rounds}` rounds: {error}"))
            .and_then(|rounds| run(name, rounds)),
        ["--requests"] => {
            requests::ALL.iter().for_each(|request| println!("{}", request.name));
            Ok(())
        }
        _ => count_all(arguments.iter().any(|argument| argument == "--renew")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("counts: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Counts all cases, each in a process of its own.
fn count_all(renews: bool) -> Result<(), String> {
    let steps = steps::all().into_iter().map(|step| step.name);
    let names = steps.chain(requests::ALL.iter().map(|request| request.name));
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut counts = Counts::new();
    for name in names {
        counts.insert(name.to_owned(), count(name, directory.path())?);
    }
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts/baseline.json");
    if renews {
        let text = serde_json::to_string_pretty(&counts).map_err(|error| error.to_string())?;
        fs::write(&baseline, text + "\n").map_err(|error| format!("{}: {error}", baseline.display()))?;
    }
    let text = fs::read_to_string(&baseline).unwrap_or_else(|_| "{}".to_owned());
    let known = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", baseline.display()))?;
    report::compare(&counts, &known)
}

/// Counts one case: allocations at full speed, where no timer comes due and no read finds half of a message. Of a few
/// times the least is taken, because either may happen all the same, and the heap takes a percent of a request's
/// instructions more or less.
fn count(name: &str, directory: &Path) -> Result<Count, String> {
    let program = env::current_exe().map_err(|error| error.to_string())?;
    let mut allocations = u64::MAX;
    for _ in 0..REPEATS {
        let (rounds, all) = finish(name, Command::new(&program).args(["--case", name]))?;
        allocations = allocations.min((all + rounds / 2) / rounds);
    }
    let mut instructions = u64::MAX;
    for _ in 0..REPEATS {
        instructions = instructions.min(instructions_of(name, &program, directory)?);
    }
    Ok(Count { instructions, allocations })
}

fn instructions_of(name: &str, program: &Path, directory: &Path) -> Result<u64, String> {
    let file = directory.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--toggle-collect=*counted_by_callgrind*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--case", name]);
    let (rounds, _) = finish(name, &mut valgrind)?;
    let profile = fs::read_to_string(&file).unwrap_or_default();
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok());
    match total {
        Some(total @ 1..) => Ok(total / rounds),
        _ => Err(format!("`{name}` was not counted: callgrind tells no total")),
    }
}

/// Runs one case to its end, and returns how often it was done and all its allocations.
fn finish(name: &str, command: &mut Command) -> Result<(u64, u64), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        format!("{}: {error}; `apt-get install valgrind`", command.get_program().display())
    })?;
    let (said, complaints) = (text(&output.stdout), text(&output.stderr));
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [rounds, allocations, _] if output.status.success() && rounds > 0 => Ok((rounds, allocations)),
        _ => Err(format!("`{name}` failed: {said} {}", complaints.trim())),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs one case and tells how often, and with how many allocations and nanoseconds of CPU in all.
fn run(name: &str, rounds: u32) -> Result<(), String> {
    let step = steps::all().into_iter().find(|step| step.name == name);
    let request = requests::ALL.iter().find(|request| request.name == name);
    let cost = match (step, request) {
        (Some(mut step), _) => {
            (step.run)();
            counted(|| (0..rounds).for_each(|_| (step.run)()))
        }
        (None, Some(request)) => request.run(rounds)?,
        (None, None) => return Err(format!("there is no case `{name}`")),
    };
    println!("{rounds} {} {}", cost.allocations, cost.cpu_nanoseconds);
    Ok(())
}

/// Does `work`, which is what is counted on this thread.
fn counted(mut work: impl FnMut()) -> Cost {
    let before = cpu_nanoseconds();
    let allocations = allocation_counter::measure(|| counted_by_callgrind(&mut work)).count_total;
    Cost { allocations, cpu_nanoseconds: cpu_nanoseconds().saturating_sub(before) }
}

/// What this thread has had of the CPU; 0 where the kernel does not tell.
fn cpu_nanoseconds() -> u64 {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    statistics.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Callgrind knows it by its name.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut()) {
    work();
    hint::black_box(());
}
