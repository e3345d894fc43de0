//! The copy of the library with all drawn mutants: removes mutants that do not compile, and builds
//! the test binaries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::places::{CHOSEN, Mutant};
use crate::rooms::{Crate, PROGRAM};

/// All of the library's features but the replacement of the system's clock, which some of its tests
/// read.
const FEATURES: [&str; 12] = [
    "-p",
    "couplet",
    "-p",
    "couplet-core",
    "-p",
    "couplet-defer",
    "-p",
    "couplet-http",
    "-p",
    "couplet-sim",
    "--features",
    "couplet/sim-tokio,couplet-core/tokio-io,couplet-http/decompression,couplet-http/tls,\
     couplet-http/tokio,couplet-http/websocket",
];
/// The program, and the crates below it that are tested with it.
const PROGRAM_PACKAGES: [&str; 8] =
    ["-p", "couplet-cli", "-p", "couplet-command", "-p", "couplet-runner", "-p", "couplet-servers"];
const PYTHON: [&str; 2] = ["--manifest-path", "python/Cargo.toml"];
/// The stages of Python's tests, shortest first.
const STAGES: [&str; 3] = ["receivers", "builder", "own"];

pub struct Copy {
    pub root: PathBuf,
    /// The original texts of the mutated files.
    originals: BTreeMap<String, String>,
}

/// The positions of a mutant's insertions in the new text: the first insertion, and the whole
/// range.
struct Place {
    id: u32,
    before: (usize, usize),
    whole: (usize, usize),
}

/// The new texts of the files, by name.
type Written = BTreeMap<String, (String, Vec<Place>)>;

/// The path of a mutated file in the copy.
fn path_of(root: &Path, file: &str) -> PathBuf {
    let (of, path) = Crate::of(file);
    root.join(of.sources()).join(path)
}

impl Copy {
    /// Copies the working tree, uncommitted changes included, without ignored files.
    pub fn new(root: PathBuf, mutated: &[(String, String)]) -> Copy {
        let script = "find \"$1\" -mindepth 1 -maxdepth 1 -exec rm -rf {} + \
            && git ls-files -z --cached --others --exclude-standard | sort -zu \
            | tar --null --ignore-failed-read -T - -cf - 2>/dev/null | tar -xf - -C \"$1\"";
        fs::create_dir_all(&root).expect("a folder for the copy");
        let copied = Command::new("bash").args(["-c", script, "copy"]).arg(&root).status();
        assert!(copied.is_ok_and(|status| status.success()), "the tree can be copied");
        let library = root.join("crates/couplet-core");
        for of in Crate::ALL {
            let sources = root.join(of.sources());
            fs::write(sources.join("mutants.rs"), include_str!("mutants.rs")).expect("written");
            append(&sources.join("lib.rs"), "mod mutants;\n");
        }
        for file in ["inbox", "public_api"] {
            let line = "#[path = \"../src/mutants.rs\"]\nmod mutants;\n";
            append(&library.join(format!("tests/{file}.rs")), line);
        }
        let read = |file: &String| {
            let text = fs::read_to_string(path_of(&root, file)).expect("it was copied");
            (file.clone(), text)
        };
        let originals = mutated.iter().map(|(file, _)| read(file)).collect();
        Copy { root, originals }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        cargo
    }

    /// Writes the mutants into the files; returns their positions.
    fn write(&self, mutants: &BTreeMap<u32, Mutant>) -> Written {
        let mut written = BTreeMap::new();
        for (file, original) in &self.originals {
            let within: Vec<_> =
                mutants.iter().filter(|(_, mutant)| mutant.file == *file).collect();
            let (text, places) = insert(original, &within);
            let path = path_of(&self.root, file);
            if fs::read_to_string(&path).is_ok_and(|old| old != text) {
                fs::write(&path, &text).expect("written");
            }
            written.insert(file.clone(), (text, places));
        }
        written
    }

    /// Writes the mutants and compiles; returns their positions and rustc's errors.
    fn check(&self, mutants: &BTreeMap<u32, Mutant>) -> (Written, Vec<String>) {
        let written = self.write(mutants);
        let mut errors = Vec::new();
        let packages = |mutant: &Mutant| match Crate::of(&mutant.file).0 {
            Crate::Python => PYTHON.to_vec(),
            of if of.is_of_program() => PROGRAM_PACKAGES.to_vec(),
            of => of.selection().unwrap_or(FEATURES.to_vec()),
        };
        let packages: BTreeSet<_> = mutants.values().map(packages).collect();
        for of in packages {
            let arguments = [&["check", "--message-format", "short"], &of[..]].concat();
            let output = self.cargo(&arguments).output().expect("cargo runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let found = said.lines().filter(|line| line.contains(": error"));
            // Errors in the Python crate have paths relative to its workspace.
            let found: Vec<_> = found
                .map(|line| match line.starts_with("src/") {
                    true => format!("python/{line}"),
                    false => line.to_owned(),
                })
                .collect();
            assert_eq!(output.status.success(), found.is_empty(), "{said}");
            errors.extend(found);
        }
        (written, errors)
    }

    /// Removes mutants that do not compile, and returns their ids.
    pub fn make_compile(&self, mutants: &mut BTreeMap<u32, Mutant>) -> BTreeSet<u32> {
        let mut not_viable = BTreeSet::new();
        loop {
            let (written, errors) = self.check(mutants);
            let Some(first) = errors.first() else { return not_viable };
            let mut guilty: BTreeSet<u32> =
                errors.iter().filter_map(|line| guilty(line, &written)).collect();
            if guilty.is_empty() {
                // A mutant that leaves out code may cause an error outside its own range.
                let suspects = suspects(first, &written);
                let acquits = |id: &u32| {
                    let mut others = mutants.clone();
                    others.remove(id);
                    self.check(&others).1.contains(first)
                };
                let found = suspects.into_iter().find(|id| !acquits(id));
                guilty.insert(found.unwrap_or_else(|| panic!("outside of all mutants: {first}")));
            }
            println!("{} do not compile, such as {first}", guilty.len());
            mutants.retain(|id, _| !guilty.contains(id));
            not_viable.extend(guilty);
        }
    }

    /// Builds the tests; returns their names and binaries.
    pub fn build(&self, targets: &BTreeSet<&'static str>) -> Vec<(&'static str, PathBuf)> {
        let packages = || Crate::ALL.into_iter().filter_map(Crate::guest);
        let (program, others): (Vec<&str>, Vec<&str>) =
            targets.iter().partition(|target| target.starts_with("program "));
        let (guests, library): (Vec<&str>, Vec<&str>) =
            others.iter().partition(|target| packages().any(|package| target.starts_with(package)));
        let mut built = Vec::new();
        let selections =
            Crate::ALL.into_iter().filter_map(|of| Some((of.guest()?, of.selection()?)));
        for (package, selection) in selections {
            let tests: Vec<(&str, &str)> = guests
                .iter()
                .filter_map(|target| Some((*target, target.strip_prefix(package)?.trim_start())))
                .collect();
            if tests.is_empty() {
                continue;
            }
            let mut arguments = [&selection[..], &["--lib"]].concat();
            for (_, test) in tests.iter().filter(|(_, test)| *test != "--lib") {
                arguments.extend(["--test", test]);
            }
            let said = self.build_tests(&arguments);
            let unit = format!("--lib {}", package.replace('-', "_"));
            for (target, test) in tests {
                let name = if test == "--lib" { &unit } else { test };
                built.push((target, library_binary(&said, name)));
            }
        }
        if !library.is_empty() {
            let mut arguments = [&["--lib"], &FEATURES[..]].concat();
            for target in library.iter().filter(|target| !target.starts_with("--")) {
                arguments.extend(["--test", target]);
            }
            let said = self.build_tests(&arguments);
            built.extend(library.iter().map(|target| (*target, library_binary(&said, target))));
        }
        if !program.is_empty() {
            let said = self.build_tests(&PROGRAM_PACKAGES);
            let of = PROGRAM.map(|(target, (source, name))| {
                (target, executable(&said, |it| it.starts_with(source) && it.contains(name)))
            });
            built.extend(of);
        }
        built
    }

    /// Builds the tests of some packages; returns what cargo said.
    fn build_tests(&self, of: &[&str]) -> String {
        let output =
            self.cargo(&[&["test", "--no-run"], of].concat()).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "the mutants compile and the tests do not:\n{said}");
        said
    }

    /// Runs the tests of Python's package with a mutant of its native half; returns the stage that
    /// fails.
    pub fn python(&self, id: u32) -> Option<String> {
        let notices = |stage: &&&str| {
            let mut run = Command::new("timeout");
            run.args(["-k", "1", "300", "python/tests/run", stage]).current_dir(&self.root);
            run.env("COUPLET_MUTANT", id.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
            !run.status().expect("Python runs").success()
        };
        STAGES.iter().find(notices).map(|stage| format!("Python's `{stage}`"))
    }

    /// For a mutant that survives: runs the program's tests and its worlds; returns the name of the
    /// first that fails.
    pub fn rest(&self, id: u32) -> Option<String> {
        let rest = [
            ("a test of the program", "test -q -p couplet-cli"),
            ("`couplet sim poetry`", "run -q -p couplet-cli -F sim sim poetry --seeds 1..9"),
        ];
        let noticed = |(_, arguments): &(&str, &str)| {
            let mut timed = Command::new("timeout");
            timed
                .args(["-k", "1", "600", "cargo"])
                .args(arguments.split(' '))
                .current_dir(&self.root);
            timed.env("COUPLET_MUTANT", id.to_string());
            let output = timed.stdin(Stdio::null()).output().expect("cargo runs");
            !output.status.success()
        };
        rest.into_iter().find(noticed).map(|(name, _)| name.to_owned())
    }
}

/// The binary that cargo built from a source that meets a condition.
fn executable(said: &str, is_its: impl Fn(&str) -> bool) -> PathBuf {
    let mut sources = said.lines().filter_map(|line| line.trim().strip_prefix("Executable "));
    let line = sources.find(|rest| is_its(rest)).unwrap_or_else(|| panic!("not built:\n{said}"));
    PathBuf::from(line.rsplit_once('(').expect("its path").1.trim_end_matches(')'))
}

fn library_binary(said: &str, target: &str) -> PathBuf {
    match target.strip_prefix("--lib ") {
        Some(name) => {
            let file = format!("/{name}-");
            executable(said, |it| it.starts_with("unittests src/lib.rs ") && it.contains(&file))
        }
        None => executable(said, |it| {
            let ends = ["(", ".rs ", "/main.rs "];
            let rest = it.strip_prefix("tests/").and_then(|rest| rest.strip_prefix(target));
            rest.is_some_and(|rest| ends.iter().any(|end| rest.starts_with(end)))
        }),
    }
}

fn append(path: &Path, line: &str) {
    let text = fs::read_to_string(path).expect("a file of the copy");
    // Appended, because the file may begin with inner attributes.
    fs::write(path, format!("{text}\n{line}")).expect("written");
}

/// Inserts all edits into the text. Their ranges are nested or disjoint.
fn insert(original: &str, mutants: &[(&u32, &Mutant)]) -> (String, Vec<Place>) {
    // At one position: ends first, from the innermost outwards; then beginnings, from the outermost
    // inwards.
    let mut steps = Vec::new();
    let edits =
        mutants.iter().flat_map(|(id, mutant)| mutant.edits.iter().map(|edit| (**id, edit)));
    let edits: Vec<_> = edits.collect();
    for (order, (_, edit)) in edits.iter().enumerate() {
        let (start, end, nth) = (edit.start as isize, edit.end as isize, order as isize);
        steps.push((start, 1, -end, nth, order));
        if start < end {
            steps.push((end, 0, -start, -nth, order));
        }
    }
    steps.sort();
    let mut text = String::new();
    let mut copied = 0;
    let mut places: BTreeMap<usize, Place> = BTreeMap::new();
    for (at, begins, .., order) in steps {
        text.push_str(&original[copied..at as usize]);
        copied = at as usize;
        let (id, edit) = edits[order];
        let from = text.len();
        let inserted = if begins == 1 { &edit.before } else { &edit.after };
        text.push_str(&inserted.replace(CHOSEN, &format!("crate::mutants::on({id})")));
        let here = (from, text.len());
        places.entry(order).or_insert(Place { id, before: here, whole: here }).whole.1 = here.1;
    }
    text.push_str(&original[copied..]);
    (text, places.into_values().collect())
}

/// The position of an error in the new text of a file.
fn place_of<'a>(line: &str, written: &'a Written) -> Option<(usize, &'a [Place])> {
    let mut place = line.split(": ").next()?.rsplitn(3, ':');
    let column: usize = place.next()?.parse().ok()?;
    let line_number: usize = place.next()?.parse().ok()?;
    let path = place.next()?;
    let in_crate = |of: &Crate| Some((*of, path.strip_prefix(of.sources())?.strip_prefix('/')?));
    let (of, path) = Crate::ALL.iter().find_map(in_crate)?;
    let (text, places) = written.get(&format!("{}{path}", of.prefix()))?;
    let line_start: usize = text.split_inclusive('\n').take(line_number - 1).map(str::len).sum();
    let columns: usize = text[line_start..].chars().take(column - 1).map(char::len_utf8).sum();
    Some((line_start + columns, places))
}

/// The mutant that contains an error.
fn guilty(line: &str, written: &Written) -> Option<u32> {
    let (at, places) = place_of(line, written)?;
    let size = |(from, to): (usize, usize)| to - from;
    let holds = |(from, to): (usize, usize)| from <= at && at < to;
    let before = places.iter().filter(|place| holds(place.before));
    let whole = places.iter().filter(|place| holds(place.whole));
    let guilty = before.min_by_key(|place| size(place.before));
    guilty.or_else(|| whole.min_by_key(|place| size(place.whole))).map(|place| place.id)
}

/// The mutants in an error's file, nearest first.
fn suspects(line: &str, written: &Written) -> Vec<u32> {
    let Some((at, places)) = place_of(line, written) else { return Vec::new() };
    let mut suspects: Vec<_> =
        places.iter().map(|place| (place.whole.0.abs_diff(at), place.id)).collect();
    suspects.sort();
    suspects.into_iter().map(|(_, id)| id).collect()
}
