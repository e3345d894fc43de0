//! The copy of the library: all drawn mutants in it at once, those taken out that do not compile, and
//! the test binaries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::places::{CHOSEN, Mutant};

/// The tests that are run. `defer_allocations` counts those of this tool too, and `twisted` needs Twisted.
const TARGETS: [&str; 8] =
    ["--lib", "it", "door", "framing_memory", "memory", "signals", "public_api", "datagrams"];

pub struct Copy {
    pub root: PathBuf,
    /// The files that are mutated, as they were.
    originals: BTreeMap<String, String>,
}

/// Where the insertions of a mutant lie in the new text: its first one, and all of it.
struct Place {
    id: u32,
    before: (usize, usize),
    whole: (usize, usize),
}

/// The new texts of the files, by name.
type Written = BTreeMap<String, (String, Vec<Place>)>;

impl Copy {
    /// Copies what git knows of the working tree, uncommitted changes included.
    pub fn new(root: PathBuf, mutated: &[(String, String)]) -> Copy {
        let script = "find \"$1\" -mindepth 1 -maxdepth 1 -exec rm -rf {} + \
            && git ls-files -z --cached --others --exclude-standard | sort -zu \
            | tar --null --ignore-failed-read -T - -cf - 2>/dev/null | tar -xf - -C \"$1\"";
        fs::create_dir_all(&root).expect("a folder for the copy");
        let copied = Command::new("bash").args(["-c", script, "copy"]).arg(&root).status();
        assert!(copied.is_ok_and(|status| status.success()), "the tree can be copied");
        let library = root.join("crates/couplet");
        fs::write(library.join("src/mutants.rs"), include_str!("mutants.rs")).expect("written");
        append(&library.join("src/lib.rs"), "mod mutants;\n");
        for file in ["door", "public_api"] {
            let line = "#[path = \"../src/mutants.rs\"]\nmod mutants;\n";
            append(&library.join(format!("tests/{file}.rs")), line);
        }
        Copy { root, originals: mutated.iter().cloned().collect() }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(arguments).current_dir(&self.root).env("RUSTFLAGS", "-Awarnings");
        cargo.stdin(Stdio::null());
        cargo
    }

    /// Writes the mutants into the files; where each lies.
    fn write(&self, mutants: &BTreeMap<u32, Mutant>) -> Written {
        let mut written = BTreeMap::new();
        for (file, original) in &self.originals {
            let within: Vec<_> =
                mutants.iter().filter(|(_, mutant)| mutant.file == *file).collect();
            let (text, places) = insert(original, &within);
            let path = self.root.join("crates/couplet/src").join(file);
            if fs::read_to_string(&path).is_ok_and(|old| old != text) {
                fs::write(&path, &text).expect("written");
            }
            written.insert(file.clone(), (text, places));
        }
        written
    }

    /// The mutants in their places, and rustc's errors.
    fn check(&self, mutants: &BTreeMap<u32, Mutant>) -> (Written, Vec<String>) {
        let written = self.write(mutants);
        let arguments = ["check", "-p", "couplet", "--message-format", "short"];
        let output = self.cargo(&arguments).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors = said.lines().filter(|line| line.contains(": error")).map(str::to_owned);
        let errors: Vec<_> = errors.collect();
        assert_eq!(output.status.success(), errors.is_empty(), "{said}");
        (written, errors)
    }

    /// Takes out those that do not compile, and gives their ids.
    pub fn make_compile(&self, mutants: &mut BTreeMap<u32, Mutant>) -> BTreeSet<u32> {
        let mut not_viable = BTreeSet::new();
        loop {
            let (written, errors) = self.check(mutants);
            let Some(first) = errors.first() else { return not_viable };
            let mut guilty: BTreeSet<u32> =
                errors.iter().filter_map(|line| guilty(line, &written)).collect();
            if guilty.is_empty() {
                // What is left out here may be missed there.
                let suspects = suspects(first, &written);
                let acquits = |id: &u32| {
                    let mut others = mutants.clone();
                    others.remove(id);
                    self.check(&others).1.contains(first)
                };
                let found = suspects.into_iter().find(|id| !acquits(id));
                guilty.insert(found.unwrap_or_else(|| panic!("outside of all mutants: {first}")));
            }
            println!("{} do not compile", guilty.len());
            mutants.retain(|id, _| !guilty.contains(id));
            not_viable.extend(guilty);
        }
    }

    /// Builds the tests; the binaries.
    pub fn build(&self) -> Vec<PathBuf> {
        let mut arguments = vec!["test", "-p", "couplet", "--no-run"];
        for target in TARGETS {
            if !target.starts_with("--") {
                arguments.push("--test");
            }
            arguments.push(target);
        }
        // Some tests run the examples.
        let examples = self.cargo(&["build", "-q", "-p", "couplet", "--examples"]).status();
        assert!(examples.is_ok_and(|status| status.success()), "the examples can be built");
        let output = self.cargo(&arguments).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the mutants compile and the tests do not:\n{said}");
        let binary = |line: &str| {
            let line = line.trim();
            let path = line.strip_prefix("Executable ")?.rsplit_once('(')?.1.trim_end_matches(')');
            (!path.contains("/examples/")).then(|| PathBuf::from(path))
        };
        said.lines().filter_map(binary).collect()
    }

    /// What else there is, for those that live: the program's tests, and its worlds. What noticed
    /// the mutant.
    pub fn rest(&self, id: u32) -> Option<String> {
        let rest: [(&str, &[&str]); 2] = [
            ("a test of the program", &["test", "-q", "-p", "couplet-cli"]),
            (
                "`couplet sim poetry`",
                &["run", "-q", "-p", "couplet-cli", "sim", "poetry", "--seeds", "1..9"],
            ),
        ];
        let noticed = |(_, arguments): &(&str, &[&str])| {
            let mut timed = Command::new("timeout");
            timed.args(["-k", "1", "600", "cargo"]).args(*arguments).current_dir(&self.root);
            timed.env("RUSTFLAGS", "-Awarnings").env("COUPLET_MUTANT", id.to_string());
            let output = timed.stdin(Stdio::null()).output().expect("cargo runs");
            !output.status.success()
        };
        rest.into_iter().find(noticed).map(|(name, _)| name.to_owned())
    }
}

fn append(path: &Path, line: &str) {
    let text = fs::read_to_string(path).expect("a file of the copy");
    // In front of unit tests and after inner attributes: at the end.
    fs::write(path, format!("{text}\n{line}")).expect("written");
}

/// The text with all insertions. Ranges lie one inside of another or apart.
fn insert(original: &str, mutants: &[(&u32, &Mutant)]) -> (String, Vec<Place>) {
    // At a position: ends, the innermost first; then beginnings, the outermost first.
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

/// Where an error lies, in the new text of a file.
fn place_of<'a>(line: &str, written: &'a Written) -> Option<(usize, &'a [Place])> {
    let mut place = line.split(": ").next()?.rsplitn(3, ':');
    let column: usize = place.next()?.parse().ok()?;
    let line_number: usize = place.next()?.parse().ok()?;
    let file = place.next()?.strip_prefix("crates/couplet/src/")?;
    let (text, places) = written.get(file)?;
    let line_start: usize = text.split_inclusive('\n').take(line_number - 1).map(str::len).sum();
    let columns: usize = text[line_start..].chars().take(column - 1).map(char::len_utf8).sum();
    Some((line_start + columns, places))
}

/// The mutant in which an error lies.
fn guilty(line: &str, written: &Written) -> Option<u32> {
    let (at, places) = place_of(line, written)?;
    let size = |(from, to): (usize, usize)| to - from;
    let holds = |(from, to): (usize, usize)| from <= at && at < to;
    let before = places.iter().filter(|place| holds(place.before));
    let whole = places.iter().filter(|place| holds(place.whole));
    let guilty = before.min_by_key(|place| size(place.before));
    guilty.or_else(|| whole.min_by_key(|place| size(place.whole))).map(|place| place.id)
}

/// The mutants of a file in which an error lies, the nearest first.
fn suspects(line: &str, written: &Written) -> Vec<u32> {
    let Some((at, places)) = place_of(line, written) else { return Vec::new() };
    let mut suspects: Vec<_> =
        places.iter().map(|place| (place.whole.0.abs_diff(at), place.id)).collect();
    suspects.sort();
    suspects.into_iter().map(|(_, id)| id).collect()
}
