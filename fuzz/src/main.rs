//! Fuzzes with any compiler: replays the corpus of each target, then mutates it for a while,
//! without measuring coverage. `cargo fuzz` measures it, and the inputs that it finds are kept in
//! the corpus.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "it runs for a span of real time")]

mod mutation;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use couplet_fuzz::{TARGETS, Target};

use mutation::Mutator;
use trial::Trials;

const HELP: &str = "\
Fuzzes Couplet: replays the kept corpus of each target, then mutates it.

Usage: cargo run --release --manifest-path fuzz/Cargo.toml -- [OPTIONS] [TARGET...]
       cargo run --release --manifest-path fuzz/Cargo.toml -- TARGET FILE...

With FILEs it tries only these inputs of TARGET.

Options:
  --seconds S   mutate each target for S seconds [default: 10]; 0 only replays the corpus
  --seed N      the seed of the mutations, printed by each run; the same seed gives the same inputs
  --list        print the names of the targets
  --help        print this

An input that fails is written to fuzz/artifacts/TARGET/, and the exit code is 1.
";

struct Options {
    seconds: f64,
    seed: u64,
    targets: Vec<Target>,
    files: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg == "--list") {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    }
    let done = read(&args).map_err(|wrong| (2, wrong)).and_then(|options| {
        let run = if options.files.is_empty() { fuzz } else { replay };
        run(&options).map_err(|failed| (1, failed))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            eprintln!("{why}");
            ExitCode::from(code)
        }
    }
}

fn read(args: &[String]) -> Result<Options, String> {
    let mut options =
        Options { seconds: 10.0, seed: now_as_seed(), targets: vec![], files: vec![] };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = |what: &str| args.next().ok_or(format!("{arg} needs {what}; see --help"));
        if arg == "--seconds" {
            let text = value("a number of seconds")?;
            let seconds = text.parse().ok().filter(|s| Duration::try_from_secs_f64(*s).is_ok());
            options.seconds = seconds.ok_or(format!("{text:?} is not a number of seconds"))?;
        } else if arg == "--seed" {
            let text = value("a number")?;
            options.seed = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
        } else if arg.starts_with('-') {
            return Err(format!("unknown option {arg}; see --help"));
        } else if let Some(target) = TARGETS.iter().find(|target| target.name == arg) {
            options.targets.push(*target);
        } else if options.targets.len() == 1 {
            options.files.push(arg.into());
        } else {
            let names = TARGETS.map(|target| target.name).join(", ");
            return Err(format!("there is no target {arg:?}; known targets: {names}"));
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.to_vec();
    }
    Ok(options)
}

fn now_as_seed() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    since.as_nanos() as u64 % 1_000_000_000
}

fn replay(options: &Options) -> Result<(), String> {
    let target = options.targets[0];
    let trials = Trials::new(target);
    for file in &options.files {
        trials.run(&load(file)?)?;
        println!("{}: {} is fine", target.name, file.display());
    }
    Ok(())
}

fn load(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

fn fuzz(options: &Options) -> Result<(), String> {
    println!("seed {}", options.seed);
    for target in &options.targets {
        let corpus = corpus(target.name)?;
        let trials = Trials::new(*target);
        for input in &corpus {
            trials.run(input)?;
        }
        let mut mutator = Mutator::new(options.seed, &corpus, target.words);
        let (began, mut runs) = (now(), 0_u64);
        while began.elapsed().as_secs_f64() < options.seconds {
            trials.run(mutator.next())?;
            runs += 1;
        }
        let (kept, rate) = (corpus.len(), runs as f64 / began.elapsed().as_secs_f64());
        println!(
            "{}: {kept} inputs of the corpus, {runs} mutations, {rate:.0} per second",
            target.name
        );
    }
    Ok(())
}

fn now() -> Instant {
    Instant::now()
}

/// The corpus of a target, ordered by file name.
fn corpus(target: &str) -> Result<Vec<Vec<u8>>, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let read = |error| format!("cannot read {}: {error}", folder.display());
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(read)? {
        files.push(entry.map_err(read)?.path());
    }
    files.sort();
    files.iter().map(|file| load(file)).collect()
}
