//! A mutation run over the library: draws mutants by a seed, compiles them into one copy, and runs
//! the tests with each. `run.sh` documents its usage.
#![expect(clippy::disallowed_methods, reason = "the tests run in real time")]

mod copy;
mod places;
mod rooms;
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use copy::Copy;
use places::Mutant;
use rooms::{Crate, ROOMS, Room};
use tests::Outcome;

/// This tool's folder.
const HERE: &str = "laws/mutants";

#[derive(Default)]
struct Options {
    list: bool,
    seed: u64,
    count: usize,
    only: Vec<String>,
    /// Tries the mutants of this file, in the form of `named.txt`, instead of a draw.
    planted: Option<PathBuf>,
    /// Draws only mutants of these rooms; if empty, of all.
    rooms: Vec<String>,
    /// Runs whole binaries, without recording which mutants each test reaches.
    quick: bool,
    /// Starts no further mutant after this time.
    within: Option<Duration>,
    again: bool,
    /// Runs the program's tests too.
    program: bool,
}

fn options() -> Options {
    let mut options = Options { seed: 1, count: 250, ..Options::default() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} takes a value"));
        match &*argument {
            "--list" => options.list = true,
            "--again" => options.again = true,
            "--program" => options.program = true,
            "--seed" => options.seed = value().parse().expect("a number"),
            "--count" => options.count = value().parse().expect("a number"),
            "--only" => options.only.push(value()),
            "--planted" => options.planted = Some(PathBuf::from(value())),
            "--room" => options.rooms.push(value()),
            "--quick" => options.quick = true,
            "--within" => {
                options.within = Some(Duration::from_secs(value().parse().expect("seconds")));
            }
            _ => panic!("unknown: {argument}; see run.sh"),
        }
    }
    let unknown = |name: &&String| rooms::named(name).is_none();
    if let Some(name) = options.rooms.iter().find(unknown) {
        let all: Vec<_> = ROOMS.iter().map(|room| room.name).collect();
        panic!("no room {name}; there are {}", all.join(", "));
    }
    options
}

impl Options {
    /// The rooms to draw from. A quick draw excludes the runner, the programs and Python, whose
    /// tests take minutes.
    fn rooms(&self) -> Vec<&'static Room> {
        let is_drawn = |room: &&Room| match self.rooms.is_empty() {
            true => {
                let is_slow = room.is_of.is_of_program()
                    || matches!(room.is_of, Crate::Chat | Crate::Poetry | Crate::Python);
                !(self.quick && is_slow)
            }
            false => self.rooms.iter().any(|name| name == room.name),
        };
        ROOMS.iter().filter(is_drawn).collect()
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("tests") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The rooms' files with their texts, and all their mutants, in order.
fn everything(root: &Path, planted: Option<&Path>) -> (Vec<(String, String)>, Vec<Mutant>) {
    let (mut files, mut mutants) = (Vec::new(), Vec::new());
    for room in &ROOMS {
        let sources = root.join(room.is_of.sources());
        let mut paths = Vec::new();
        // A room is a folder or a file.
        if sources.join(room.path).is_dir() {
            rust_files(&sources.join(room.path), &mut paths);
        }
        paths.extend(Some(sources.join(format!("{}.rs", room.path))).filter(|path| path.exists()));
        for path in paths {
            let file = path.strip_prefix(&sources).expect("below it").display().to_string();
            let file = format!("{}{file}", room.is_of.prefix());
            let text = fs::read_to_string(&path).expect("a text");
            mutants.extend(places::mutants_of(room.name, &file, &text));
            files.push((file, text));
        }
    }
    number_namesakes(&mut mutants);
    let text_of = |file: &str| {
        let found = files.iter().find(|(name, _)| name == file);
        found.unwrap_or_else(|| panic!("named.txt: there is no {file}")).1.clone()
    };
    let named = root.join(HERE).join("named.txt");
    let list = fs::read_to_string(planted.unwrap_or(&named)).expect("a list of mutants");
    if planted.is_some() {
        mutants.clear();
    }
    mutants.extend(places::named(&list, text_of));
    (files, mutants)
}

/// Numbers equal changes in a function, so that their names differ.
fn number_namesakes(mutants: &mut [Mutant]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for mutant in mutants {
        let count = seen.entry(mutant.name()).or_default();
        *count += 1;
        if *count > 1 {
            mutant.what = format!("{} ({count})", mutant.what);
        }
    }
}

/// Draws equally from each room, the lowest ranks by the seed, so that a change to the library
/// alters few of the drawn mutants; adds the named mutants.
fn draw(mutants: &[Mutant], options: &Options) -> Vec<Mutant> {
    if !options.only.is_empty() {
        let chosen =
            |mutant: &&Mutant| options.only.iter().any(|part| mutant.name().contains(part));
        return mutants.iter().filter(chosen).cloned().collect();
    }
    if options.planted.is_some() {
        return mutants.to_vec();
    }
    let mut drawn = Vec::new();
    let mut rooms = options.rooms();
    // With fewer mutants than rooms, the seed chooses the rooms; for a quick draw one, so that few tests are
    // built.
    rooms.sort_by_key(|room| rank(options.seed, room.name));
    if options.quick && options.rooms.is_empty() {
        rooms.truncate(1);
    }
    for (at, room) in rooms.iter().enumerate() {
        let mut of_room: Vec<_> =
            mutants.iter().filter(|mutant| mutant.room == room.name).collect();
        let share = (options.count + rooms.len() - 1 - at) / rooms.len();
        of_room.sort_by_key(|mutant| rank(options.seed, &mutant.name()));
        drawn.extend(of_room.into_iter().take(share).cloned());
    }
    if !options.quick && options.rooms.is_empty() {
        drawn.extend(mutants.iter().filter(|mutant| mutant.room == "named").cloned());
    }
    drawn
}

/// A pseudorandom rank from a seed and a name: FNV-1a, and the last step of splitmix64.
fn rank(seed: u64, name: &str) -> u64 {
    let mut z = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        z = (z ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The outcome of each mutant, by its name.
type Results = BTreeMap<String, String>;

fn read_results(path: &Path) -> Results {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(name, result)| (name.to_owned(), result.to_owned())).collect()
}

fn write_results(path: &Path, results: &Results) {
    let lines: String =
        results.iter().map(|(name, result)| format!("{name}\t{result}\n")).collect();
    fs::write(path, lines).expect("written");
}

/// Tests mutants with whole binaries, one after the other, as long as there is time.
fn test_quickly(
    copy: &Copy,
    mutants: &BTreeMap<u32, Mutant>,
    results: &mut Results,
    within: Option<Duration>,
) {
    let targets: BTreeSet<&str> =
        mutants.values().flat_map(|mutant| rooms::targets_of(mutant)).collect();
    let binaries = copy.build(&targets);
    let since = Instant::now();
    for (id, mutant) in mutants {
        if within.is_some_and(|within| since.elapsed() > within) {
            println!("{} ({}): not tried, the time is over", mutant.name(), mutant.line);
            continue;
        }
        let targets = rooms::targets_of(mutant);
        let of_room = binaries.iter().filter(|(target, _)| targets.contains(target));
        let by = tests::try_whole(&copy.root, *id, of_room.map(|(_, path)| &**path));
        let result = by.map_or("alive".to_owned(), |by| format!("killed by {by}"));
        println!("{} ({}): {result}", mutant.name(), mutant.line);
        results.insert(mutant.name(), result);
    }
}

/// Tests mutants of Python's package in stages.
fn test_python(copy: &Copy, mutants: &BTreeMap<u32, Mutant>, results: &mut Results) {
    for (id, mutant) in mutants {
        let by = copy.python(*id);
        let result = by.map_or("alive".to_owned(), |by| format!("killed by {by}"));
        println!("{} ({}): {result}", mutant.name(), mutant.line);
        results.insert(mutant.name(), result);
    }
}

fn is_of_program(mutant: &Mutant) -> bool {
    Crate::of(&mutant.file).0.is_of_program()
}

/// Tests all mutants; results are written to a file as they arrive.
fn test_all(
    copy: &Copy,
    work: &Path,
    mutants: &BTreeMap<u32, Mutant>,
    results: &mut Results,
    program: bool,
) {
    let targets = mutants.values().flat_map(|mutant| rooms::targets_of(mutant));
    let built = copy.build(&targets.collect());
    let binaries: Vec<_> = built.into_iter().map(|(_, path)| path).collect();
    println!("{} binaries; now each test by itself", binaries.len());
    let tests = tests::look(&copy.root, work, &binaries);
    println!("{} tests are green", tests.len());
    // A failure that no mutant has caused would be taken for a notice.
    if program && let Some(by) = copy.rest(0) {
        panic!("{by} fails without a mutant");
    }
    let todo: Vec<_> = mutants.iter().collect();
    let results = Mutex::new(results);
    tests::side_by_side(&todo, |(id, mutant)| {
        let by = match tests::try_one(&copy.root, **id, &tests) {
            Outcome::Killed(by) => Some(by),
            // The program's tests have judged mutants of the program and its runner just now.
            Outcome::Alive if program && !is_of_program(mutant) => copy.rest(**id),
            Outcome::Alive => None,
        };
        let result = match by {
            Some(by) => format!("killed by {by}"),
            None => format!("alive: {} tests reach it", tests::reaching(**id, &tests)),
        };
        println!("{} ({}): {result}", mutant.name(), mutant.line);
        let mut results = results.lock().expect("no worker panics");
        results.insert(mutant.name(), result);
        write_results(&work.join("results.tsv"), &results);
    });
}

fn main() -> ExitCode {
    let options = options();
    let root = std::env::current_dir().expect("a folder");
    let work = PathBuf::from(std::env::var_os("WORK").expect("run.sh sets it"));
    let (files, mutants) = everything(&root, options.planted.as_deref());
    let drawn = draw(&mutants, &options);
    if options.list {
        for mutant in &drawn {
            println!("{} ({})", mutant.name(), mutant.line);
        }
        println!("{} of {}", drawn.len(), mutants.len());
        return ExitCode::SUCCESS;
    }
    let kept = work.join("results.tsv");
    let mut results = if options.again { read_results(&kept) } else { Results::new() };
    let known = |mutant: &Mutant| {
        results.get(&mutant.name()).is_some_and(|result| !result.starts_with("alive"))
    };
    let todo = drawn.iter().filter(|mutant| !known(mutant)).cloned();
    let mut todo: BTreeMap<u32, Mutant> = (1..).zip(todo).collect();
    println!("{} drawn of {}, {} to be tested", drawn.len(), mutants.len(), todo.len());
    if !todo.is_empty() {
        let names: BTreeMap<u32, String> =
            todo.iter().map(|(id, mutant)| (*id, mutant.name())).collect();
        let copy = Copy::new(work.join("copy"), &files);
        for id in copy.make_compile(&mut todo) {
            results.insert(names[&id].clone(), "not viable".to_owned());
        }
        let is_of_python =
            |_: &u32, mutant: &mut Mutant| Crate::of(&mutant.file).0 == Crate::Python;
        let of_python: BTreeMap<_, _> = todo.extract_if(.., is_of_python).collect();
        test_python(&copy, &of_python, &mut results);
        match options.quick {
            true => test_quickly(&copy, &todo, &mut results, options.within),
            false if todo.is_empty() => {}
            false => test_all(&copy, &work, &todo, &mut results, options.program),
        }
    }
    let names: BTreeSet<_> = drawn.iter().map(Mutant::name).collect();
    let count = |result: &str| {
        results.iter().filter(|(name, is)| names.contains(*name) && is.starts_with(result)).count()
    };
    let (not, killed, alive) = (count("not viable"), count("killed"), count("alive"));
    println!("{killed} killed, {alive} alive, {not} not viable");
    let reasons = read_results(&root.join(HERE).join("reasons.txt"));
    let lives = |mutant: &&Mutant| {
        results.get(&mutant.name()).is_some_and(|result| result.starts_with("alive"))
    };
    for mutant in drawn.iter().filter(lives) {
        let reason = reasons.get(&mutant.name()).map_or("no line in reasons.txt", |reason| reason);
        println!("alive: {}: {reason}", mutant.name());
    }
    let is_known = |mutant: &&Mutant| mutant.room == "named" && options.planted.is_none();
    let known_lives = drawn.iter().filter(is_known).any(|mutant| lives(&mutant));
    // One or two survivors may be equivalent to the original; three without a kill are no accident.
    match known_lives || options.quick && alive >= 3 && killed == 0 {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}
