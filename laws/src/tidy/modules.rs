//! The modules of the library with their imports: where a path leads, through re-exports.

use std::collections::{BTreeMap, BTreeSet};

use super::source::Code;

/// A path, by segments.
type Path = Vec<String>;

/// The imports of each module: local names and full paths.
pub(super) struct Modules(BTreeMap<Path, BTreeMap<String, Path>>);

impl Modules {
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a Code>) -> Modules {
        let mut modules: BTreeMap<Path, BTreeMap<String, Path>> = BTreeMap::new();
        for file in files {
            for (module, imports) in &file.imports {
                modules.entry(module.clone()).or_default().extend(imports.clone());
            }
        }
        Modules(modules)
    }

    pub(super) fn has(&self, module: &[String]) -> bool {
        self.0.contains_key(module)
    }

    /// An absolute path, followed by the paths that it re-exports, one after another.
    pub(super) fn steps(&self, path: &[String]) -> Vec<Vec<String>> {
        let mut steps = vec![path.to_vec()];
        while steps.len() < 8 {
            let Some(next) = self.step(&steps[steps.len() - 1]) else { break };
            steps.push(next);
        }
        steps
    }

    /// Follows one re-export; `None` at the definition.
    fn step(&self, path: &[String]) -> Option<Path> {
        let inside = path.strip_prefix(&["crate".to_owned()])?;
        let at = (0..inside.len()).rev().find(|at| self.has(&inside[..*at]))?;
        let (module, imports) = self.0.get_key_value(&inside[..at])?;
        let mut whole = imports.get(&inside[at])?.clone();
        let child = [&module[..], &whole[..1]].concat();
        if whole[0] != "crate" && self.has(&child) {
            // `pub use defer::Deferred` at the root is relative to it.
            whole = below_root(&child, &whole[1..]);
        } else if let Some(before) = imports.get(&whole[0]).filter(|_| whole.len() > 1) {
            // `use std::io; pub use io::Error;`
            whole = [before, &whole[1..]].concat();
        }
        Some([&whole, &inside[at + 1..]].concat())
    }

    /// The paths outside of the library that a path of a file may stand for, through imports, aliases
    /// and re-exports. A name that is imported twice, in two scopes, stands for both.
    pub(super) fn outside(&self, file: &Code, path: &[String]) -> BTreeSet<Path> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut left = vec![path.to_vec()];
        while let Some(path) = left.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let (first, rest) = (&path[0], &path[1..]);
            let aliases = file.aliases.iter().filter(|(name, to)| name == first && to[0] != *first);
            let aliases = aliases.map(|(_, to)| [to, rest].concat());
            // Of a module below the file, or inside it.
            let child = [&file.module[..], &path[..1]].concat();
            let inner = file.imports.keys().filter(|module| **module != file.module);
            let inner = inner.filter(|module| module.last() == Some(first));
            let modules = inner.chain(self.has(&child).then_some(&child));
            let local = aliases.chain(modules.map(|module| below_root(module, rest)));
            let before = left.len();
            left.extend(local);
            let is_local = left.len() > before;
            match first.as_str() {
                "" => drop(found.insert(standard(rest))),
                "crate" => left.extend(self.step(&path)),
                "super" | "self" | "Self" => {}
                "print" | "println" | "eprint" | "eprintln" | "include" if rest.is_empty() => {
                    found.insert(vec!["std".to_owned(), first.clone()]);
                }
                "alloc" | "core" | "std" => drop(found.insert(standard(&path))),
                _ if rest.is_empty() || is_local || is_type(first) => {}
                _ => drop(found.insert(path)),
            }
        }
        found
    }
}

/// True for a path at or below another one, as text.
pub(super) fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn below_root(module: &[String], rest: &[String]) -> Path {
    [&["crate".to_owned()], module, rest].concat()
}

/// True for the name of a type, or `*` for a parameter of a macro, as opposed to a crate.
fn is_type(name: &str) -> bool {
    const PRIMITIVES: &str =
        " bool char f32 f64 i128 i16 i32 i64 i8 isize str u128 u16 u32 u64 u8 usize ";
    name.starts_with(|c: char| c.is_uppercase() || c == '*')
        || PRIMITIVES.contains(&format!(" {name} "))
}

/// A path into another crate; `core` and `alloc` are parts of `std`.
fn standard(path: &[String]) -> Path {
    let own = matches!(path[0].as_str(), "alloc" | "core");
    let first = if own { "std".to_owned() } else { path[0].clone() };
    std::iter::once(first).chain(path[1..].iter().cloned()).collect()
}
