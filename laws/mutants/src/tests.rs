//! The tests: which of them reach a mutant, and which fail with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Number of concurrent processes, with two threads each.
const WORKERS: usize = 2;
/// Maximum duration of a batch of tests.
const BATCH: Duration = Duration::from_secs(3);
/// A batch that takes longer than this and four times its usual duration hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// A binary that takes longer than this hangs.
const WHOLE: Duration = Duration::from_secs(600);
/// Memory limit of a test process: a mutant may allocate without end.
const MEMORY: &str = "--as=16000000000";

pub struct Test {
    binary: PathBuf,
    name: String,
    takes: Duration,
    reaches: BTreeSet<u32>,
}

/// How a process of tests ended.
enum End {
    Passed,
    Failed(String),
    Hangs,
    Dies,
}

/// The result of a run with a mutant.
pub enum Outcome {
    Killed(String),
    Alive,
}

fn run(folder: &Path, binary: &Path, names: &[&str], limit: Duration, set: (&str, &str)) -> End {
    let mut command = Command::new("prlimit");
    command.arg(MEMORY).args(["timeout", "-k", "1"]).arg(limit.as_secs().to_string()).arg(binary);
    // Unstable options are needed for one thing: the first failure must end the process.
    command.args(["--exact", "-Zunstable-options", "--fail-fast", "--test-threads", "2"]);
    command.args(names).env("RUSTC_BOOTSTRAP", "1").env(set.0, set.1);
    command.current_dir(folder.join("crates/couplet-core")).stdin(Stdio::null());
    // Output goes to a file: programs that a test leaves running would hold a pipe open.
    let said = folder.join(format!("said-{:?}", thread::current().id()));
    command.stdout(File::create(&said).expect("a file")).stderr(Stdio::null());
    let mut child = command.spawn().expect("a test starts");
    let status = child.wait().expect("it ends");
    // `timeout` leads its own process group; kills the remaining members.
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    if status.success() {
        return End::Passed;
    }
    let said = fs::read_to_string(&said).unwrap_or_default();
    let failed = said.lines().find_map(|line| {
        let name = line.strip_prefix("test ")?.split_once(" ... ")?.0;
        line.contains("FAILED").then(|| name.trim_end_matches(" - should panic").to_owned())
    });
    match (failed, status.code()) {
        (Some(name), _) => End::Failed(name),
        (None, Some(124 | 137)) => End::Hangs,
        (None, _) => End::Dies,
    }
}

/// Runs `work` for every item, a few at a time; returns the results in the order of the items.
pub fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    done.lock().expect("no worker panics").insert(at, result);
                }
            });
        }
    });
    done.into_inner().expect("no worker panics").into_values().collect()
}

/// Runs each test separately without a mutant: it must pass, and records the mutants that it
/// reaches.
pub fn look(folder: &Path, work: &Path, binaries: &[PathBuf]) -> Vec<Test> {
    let mut all = Vec::new();
    for binary in binaries {
        let list = Command::new(binary).args(["--list", "--format", "terse"]).output();
        let list = String::from_utf8(list.expect("it lists its tests").stdout).expect("names");
        for name in list.lines().filter_map(|line| line.strip_suffix(": test")) {
            // Tidy tests read the sources, which are instrumented in this copy.
            if !name.starts_with("tidy::") {
                all.push((binary.clone(), name.to_owned(), all.len()));
            }
        }
    }
    let looked = side_by_side(&all, |(binary, name, number)| {
        let reached = work.join(format!("reached-{number}"));
        let _ = fs::remove_file(&reached);
        let from = Instant::now();
        let path = reached.display().to_string();
        let set = ("COUPLET_MUTANTS_REACHED", &*path);
        let end = run(folder, binary, &[name], Duration::from_secs(120), set);
        let takes = from.elapsed();
        let ids = fs::read_to_string(&reached).unwrap_or_default();
        let _ = fs::remove_file(&reached);
        let reaches = ids.lines().filter_map(|id| id.parse().ok()).collect();
        let test = Test { binary: binary.clone(), name: name.clone(), takes, reaches };
        (test, matches!(end, End::Passed))
    });
    let red: Vec<_> =
        looked.iter().filter(|(_, passed)| !passed).map(|(test, _)| &test.name).collect();
    println!("red before a mutant is chosen, and left out: {red:?}");
    assert!(red.len() < 10, "the tests are red before a mutant is chosen");
    let mut tests: Vec<_> =
        looked.into_iter().filter(|(_, passed)| *passed).map(|(test, _)| test).collect();
    tests.sort_by_key(|test| test.takes);
    tests
}

/// Groups tests of one binary into batches.
fn batches<'a>(tests: impl Iterator<Item = &'a Test>) -> Vec<Vec<&'a Test>> {
    let mut batches: Vec<Vec<&Test>> = Vec::new();
    let mut open: BTreeMap<&Path, (usize, Duration)> = BTreeMap::new();
    // The first batches are short, because most mutants are killed by them.
    for test in tests {
        let limit = if batches.len() < 2 { BATCH / 3 } else { BATCH };
        match open.get_mut(&*test.binary) {
            Some((at, takes)) if *takes + test.takes <= limit => {
                batches[*at].push(test);
                *takes += test.takes;
            }
            _ => {
                open.insert(&test.binary, (batches.len(), test.takes));
                batches.push(vec![test]);
            }
        }
    }
    batches
}

/// Runs the tests that reach a mutant, the shortest first.
pub fn try_one(folder: &Path, id: u32, tests: &[Test]) -> Outcome {
    let chosen = id.to_string();
    let set = ("COUPLET_MUTANT", &*chosen);
    // Some tests can't record mutants for lack of descriptors: they may reach one that no other does.
    let unknown = reaching(id, tests) == 0;
    let may_reach =
        |test: &&Test| test.reaches.contains(&id) || (unknown && test.reaches.is_empty());
    let reaching = tests.iter().filter(may_reach);
    for batch in batches(reaching) {
        let mut left = batch;
        while let Some(first) = left.first() {
            let takes: Duration = left.iter().map(|test| test.takes).sum();
            let names: Vec<&str> = left.iter().map(|test| &*test.name).collect();
            match run(folder, &first.binary, &names, PATIENCE + takes * 4, set) {
                End::Passed => break,
                End::Hangs => return Outcome::Killed("a test that hangs".to_owned()),
                End::Dies => return Outcome::Killed("a test whose process dies".to_owned()),
                End::Failed(name) => {
                    // A failure counts only if it is repeated.
                    let again = run(folder, &first.binary, &[&name], PATIENCE * 3, set);
                    if !matches!(again, End::Passed) {
                        return Outcome::Killed(name);
                    }
                    left.retain(|test| test.name != name);
                }
            }
        }
    }
    Outcome::Alive
}

/// Runs whole binaries with a mutant until a test fails; returns that test.
pub fn try_whole<'a>(
    folder: &Path,
    id: u32,
    binaries: impl Iterator<Item = &'a Path>,
) -> Option<String> {
    let chosen = id.to_string();
    let (set, unset) = (("COUPLET_MUTANT", &*chosen), ("COUPLET_MUTANT", "0"));
    for binary in binaries {
        // Tidy tests read the sources, which are instrumented in this copy.
        let mut skipped = vec!["tidy::".to_owned()];
        loop {
            let without = skipped.iter().flat_map(|name| ["--skip", name]).collect::<Vec<_>>();
            let name = match run(folder, binary, &without, WHOLE, set) {
                End::Passed => break,
                End::Hangs => return Some("a test that hangs".to_owned()),
                End::Dies => return Some("a test whose process dies".to_owned()),
                End::Failed(name) => name,
            };
            // A failure counts only if it is repeated, and does not occur without the mutant.
            let fails =
                |set| !matches!(run(folder, binary, &[&name], PATIENCE * 3, set), End::Passed);
            if fails(set) && !fails(unset) {
                return Some(name);
            }
            skipped.push(name);
        }
    }
    None
}

/// Number of tests that reach the mutant.
pub fn reaching(id: u32, tests: &[Test]) -> usize {
    tests.iter().filter(|test| test.reaches.contains(&id)).count()
}
