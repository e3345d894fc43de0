//! The files of the last release, by git: the newest tag `v…` behind the current commit or, before the
//! first release, the commit in `changes/base`.

use std::io::Write;
use std::process::{Command, Stdio};

use super::source::{Source, read, root};

/// The file that names a commit as long as there is no release.
pub(super) const BASE: &str = "changes/base";

/// A commit whose files can be read.
pub(super) struct Release(String);

impl Release {
    /// The last one.
    ///
    /// # Errors
    ///
    /// The reason why its files cannot be read, in a clone without history or outside of a repository.
    pub(super) fn last() -> Result<Release, String> {
        let name = match git(&["describe", "--tags", "--abbrev=0", "--match", "v*"]) {
            Ok(tag) => tag.trim().to_owned(),
            Err(_) => named_in(&read(BASE)).to_owned(),
        };
        match git(&["cat-file", "-e", &format!("{name}^{{commit}}")]) {
            Ok(_) => Ok(Release(name)),
            Err(error) => Err(format!(
                "{name} cannot be read; `git fetch --unshallow --tags` fetches it: {error}"
            )),
        }
    }

    /// The files below a folder that end with one of some endings.
    pub(super) fn files(&self, folder: &str, endings: &[&str]) -> Vec<Source> {
        let listed = git(&["ls-tree", "-r", "--name-only", &self.0, "--", folder]);
        let listed = listed.expect("the commit can be read");
        let paths: Vec<&str> = listed
            .lines()
            .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
            .collect();
        let texts = contents(paths.iter().map(|path| format!("{}:{path}\n", self.0)).collect());
        let source = |(path, text): (&str, String)| Source { path: path.to_owned(), text };
        paths.into_iter().zip(texts).map(source).collect()
    }
}

/// The commit in the file, whose other lines are comments.
fn named_in(text: &str) -> &str {
    text.lines().find(|line| !line.starts_with('#')).unwrap_or_default().trim()
}

/// Runs git in the workspace.
fn git(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git").arg("-C").arg(root()).args(arguments).output();
    let output = output.map_err(|error| format!("cannot run git: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// The contents of objects, whose names are in lines, by one process.
fn contents(names: String) -> Vec<String> {
    let mut git = Command::new("git")
        .arg("-C")
        .arg(root())
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git runs");
    let mut input = git.stdin.take().expect("a pipe");
    // On a thread: git blocks while its answers are not read.
    let writes = std::thread::spawn(move || input.write_all(names.as_bytes()));
    let output = git.wait_with_output().expect("git's answers").stdout;
    writes.join().expect("no panic").expect("git reads the names");
    let (mut left, mut found) = (&output[..], Vec::new());
    // A line with the size, the contents, and the end of a line.
    while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&left[..end]);
        let size = head.rsplit(' ').next().and_then(|size| size.parse::<usize>().ok());
        let size = size.unwrap_or_else(|| panic!("git cannot read a file: {head}"));
        let text = &left[end + 1..end + 1 + size];
        found.push(String::from_utf8_lossy(text).into_owned());
        left = &left[end + 2 + size..];
    }
    found
}

#[test]
fn a_base_is_the_first_line_that_is_no_comment() {
    assert_eq!(named_in("# The base.\n7f91c4c4\n"), "7f91c4c4");
    assert_eq!(named_in(""), "");
}
