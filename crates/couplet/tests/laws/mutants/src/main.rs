//! A mutation run over the library: draws mutants by a seed, compiles them into one copy, and runs the
//! tests with each. `run.sh` says how it is called.

mod copy;
mod places;
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use copy::Copy;
use places::Mutant;
use tests::Outcome;

/// Where this tool lies.
const HERE: &str = "crates/couplet/tests/laws/mutants";

/// What is mutated of `crates/couplet/src`.
const ROOMS: [&str; 7] =
    ["transport", "reactor", "slots", "defer", "protocols", "driver", "sim/kernel"];

#[derive(Default)]
struct Options {
    list: bool,
    seed: u64,
    count: usize,
    only: Vec<String>,
    again: bool,
    /// Runs the program's tests too.
    program: bool,
    write: bool,
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
            "--write" => options.write = true,
            "--seed" => options.seed = value().parse().expect("a number"),
            "--count" => options.count = value().parse().expect("a number"),
            "--only" => options.only.push(value()),
            _ => panic!("unknown: {argument}; see run.sh"),
        }
    }
    options
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The files of the rooms, with their texts; and all their mutants, in order.
fn everything(root: &Path) -> (Vec<(String, String)>, Vec<Mutant>) {
    let library = root.join("crates/couplet/src");
    let (mut files, mut mutants) = (Vec::new(), Vec::new());
    for room in ROOMS {
        let mut paths = Vec::new();
        // A room is a folder, or a file.
        if library.join(room).is_dir() {
            rust_files(&library.join(room), &mut paths);
        }
        paths.extend(Some(library.join(format!("{room}.rs"))).filter(|path| path.exists()));
        for path in paths {
            let file = path.strip_prefix(&library).expect("below it").display().to_string();
            let text = fs::read_to_string(&path).expect("a text");
            mutants.extend(places::mutants_of(room, &file, &text));
            files.push((file, text));
        }
    }
    number_namesakes(&mut mutants);
    let text_of = |file: &str| {
        let file = files.iter().find(|(name, _)| name == file);
        file.unwrap_or_else(|| panic!("named.txt: no such file")).1.clone()
    };
    let list = fs::read_to_string(root.join(HERE).join("named.txt")).expect("named.txt");
    mutants.extend(places::named(&list, text_of));
    (files, mutants)
}

/// The same change may be possible twice in a function.
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

/// As many of each room: those of the lowest rank by the seed, so that a change of the library changes
/// little of what is drawn. And those that have a name.
fn draw(mutants: &[Mutant], options: &Options) -> Vec<Mutant> {
    if !options.only.is_empty() {
        let chosen =
            |mutant: &&Mutant| options.only.iter().any(|part| mutant.name().contains(part));
        return mutants.iter().filter(chosen).cloned().collect();
    }
    let mut drawn = Vec::new();
    for (at, room) in ROOMS.iter().enumerate() {
        let mut of_room: Vec<_> = mutants.iter().filter(|mutant| mutant.room == *room).collect();
        let share = options.count * (at + 1) / ROOMS.len() - options.count * at / ROOMS.len();
        of_room.sort_by_key(|mutant| rank(options.seed, &mutant.name()));
        drawn.extend(of_room.into_iter().take(share).cloned());
    }
    drawn.extend(mutants.iter().filter(|mutant| mutant.room == "named").cloned());
    drawn
}

/// Chance by a seed and a name: FNV-1a, and the last step of splitmix64.
fn rank(seed: u64, name: &str) -> u64 {
    let mut z = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        z = (z ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What became of each, by its name.
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

/// Tests each of them; what is known is kept in a file all the while.
fn test_all(
    copy: &Copy,
    work: &Path,
    mutants: &BTreeMap<u32, Mutant>,
    results: &mut Results,
    program: bool,
) {
    let binaries = copy.build();
    println!("{} binaries; now each test by itself", binaries.len());
    let tests = tests::look(&copy.root, work, &binaries);
    println!("{} tests are green", tests.len());
    let todo: Vec<_> = mutants.iter().collect();
    let results = Mutex::new(results);
    tests::side_by_side(&todo, |(id, mutant)| {
        let by = match tests::try_one(&copy.root, **id, &tests) {
            Outcome::Killed(by) => Some(by),
            Outcome::Alive if program => copy.rest(**id),
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

/// The section of `docs/mutants.md`.
fn section(drawn: &[Mutant], results: &Results, reasons: &Results, options: &Options) -> String {
    let of = |mutant: &&Mutant, result: &str| results[&mutant.name()].starts_with(result);
    let mut text = String::from(
        "| folder | drawn | not viable | killed | alive |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut row = |name: &str, mutants: &[&Mutant]| {
        let count = |result: &str| mutants.iter().filter(|mutant| of(mutant, result)).count();
        let (not, killed, alive) = (count("not viable"), count("killed"), count("alive"));
        text += &format!("| {name} | {} | {not} | {killed} | {alive} |\n", mutants.len());
    };
    for room in ROOMS {
        let within: Vec<_> = drawn.iter().filter(|mutant| mutant.room == room).collect();
        row(&format!("`{room}`"), &within);
    }
    let by_seed: Vec<_> = drawn.iter().filter(|mutant| mutant.room != "named").collect();
    row("all", &by_seed);
    let head = format!(
        "Seed {}, {} drawn: `run.sh --seed {} --count {}`.\n\n",
        options.seed,
        by_seed.len(),
        options.seed,
        options.count
    );
    text += "\n| file | function | the mutant that lives | why |\n| --- | --- | --- | --- |\n";
    for mutant in drawn.iter().filter(|mutant| of(mutant, "alive")) {
        let reason = reasons.get(&mutant.name());
        let reason = reason.unwrap_or_else(|| panic!("no line in reasons.txt: {}", mutant.name()));
        let what = mutant.what.replace('|', "\\|");
        text += &format!("| `{}` | `{}` | {what} | {reason} |\n", mutant.file, mutant.function);
    }
    text += "\nWhatever the seed, these are among them (`named.txt`):\n\n| file | the mutant | what noticed it |\n| --- | --- | --- |\n";
    for mutant in drawn.iter().filter(|mutant| mutant.room == "named") {
        let by = results[&mutant.name()].strip_prefix("killed by ");
        let by = by.unwrap_or_else(|| panic!("it has to be killed: {}", mutant.name()));
        text += &format!("| `{}` | {} | {by} |\n", mutant.file, mutant.what);
    }
    head + &text
}

fn write_section(root: &Path, section: &str) {
    let path = root.join("docs/mutants.md");
    let text = fs::read_to_string(&path).expect("the document");
    let (begin, end) = ("<!-- mutants: begin", "<!-- mutants: end -->");
    let from = text.find(begin).expect("the section");
    let from = from + text[from..].find('\n').expect("a line") + 1;
    let to = text.find(end).expect("its end");
    let text = format!("{}\n{section}\n{}", &text[..from], &text[to..]);
    fs::write(path, text).expect("written");
}

fn main() {
    let options = options();
    let root = std::env::current_dir().expect("a folder");
    let work = PathBuf::from(std::env::var_os("WORK").expect("run.sh sets it"));
    let (files, mutants) = everything(&root);
    let drawn = draw(&mutants, &options);
    if options.list {
        for mutant in &drawn {
            println!("{} ({})", mutant.name(), mutant.line);
        }
        return println!("{} of {}", drawn.len(), mutants.len());
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
        test_all(&copy, &work, &todo, &mut results, options.program);
    }
    let names: BTreeSet<_> = drawn.iter().map(Mutant::name).collect();
    let count = |result: &str| {
        results.iter().filter(|(name, is)| names.contains(*name) && is.starts_with(result)).count()
    };
    let (not, killed, alive) = (count("not viable"), count("killed"), count("alive"));
    println!("{killed} killed, {alive} alive, {not} not viable");
    if options.write {
        let reasons = read_results(&root.join(HERE).join("reasons.txt"));
        write_section(&root, &section(&drawn, &results, &reasons, &options));
    }
}
